"""The real training image nearest to each synthetic one: does the set show its training images?

Distilled sets start from real images and guarantee no privacy.
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
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

NEAR_COPY = 0.05  # images that differ by less are near-copies; RMS of pixels in [0, 1]
_SAMPLE = 500  # real images, whose distance to the nearest other one is the yardstick
_BYTES = 64 * 2**20  # of float32 images that are compared at a time


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
    """Finds the nearest example of each image, reading the examples once, in batches.

    Args:
      teacher: its features are compared.
      examples: the candidates.
      pixels: uint8 [M, S, S, C], the images whose neighbours are sought.
      labels: int [M], their classes.
      own: int [M], the index of an image that is itself an example, and so no neighbour of its
        own; -1 for an image that is not. None if none is.
      on_images: told the number of images of every batch.
    """
    own = np.full(len(pixels), -1) if own is None else own
    side = int(np.prod(pixels.shape[1:]))
    size = min(prediction.BATCH, max(8, _BYTES // (4 * side)))
    by_features = _Search(_unit_features(teacher, pixels), labels, own)
    by_pixels = _Search(pixels.reshape(len(pixels), side), labels, own)
    for indices, images in batches(examples, size):
        images = np.asarray(images)
        classes = examples.labels[indices]
        by_features.compare(_unit_features(teacher, images), classes, indices, size)
        by_pixels.compare(images.reshape(len(images), side), classes, indices, size)
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
    """Neighbours of some images, and those of a sample of the examples among the other examples.

    The arguments are those of `find`; the examples are read once for both.
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
    return _some(both, slice(None, count)), _some(both, slice(count, None))


def _some(nearest: Nearest, images: slice) -> Nearest:
    kinds = (getattr(nearest, f.name) for f in fields(nearest))
    return Nearest(*(Neighbours(k.indices[images], k.distances[images]) for k in kinds))


def summary(synthetic: Nearest, real: Nearest) -> dict[str, Any]:
    """Shares of synthetic and of real images with a near-copy among all training images."""
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
    """CSV with a line per synthetic image: class, rank, and all neighbours.

    Args:
      nearest: neighbours of a set, one class after another.
      ipc: images per class of the set.
      names: names of the training images.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    kinds = {f.name: getattr(nearest, f.name) for f in fields(nearest)}
    of_each = ("index", "name", "distance")
    lines.writerow(["class", "rank", *(f"{kind}_{name}" for kind in kinds for name in of_each)])
    for i in range(len(nearest.pixels_any.indices)):
        cells: list[Any] = [i // ipc, i % ipc]
        for kind in kinds.values():
            index = int(kind.indices[i])
            cells += [index, names[index], f"{kind.distances[i]:.6g}"]
        lines.writerow(cells)
    return text.getvalue().encode()


class _Search:
    """The nearest example so far of every query: row 0 of its class, row 1 of any class."""

    def __init__(self, queries: np.ndarray, labels: np.ndarray, own: np.ndarray):
        """Takes queries [M, D] of any dtype; `labels` and `own` are those of `find`."""
        rows = max(1, _BYTES // (4 * queries.shape[1]))
        self._chunks = [slice(i, i + rows) for i in range(0, len(queries), rows)]
        self._queries, self._labels, self._own = queries, labels, own
        self._indices = np.zeros((2, len(queries)), np.int64)
        self._distances = np.full((2, len(queries)), np.inf)

    def compare(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray, size: int
    ) -> None:
        """Compares all queries with some examples [b, D], b at most `size`."""
        short = size - len(images)  # the last batch is padded, so that one program fits all
        images = np.pad(images, ((0, short), (0, 0)))
        labels = np.pad(labels, (0, short), constant_values=-1)
        indices = np.pad(indices, (0, short), constant_values=-1)
        for chunk in self._chunks:
            distances, places = _closest(
                self._queries[chunk], self._labels[chunk], self._own[chunk], images, labels, indices
            )
            distances = np.asarray(distances)
            nearer = distances < self._distances[:, chunk]
            self._distances[:, chunk][nearer] = distances[nearer]
            self._indices[:, chunk][nearer] = indices[np.asarray(places)][nearer]

    def found(self, scale: float) -> list[Neighbours]:
        """Neighbours of the same class and of any class, distances times `scale`."""
        pairs = zip(self._indices, self._distances, strict=True)
        return [Neighbours(indices, scale * distances) for indices, distances in pairs]


@jax.jit
def _closest(queries, query_labels, own, images, labels, indices):
    """Distance and index of the nearest image, float32 and int [2, m]: of its class, and of any.

    Args:
      queries: [m, D].
      query_labels: int [m].
      own: int [m], see `find`.
      images: [b, D].
      labels: int [b], -1 where `images` is padding.
      indices: int [b], of the images among all examples.
    """
    queries, images = queries.astype(jnp.float32), images.astype(jnp.float32)
    products = jnp.matmul(queries, images.T, precision=jax.lax.Precision.HIGHEST)
    squares = (queries**2).sum(1)[:, None] + (images**2).sum(1) - 2 * products
    allowed = (labels >= 0) & (own[:, None] != indices)
    same = allowed & (query_labels[:, None] == labels)
    both = jnp.stack([same, allowed])
    places = jnp.where(both, squares, jnp.inf).argmin(-1)
    # Computed again from the difference: of images that are alike, `squares` is a small difference
    # of large numbers, and so has few correct digits.
    distances = jnp.sqrt(((queries - images[places]) ** 2).sum(-1))
    return jnp.where(both.any(-1), distances, jnp.inf), places


def _unit_features(teacher: Teacher, pixels: np.ndarray) -> np.ndarray:
    """Teacher features of length 1, float32 [N, D]."""
    features = teacher_lib.features_of(teacher, pixels)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
