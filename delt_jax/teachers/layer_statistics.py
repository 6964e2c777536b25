"""Statistics of the inputs of a network's layers: for synthetic images, and for all real ones.

Mean and biased variance per channel of the input of every BatchNorm and every convolution; of the
latter also per cell of a grid over the image (G-VBSM, arXiv 2311.17950).
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.core.losses import Moments
from delt_jax.core.progress import progress
from delt_jax.data import Source, batches
from delt_jax.errors import UserError
from delt_jax.models.tap import apply_tapped
from delt_jax.store import files
from delt_jax.teachers import prediction
from delt_jax.teachers.teacher import Teacher

_LARGE = 128  # px; images of at least this side have large cells, as published for ImageNet


class Statistics(NamedTuple):
    """Moments of some layers in forward order.

    Attributes:
      norms: of the input of every BatchNorm, [..., channels].
      convs: of the input of every convolution, [..., channels].
      cells: of the same per cell, over its pixels and channels, [..., cells].
    """

    norms: tuple[Moments, ...]
    convs: tuple[Moments, ...]
    cells: tuple[Moments, ...]


class RealStatistics(NamedTuple):
    """Statistics of all real images.

    Attributes:
      by_class: with a leading axis [classes].
      counts: int [classes], images of each class.
    """

    by_class: Statistics
    counts: np.ndarray


def cell_side(image_size: int) -> int:
    """Pixels along a cell's side, the same in every layer."""
    return 4 if image_size < _LARGE else 16


def in_cells(x: chex.Array, side: int) -> chex.Array:
    """Cuts x [n, h, w, c] into cells [n, cells, side * side * c], row by row.

    First h and w are rounded up to multiples of `side`, by bilinear interpolation.
    """
    n, h, w, c = x.shape
    rows, columns = -(-h // side), -(-w // side)
    if (h, w) != (rows * side, columns * side):
        x = jax.image.resize(x, (n, rows * side, columns * side, c), "bilinear")
    x = x.reshape(n, rows, side, columns, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows * columns, side * side * c)


def of_images(
    norm_inputs: Sequence[chex.Array], conv_inputs: Sequence[chex.Array], side: int
) -> Statistics:
    """Statistics of every image by itself, with a leading axis [n], float32.

    Args:
      norm_inputs, conv_inputs: as of `delt_jax.models.tap.Pass`.
      side: of a cell in pixels.
    """

    def wide(x):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def channels(x):
        axes = tuple(range(1, x.ndim - 1))
        return Moments(wide(x).mean(axes), wide(x).var(axes))

    def cells(x):
        cut = in_cells(wide(x), side)
        return Moments(cut.mean(-1), cut.var(-1))

    return Statistics(
        tuple(channels(x) for x in norm_inputs),
        tuple(channels(x) for x in conv_inputs),
        tuple(cells(x) for x in conv_inputs),
    )


def each(fn: Callable[..., Moments], *statistics: Statistics) -> Statistics:
    """Applies a function of `Moments` to every layer."""
    return jax.tree.map(fn, *statistics, is_leaf=lambda x: isinstance(x, Moments))


def over_images(alone: Statistics) -> Statistics:
    """Statistics of a batch from those of its images, by the law of total variance."""
    return each(lambda m: Moments(m.mean.mean(0), m.variance.mean(0) + m.mean.var(0)), alone)


def of_batch(
    norm_inputs: Sequence[chex.Array], conv_inputs: Sequence[chex.Array], image_size: int
) -> Statistics:
    """Statistics of a batch as a whole, with the cells of its image size."""
    return over_images(of_images(norm_inputs, conv_inputs, cell_side(image_size)))


def over_classes(real: RealStatistics) -> Statistics:
    """Statistics of all real images from those of the classes, float32; summed in float64."""
    share = (real.counts / real.counts.sum())[:, None]

    def total(m: Moments) -> Moments:
        means, variances = (np.asarray(x, np.float64) for x in m)
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)
        return Moments(mean.astype(np.float32), variance.astype(np.float32))

    return each(total, real.by_class)


def of_real_images(teacher: Teacher, source: Source, cache: Path) -> RealStatistics:
    """Statistics of a teacher's layers over the training images, without augmentation.

    The images are read once, batch by batch; the result is stored in `cache`, under the hashes of
    teacher and data. The variance of a class includes that between its images, which the released
    code leaves out as it averages the variances of batches.

    Raises:
      UserError: if the disk is full or cannot be written.
    """
    side = cell_side(source.image_size)
    path = cache / f"statistics-{teacher.hash}-{source.fingerprint}.npz"
    leaves, structure = jax.tree.flatten(_shapes(teacher, side))
    classes = len(source.class_names)
    with contextlib.suppress(UserError, KeyError):  # missing or damaged: measured again
        stored = files.read_sealed_npz(path)
        found = [stored[f"leaf_{i}"] for i in range(len(leaves))]
        if [x.shape for x in found] == [(classes, *leaf.shape[1:]) for leaf in leaves]:
            return RealStatistics(jax.tree.unflatten(structure, found), stored["counts"])
    real = measure(teacher, source, side)
    arrays = {f"leaf_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(real.by_class))}
    with files.disk_errors_as_user_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    files.write_sealed_npz(path, {"counts": real.counts, **arrays})
    return real


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _of_pixels(model, variables, pixels, normalisation, side):
    tapped = apply_tapped(model, variables, normalisation(pixels))
    return of_images(tapped.norm_inputs, tapped.conv_inputs, side)


def _shapes(teacher: Teacher, side: int) -> Any:
    """Shapes of the statistics of one image."""
    spec = teacher.spec
    pixels = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, spec.channels), jnp.uint8)
    return jax.eval_shape(
        lambda v, x: _of_pixels(teacher.model, v, x, teacher.normalisation, side),
        teacher.variables,
        pixels,
    )


def measure(teacher: Teacher, source: Source, side: int) -> RealStatistics:
    """Runs all training images through the teacher; `side` of a cell in pixels."""
    labels, classes = source.train.labels, len(source.class_names)
    sums = _Sums(classes)
    variables = jax.tree.map(jnp.asarray, teacher.variables)
    with progress(len(labels), f"statistics of {teacher.spec.name}", "image") as bar:
        for indices, read in batches(source.train, prediction.BATCH):
            done = 0
            for pixels in prediction.in_batches(read):
                count, short = len(pixels), prediction.batch_size(read.shape[1]) - len(pixels)
                # Padded, so that every batch is one program; `add` leaves the padding out.
                padded = np.pad(pixels, ((0, max(short, 0)), (0, 0), (0, 0), (0, 0)))
                alone = _of_pixels(teacher.model, variables, padded, teacher.normalisation, side)
                sums.add(labels[indices[done : done + count]], alone)
                done += count
                bar.update(count)
    return sums.total()


class _Sums:
    """Float64 sums over the images of every class: of means, squared means and variances."""

    def __init__(self, classes: int):
        self._classes = classes
        self._counts = np.zeros(classes, np.int64)
        self._totals: Any = None

    def add(self, labels: np.ndarray, alone: Statistics) -> None:
        """Adds the first len(labels) of some images; the rest is padding."""
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        self._counts += np.bincount(labels, minlength=self._classes)

        def summed(m: Moments) -> tuple[np.ndarray, ...]:
            mean, variance = (np.asarray(x, np.float64)[order] for x in m)
            parts = (mean, mean**2, variance)
            return tuple(np.add.reduceat(part, starts, axis=0) for part in parts)

        parts = [summed(m) for m in _layers(alone)]
        if self._totals is None:
            self._structure = each(lambda m: Moments(np.zeros(0), np.zeros(0)), alone)
            self._totals = [
                tuple(np.zeros((self._classes, part.shape[1])) for part in layer) for layer in parts
            ]
        for totals, layer in zip(self._totals, parts, strict=True):
            for total, part in zip(totals, layer, strict=True):
                total[present] += part

    def total(self) -> RealStatistics:
        """Mean and variance of every class, float32; zeros for a class without images."""
        counts = np.maximum(self._counts, 1)[:, None]
        found = []
        for means, squares, variances in self._totals:
            mean = means / counts
            between = np.maximum(squares / counts - mean**2, 0)
            found += [mean, variances / counts + between]
        structure = jax.tree.structure(self._structure)
        leaves = [leaf.astype(np.float32) for leaf in found]
        return RealStatistics(jax.tree.unflatten(structure, leaves), self._counts)


def _layers(statistics: Statistics) -> list[Moments]:
    return jax.tree.leaves(statistics, is_leaf=lambda x: isinstance(x, Moments))
