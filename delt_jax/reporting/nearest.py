"""The real training image nearest to each synthetic one: how near to copies they are.

Distilled sets start from real images and are no guarantee of privacy; this shows what is left.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.data import Examples, batches, read
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

NEAR_COPY = 0.05  # RMS of pixels in [0, 1] below which two images are near-copies
_SAMPLE = 500  # real images whose nearest other real image is the yardstick
_BYTES = 64 * 2**20  # of images as float32 that are compared at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each of M images.

    Attributes:
      indices: int64 [M].
      distances: float64 [M]; infinite where there is no image to choose from.
    """

    indices: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Nearest:
    """Neighbours by two distances, among the images of the same class and among all.

    Attributes:
      features_class, features_any: Euclidean distance of teacher features of length 1, in [0, 2].
      pixels_class, pixels_any: root mean square difference of pixels in [0, 1].
    """

    features_class: Neighbours
    features_any: Neighbours
    pixels_class: Neighbours
    pixels_any: Neighbours


def find(
    teacher: Teacher,
    examples: Examples,
    pixels: np.ndarray,
    labels: np.ndarray,
    own: np.ndarray | None = None,
    on_images: Callable[[int], None] = lambda count: None,
) -> Nearest:
    """Reads all examples once, in batches, and keeps the nearest.

    Args:
      teacher: whose features are compared.
      examples: to look among.
      pixels: uint8 [M, S, S, C], the images to find neighbours of.
      labels: int [M], their classes.
      own: int [M], the example that each image is, which is not its own neighbour; -1 for none.
      on_images: told the number of images of every batch.
    """
    own = np.full(len(pixels), -1) if own is None else own
    side = int(np.prod(pixels.shape[1:]))
    size = min(teacher_lib.BATCH, max(8, _BYTES // (4 * side)))
    by_features = _Search(_unit_features(teacher, pixels), labels, own)
    by_pixels = _Search(pixels.reshape(len(pixels), side), labels, own)
    for indices, images in batches(examples, size):
        images = np.asarray(images)
        classes = examples.labels[indices]
        by_features.look_at(_unit_features(teacher, images), classes, indices, size)
        by_pixels.look_at(images.reshape(len(images), side), classes, indices, size)
        on_images(len(indices))
    to_rms = 1 / (255 * np.sqrt(side))
    return Nearest(*by_features.found(1.0), *by_pixels.found(to_rms))


def with_yardstick(
    teacher: Teacher,
    examples: Examples,
    pixels: np.ndarray,
    labels: np.ndarray,
    on_images: Callable[[int], None] = lambda count: None,
) -> tuple[Nearest, Nearest]:
    """Neighbours of some images, and of a sample of the examples, each without itself.

    Args, other than those of `find`: none. The examples are read once for both.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(len(examples))[:_SAMPLE])
    own = np.concatenate([np.full(len(pixels), -1), drawn])
    both = find(
        teacher,
        examples,
        np.concatenate([pixels, read(examples, drawn)]),
        np.concatenate([labels, examples.labels[drawn]]),
        own,
        on_images,
    )
    count = len(pixels)
    return _part(both, slice(None, count)), _part(both, slice(count, None))


def _part(nearest: Nearest, part: slice) -> Nearest:
    kinds = (getattr(nearest, f.name) for f in fields(nearest))
    return Nearest(*(Neighbours(k.indices[part], k.distances[part]) for k in kinds))


def summary(synthetic: Nearest, real: Nearest) -> dict[str, Any]:
    """How many of both are near-copies of a training image, by pixels and of any class."""
    ours, theirs = synthetic.pixels_any.distances, real.pixels_any.distances
    return {
        "threshold": NEAR_COPY,
        "near_copies": float((ours < NEAR_COPY).mean()),
        "near_copies_among_real": float((theirs < NEAR_COPY).mean()),
        "median_rms": float(np.median(ours)),
        "median_rms_among_real": float(np.median(theirs)),
        "real_sample": len(theirs),
    }


def as_csv(nearest: Nearest, ipc: int, names: Sequence[str]) -> bytes:
    """A line per synthetic image: class, rank, and index, name and distance of each neighbour.

    Args:
      nearest: of a class-major set.
      ipc: its images per class.
      names: of the training images.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    kinds = {f.name: getattr(nearest, f.name) for f in fields(nearest)}
    parts = ("index", "name", "distance")
    lines.writerow(["class", "rank", *(f"{kind}_{part}" for kind in kinds for part in parts)])
    for i in range(len(nearest.pixels_any.indices)):
        cells: list[Any] = [i // ipc, i % ipc]
        for kind in kinds.values():
            index = int(kind.indices[i])
            cells += [index, names[index], f"{kind.distances[i]:.6g}"]
        lines.writerow(cells)
    return text.getvalue().encode()


class _Search:
    """The nearest so far of every query, of the same class and of any."""

    def __init__(self, queries: np.ndarray, labels: np.ndarray, own: np.ndarray):
        """Queries [M, D] of any dtype; `own` as of `find`."""
        rows = max(1, _BYTES // (4 * queries.shape[1]))
        self._parts = [slice(i, i + rows) for i in range(0, len(queries), rows)]
        self._queries, self._labels, self._own = queries, labels, own
        self._indices = np.zeros((2, len(queries)), np.int64)
        self._distances = np.full((2, len(queries)), np.inf)

    def look_at(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray, size: int
    ) -> None:
        """Compares with some examples [b, D], b at most `size`."""
        short = size - len(images)  # padded, so that every batch is one program
        images = np.pad(images, ((0, short), (0, 0)))
        labels = np.pad(labels, (0, short), constant_values=-1)
        indices = np.pad(indices, (0, short), constant_values=-1)
        for part in self._parts:
            distances, places = _closest(
                self._queries[part], self._labels[part], self._own[part], images, labels, indices
            )
            distances = np.asarray(distances)
            nearer = distances < self._distances[:, part]
            self._distances[:, part][nearer] = distances[nearer]
            self._indices[:, part][nearer] = indices[np.asarray(places)][nearer]

    def found(self, scale: float) -> list[Neighbours]:
        """Of the same class and of any, distances times `scale`."""
        pairs = zip(self._indices, self._distances, strict=True)
        return [Neighbours(indices, scale * distances) for indices, distances in pairs]


@jax.jit
def _closest(queries, query_labels, own, images, labels, indices):
    """Distance to, and place of, the nearest image: float32 and int [2, m], same class and any."""
    queries, images = queries.astype(jnp.float32), images.astype(jnp.float32)
    products = jnp.matmul(queries, images.T, precision=jax.lax.Precision.HIGHEST)
    squares = (queries**2).sum(1)[:, None] + (images**2).sum(1) - 2 * products
    allowed = (labels >= 0) & (own[:, None] != indices)
    same = allowed & (query_labels[:, None] == labels)
    both = jnp.stack([same, allowed])
    places = jnp.where(both, squares, jnp.inf).argmin(-1)
    # Directly: the difference of large numbers above is coarse where images are alike.
    distances = jnp.sqrt(((queries - images[places]) ** 2).sum(-1))
    return jnp.where(both.any(-1), distances, jnp.inf), places


def _unit_features(teacher: Teacher, pixels: np.ndarray) -> np.ndarray:
    """Teacher features of length 1, float32 [N, D]."""
    features = teacher_lib.features_of(teacher, pixels)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
