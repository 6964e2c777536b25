"""RDED's images (arXiv 2312.03526): mosaics of the crops that look most real to the teacher."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.data import Examples, Normalisation, batches
from delt_jax.recipe import SelectRecipe
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

_MIN_SCALE = 0.08  # smallest area of a crop
_SQUARE = (1.0, 1.0)  # aspect ratios, from and to
_LARGE = 128  # px from which on RDED puts four patches into an image
_RENDERED = 128  # patches at a time


@dataclass(frozen=True)
class Patches:
    """Crops of training images, for every class the best first.

    Attributes:
      images: int [classes, n], indices of training images.
      boxes: int32 [classes, n, 4], top, left, height, width.
      cross_entropy: float32 [classes, n], the teacher's, ascending.
    """

    images: np.ndarray
    boxes: np.ndarray
    cross_entropy: np.ndarray


def factor_of(recipe: SelectRecipe, image_size: int) -> int:
    """Patches along a side of a mosaic: as set, or as RDED's for this size."""
    return recipe.mosaic or (2 if image_size >= _LARGE and image_size % 2 == 0 else 1)


def candidates(labels: np.ndarray, per_class: int, classes: int, seed: int) -> np.ndarray:
    """Draws images of each class, all where there are fewer.

    Returns:
      int [N], indices class by class, ascending within each.
    """
    draws = np.asarray(jax.random.uniform(keys.stream(seed, "mosaic images"), (len(labels),)))
    chosen = []
    for c in range(classes):
        members = np.flatnonzero(labels == c)
        first = np.argsort(draws[members], kind="stable")[:per_class]
        chosen.append(np.sort(members[first]))
    return np.concatenate(chosen)


def random_boxes(key: chex.PRNGKey, size: int, count: int) -> chex.Array:
    """Square boxes int32 [count, 4] of 8 to 100 % of a size x size image's area."""

    def box(i):
        return crop.random_box(jax.random.fold_in(key, i), (size, size), _MIN_SCALE, _SQUARE)

    return jax.vmap(box)(jnp.arange(count))


def patches_of(images: chex.Array, boxes: chex.Array, side: int) -> chex.Array:
    """Crops brought to side x side; images [n, S, S, C], boxes int32 [n, 4]."""
    still = jnp.zeros((len(boxes), 2), jnp.int32)
    view = crop.View(boxes, jnp.zeros(len(boxes), bool), still)
    return crop.view_images(images, view, side)


def centred(patches: chex.Array, size: int) -> chex.Array:
    """Patches [n, p, p, C] amid zeros [n, size, size, C]; one more after than before if odd."""
    before = (size - patches.shape[1]) // 2
    around = (before, size - patches.shape[1] - before)
    return jnp.pad(patches, ((0, 0), around, around, (0, 0)))


def best_crops(
    images: chex.Array,
    labels: chex.Array,
    boxes: chex.Array,
    side: int,
    teacher: Callable[[chex.Array], chex.Array],
) -> tuple[chex.Array, chex.Array]:
    """The crop of each image that the teacher finds most like its class.

    Args:
      images: normalised float32 [n, S, S, C].
      labels: int [n].
      boxes: int32 [n, crops, 4].
      side: of a patch; the teacher sees it amid zeros, which are the mean colour.
      teacher: logits [m, classes] of normalised images [m, S, S, C].

    Returns:
      Boxes int32 [n, 4] and the teacher's cross-entropies float32 [n]; the first of equal ones.
    """
    count, crops = boxes.shape[:2]
    patches = patches_of(jnp.repeat(images, crops, axis=0), boxes.reshape(-1, 4), side)
    logits = teacher(centred(patches, images.shape[1])).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.repeat(labels, crops))
    losses = losses.reshape(count, crops)
    best, rows = losses.argmin(axis=1), jnp.arange(count)
    return boxes[rows, best], losses[rows, best]


@functools.partial(jax.jit, static_argnames=("model", "normalisation", "crops", "side"))
def _score(
    variables,
    pixels: chex.Array,
    labels: chex.Array,
    indices: chex.Array,
    key: chex.PRNGKey,
    *,
    model: nn.Module,
    normalisation: Normalisation,
    crops: int,
    side: int,
) -> tuple[chex.Array, chex.Array]:
    """`best_crops` of pixels uint8 [n, S, S, C], drawn by the images' indices."""
    own = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
    boxes = jax.vmap(lambda k: random_boxes(k, pixels.shape[1], crops))(own)
    teacher = functools.partial(model.apply, variables, train=False)
    return best_crops(normalisation(pixels), labels, boxes, side, teacher)


def find(
    teacher: Teacher,
    examples: Examples,
    classes: int,
    keep: int,
    recipe: SelectRecipe,
    seed: int,
    seen: Callable[[int], None],
) -> Patches:
    """The best crop of each candidate, and of these the best of each class.

    Images are read once, batch by batch; only boxes and losses stay.

    Args:
      teacher: the teacher.
      examples: training images; every class needs `keep` of them.
      classes: their number.
      keep: crops per class, at most `recipe.candidates`.
      recipe: its `candidates`, `crops` and `mosaic`.
      seed: of the draws, which depend on it and on an image's index alone.
      seen: called with the number of images after each batch.
    """
    size = teacher.spec.image_size
    side = size // factor_of(recipe, size)
    chosen = candidates(examples.labels, recipe.candidates, classes, seed)
    key, batch = (
        keys.stream(seed, "mosaic crops"),
        max(1, teacher_lib.batch_size(size) // recipe.crops),
    )
    boxes: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    for indices, pixels in batches(examples, batch, chosen):
        count = len(indices)
        padded = np.resize(indices, batch)  # so that every batch is one program
        found = _score(
            teacher.variables,
            jnp.pad(pixels, ((0, batch - count), (0, 0), (0, 0), (0, 0))),
            examples.labels[padded],
            padded,
            key,
            model=teacher.model,
            normalisation=teacher.normalisation,
            crops=recipe.crops,
            side=side,
        )
        for kept, new in zip((boxes, losses), found, strict=True):
            kept.append(np.asarray(new)[:count])
        seen(count)
    members = [np.flatnonzero(examples.labels[chosen] == c) for c in range(classes)]
    return _best(members, chosen, np.concatenate(boxes), np.concatenate(losses), keep)


def _best(
    members: list[np.ndarray],
    images: np.ndarray,
    boxes: np.ndarray,
    losses: np.ndarray,
    keep: int,
) -> Patches:
    """The `keep` crops of each class with the lowest losses; ties keep their order."""
    order = np.stack([m[np.argsort(losses[m], kind="stable")[:keep]] for m in members])
    return Patches(images[order], boxes[order], losses[order])


def positions(image: int, ipc: int, factor: int) -> list[tuple[int, int]]:
    """(class, rank) of the patches of an image of the set, row by row.

    Mosaic k of a class takes its patches k, ipc + k, 2 ipc + k, ...
    """
    return [(image // ipc, j * ipc + image % ipc) for j in range(factor**2)]


def mosaics_of(patches: chex.Array, factor: int) -> chex.Array:
    """Joins patches [n * factor^2, p, p, C], row by row, to images [n, factor p, factor p, C]."""
    side, channels = patches.shape[1], patches.shape[-1]
    grid = patches.reshape(-1, factor, factor, side, side, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, factor * side, factor * side, channels)


def render(
    patches: Patches,
    wanted: tuple[int, ...],
    factor: int,
    examples: Examples,
    normalisation: Normalisation,
) -> np.ndarray:
    """Mosaics of some images (class * ipc + rank) of the set, normalised float32 [n, S, S, C]."""
    ipc = patches.images.shape[1] // factor**2
    of = np.array([p for image in wanted for p in positions(image, ipc, factor)])
    images, boxes = (a[of[:, 0], of[:, 1]] for a in (patches.images, patches.boxes))
    made, done = [], 0
    for indices, pixels in batches(examples, _RENDERED, images):
        piece = boxes[done : done + len(indices)]
        made.append(np.asarray(_rendered(pixels, piece, normalisation, factor)))
        done += len(indices)
    return mosaics_of(np.concatenate(made), factor)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _rendered(
    pixels: chex.Array, boxes: chex.Array, normalisation: Normalisation, factor: int
) -> chex.Array:
    return patches_of(normalisation(pixels), boxes, pixels.shape[1] // factor)
