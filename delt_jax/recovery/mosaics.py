"""RDED's images (arXiv 2312.03526): mosaics of the crops that look most real to the teacher.

Shapes: S pixels along a side of an image, p along a side of a patch, C channels.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.data import Examples, Normalisation, batches, files_of
from delt_jax.data.file_crops import GivenCrops, RandomCrops
from delt_jax.data.source import EncodedExamples
from delt_jax.recipe import SelectRecipe
from delt_jax.teachers import prediction
from delt_jax.teachers.teacher import Teacher

# Part of the identity of mosaics of image files; raise it when these change.
FILES_VERSION = 2
_MIN_SCALE = 0.08  # smallest area of a crop, as a share of the image
_SQUARE = (1.0, 1.0)  # smallest and largest aspect ratio
_LARGE = 128  # px; images of at least this side take four patches, as published
_RENDERED = 128  # patches rendered at a time


@dataclass(frozen=True)
class Patches:
    """Crops of training images, for every class the best first.

    The names of the fields are those of the arrays in patches.npz.

    Attributes:
      images: int [classes, n], indices of the training images.
      boxes: int32 [classes, n, 4], top, left, height, width; in the image file as it is where
        there is one (see `files_of`), else in the image.
      cross_entropy: float32 [classes, n], the teacher's, ascending.
    """

    images: np.ndarray
    boxes: np.ndarray
    cross_entropy: np.ndarray


def factor_of(recipe: SelectRecipe, image_size: int) -> int:
    """Patches along a side of a mosaic: `select.mosaic`, or RDED's choice for the image size."""
    return recipe.mosaic or (2 if image_size >= _LARGE and image_size % 2 == 0 else 1)


def candidates(labels: np.ndarray, per_class: int, classes: int, seed: int) -> np.ndarray:
    """Draws `per_class` training images of each class, or all of a class that has fewer.

    Returns:
      int [N], their indices, class by class, ascending within each.
    """
    draws = np.asarray(jax.random.uniform(keys.stream(seed, "mosaic images"), (len(labels),)))
    chosen = []
    for c in range(classes):
        members = np.flatnonzero(labels == c)
        first = np.argsort(draws[members], kind="stable")[:per_class]
        chosen.append(np.sort(members[first]))
    return np.concatenate(chosen)


def random_boxes(key: chex.PRNGKey, size: int, count: int) -> chex.Array:
    """Draws square boxes, int32 [count, 4], of 8 to 100 % of a size x size image's area."""

    def box(i):
        return crop.random_box(jax.random.fold_in(key, i), (size, size), _MIN_SCALE, _SQUARE)

    return jax.vmap(box)(jnp.arange(count))


def patches_of(images: chex.Array, boxes: chex.Array, side: int) -> chex.Array:
    """Crops resized to [n, side, side, C]; images [n, S, S, C], boxes int32 [n, 4]."""
    still = jnp.zeros((len(boxes), 2), jnp.int32)
    view = crop.View(boxes, jnp.zeros(len(boxes), bool), still)
    return crop.view_images(images, view, side)


def centred(patches: chex.Array, size: int) -> chex.Array:
    """Pads patches [n, p, p, C] with zeros to [n, size, size, C], an odd pixel at the end."""
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
    """Chooses the crop of each image with the teacher's lowest cross-entropy.

    Args:
      images: normalised float32 [n, S, S, C].
      labels: int [n].
      boxes: int32 [n, crops, 4].
      side: of a patch in pixels; the teacher sees it padded with zeros, which are the mean colour.
      teacher: maps normalised images [m, S, S, C] to logits [m, classes].

    Returns:
      The boxes, int32 [n, 4], and their cross-entropies, float32 [n]; of equal crops the first.
    """
    count, crops = boxes.shape[:2]
    patches = patches_of(jnp.repeat(images, crops, axis=0), boxes.reshape(-1, 4), side)
    patches = patches.reshape(count, crops, *patches.shape[1:])
    losses = crop_losses(patches, labels, images.shape[1], teacher)
    best, rows = losses.argmin(axis=1), jnp.arange(count)
    return boxes[rows, best], losses[rows, best]


def crop_losses(
    patches: chex.Array,
    labels: chex.Array,
    size: int,
    teacher: Callable[[chex.Array], chex.Array],
) -> chex.Array:
    """The teacher's cross-entropy of every crop, float32 [n, crops].

    Args:
      patches: normalised float32 [n, crops, p, p, C].
      labels: int [n].
      size: of the teacher's images, in the middle of which a patch is placed amid zeros.
      teacher: maps normalised images [m, size, size, C] to logits [m, classes].
    """
    count, crops = patches.shape[:2]
    seen = centred(patches.reshape(-1, *patches.shape[2:]), size)
    logits = teacher(seen).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.repeat(labels, crops))
    return losses.reshape(count, crops)


@dataclass(frozen=True)
class _CropProgram:
    """What is static when crops are scored.

    Attributes:
      model, normalisation: of the teacher.
      crops: per image.
      side: of a patch in pixels.
      size: of the teacher's images.
    """

    model: nn.Module
    normalisation: Normalisation
    crops: int
    side: int
    size: int


@functools.partial(jax.jit, static_argnums=0)
def _score(
    program: _CropProgram,
    variables,
    pixels: chex.Array,
    labels: chex.Array,
    indices: chex.Array,
    key: chex.PRNGKey,
) -> tuple[chex.Array, chex.Array]:
    """`best_crops` of pixels uint8 [n, S, S, C]; an image's index alone decides its boxes."""
    own = jax.vmap(lambda i: jax.random.fold_in(key, i))(indices)
    boxes = jax.vmap(lambda k: random_boxes(k, pixels.shape[1], program.crops))(own)
    teacher = functools.partial(program.model.apply, variables, train=False)
    return best_crops(program.normalisation(pixels), labels, boxes, program.side, teacher)


@functools.partial(jax.jit, static_argnums=0)
def _losses(program: _CropProgram, variables, pixels: chex.Array, labels: chex.Array) -> chex.Array:
    """`crop_losses` of crops uint8 [n, crops, side, side, C]."""
    teacher = functools.partial(program.model.apply, variables, train=False)
    return crop_losses(program.normalisation(pixels), labels, program.size, teacher)


def find(
    teacher: Teacher,
    examples: Examples,
    keep: int,
    recipe: SelectRecipe,
    seed: int,
    progress: Callable[[int], None],
) -> Patches:
    """Finds the best crop of each candidate, and of these the best `keep` of each class.

    Crops are taken of image files as they are, not as they are fitted to the teacher. Images are
    read once, batch by batch; only boxes and losses stay in memory.

    Args:
      teacher: scores the crops; its classes are those of the examples.
      examples: training images; every class needs `keep` of them.
      keep: crops per class, at most `recipe.candidates`.
      recipe: its `candidates`, `crops` and `mosaic` count.
      seed: of the draws, which depend on it and on an image's index alone.
      progress: called with the number of images after each batch.
    """
    size, classes = teacher.spec.image_size, len(teacher.class_names)
    side = size // factor_of(recipe, size)
    chosen = candidates(examples.labels, recipe.candidates, classes, seed)
    program = _CropProgram(teacher.model, teacher.normalisation, recipe.crops, side, size)
    files = files_of(examples)
    boxes: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    found = (
        _of_images(program, teacher.variables, examples, chosen, seed)
        if files is None
        else _of_files(program, teacher.variables, files, chosen, seed)
    )
    for some_boxes, some_losses in found:
        boxes.append(some_boxes)
        losses.append(some_losses)
        progress(len(some_boxes))
    members = [np.flatnonzero(examples.labels[chosen] == c) for c in range(classes)]
    return best_patches(members, chosen, np.concatenate(boxes), np.concatenate(losses), keep)


def _batch(program: _CropProgram) -> int:
    """Images whose crops the teacher sees at a time."""
    return max(1, prediction.batch_size(program.size) // program.crops)


def _of_images(
    program: _CropProgram, variables: Any, examples: Examples, chosen: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Box and loss of the best crop of images, int32 [n, 4] and float32 [n], batch by batch."""
    batch, key = _batch(program), keys.stream(seed, "mosaic crops")
    for indices, pixels in batches(examples, batch, chosen):
        count = len(indices)
        # The last batch is padded, so that every batch is one program.
        padded = np.resize(indices, batch)
        full = jnp.pad(pixels, ((0, batch - count), (0, 0), (0, 0), (0, 0)))
        labels = examples.labels[padded]
        found = _score(program, variables, full, labels, padded, key)
        yield np.asarray(found[0])[:count], np.asarray(found[1])[:count]


def _of_files(
    program: _CropProgram, variables: Any, files: EncodedExamples, chosen: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same of image files as they are, which differ in size: workers cut them."""
    batch = _batch(program)
    crops = RandomCrops(files, program.side, program.crops, _MIN_SCALE, seed)
    for indices, found in batches(crops, batch, chosen):
        padded = np.resize(found["pixels"], (batch, *found["pixels"].shape[1:]))
        labels = files.labels[np.resize(indices, batch)]
        losses = np.asarray(_losses(program, variables, padded, labels))[: len(indices)]
        best, rows = losses.argmin(axis=1), np.arange(len(indices))
        yield found["boxes"][rows, best], losses[rows, best]


def best_patches(
    members: list[np.ndarray],
    indices: np.ndarray,
    boxes: np.ndarray,
    losses: np.ndarray,
    keep: int,
) -> Patches:
    """The `keep` crops of each class with the lowest losses; ties keep their order.

    Args:
      members: of each class, int [m], positions in the following.
      indices: int [N], of the training images.
      boxes: int32 [N, 4].
      losses: float32 [N], the teacher's cross-entropies.
      keep: at most the number of a class's members.
    """
    order = np.stack([m[np.argsort(losses[m], kind="stable")[:keep]] for m in members])
    return Patches(indices[order], boxes[order], losses[order])


def positions(index: int, ipc: int, factor: int) -> list[tuple[int, int]]:
    """(class, rank) of the patches in a mosaic, row by row; `index` is class * ipc + rank.

    Mosaic k of a class takes its patches k, ipc + k, 2 ipc + k, ...
    """
    return [(index // ipc, j * ipc + index % ipc) for j in range(factor**2)]


def mosaics_of(patches: chex.Array, factor: int) -> chex.Array:
    """Joins patches [n * factor^2, p, p, C], row by row, into [n, factor * p, factor * p, C]."""
    side, channels = patches.shape[1], patches.shape[-1]
    grid = patches.reshape(-1, factor, factor, side, side, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, factor * side, factor * side, channels)


def render(
    patches: Patches,
    indices: Sequence[int],
    factor: int,
    examples: Examples,
    normalisation: Normalisation,
) -> np.ndarray:
    """Renders mosaics (class * ipc + rank) of the set, normalised float32 [n, S, S, C]."""
    ipc = patches.images.shape[1] // factor**2
    of = np.array([p for index in indices for p in positions(index, ipc, factor)])
    chosen, boxes = (a[of[:, 0], of[:, 1]] for a in (patches.images, patches.boxes))
    files = files_of(examples)
    if files is not None:
        crops = GivenCrops(files, files.image_size // factor, chosen, boxes)
        cut = np.concatenate([pixels for _, pixels in batches(crops, _RENDERED)])
        return mosaics_of(np.asarray(normalisation(cut)), factor)
    rendered, done = [], 0
    for read, pixels in batches(examples, _RENDERED, chosen):
        some = boxes[done : done + len(read)]
        rendered.append(np.asarray(_rendered(pixels, some, normalisation, factor)))
        done += len(read)
    return mosaics_of(np.concatenate(rendered), factor)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _rendered(
    pixels: chex.Array, boxes: chex.Array, normalisation: Normalisation, factor: int
) -> chex.Array:
    return patches_of(normalisation(pixels), boxes, pixels.shape[1] // factor)
