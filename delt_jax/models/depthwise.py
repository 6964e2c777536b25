"""Depthwise convolutions as sums of shifted slices, and their gradients.

XLA has no fast path for them on CPUs: it takes up to fifty times as long as reading the map once
per tap of the kernel, which compilers turn into one loop over contiguous channels. With a stride
the gradient of the input would scatter; here every pixel of an s x s block gathers its own taps.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

Pads = tuple[tuple[int, int], tuple[int, int]]


class _Reading(NamedTuple):
    """Positions of an axis that are read for every tap: first + offset, then every stride-th.

    Attributes:
      results: how many, from position 0 for offset 0.
      stride: between them.
      offsets: of the taps, in order.
    """

    results: int
    stride: int
    offsets: Sequence[int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_shifted(
    x: chex.Array, kernel: chex.Array, strides: tuple[int, int], pads: Pads
) -> chex.Array:
    """A depthwise convolution; equal to XLA's up to rounding, as are both of its gradients.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, 1, C].
      strides: down and right.
      pads: pixels before and after, down and right.

    Returns:
      [B, O, P, C] in the dtype of x; sums are float32 at least.
    """
    read = _reader(x, _outputs(x.shape, kernel.shape, strides, pads))
    height, width = kernel.shape[:2]
    taps = ((i, j) for i in range(height) for j in range(width))
    return _sum(read(i, j) * kernel[i, j, 0] for i, j in taps).astype(x.dtype)


def _forward(x: chex.Array, kernel: chex.Array, strides: tuple[int, int], pads: Pads):
    return convolve_shifted(x, kernel, strides, pads), (x, kernel)


def _backward(strides: tuple[int, int], pads: Pads, kept, gradient: chex.Array):
    x, kernel = kept
    of_input = _input_gradient(gradient, kernel, x.shape[1:3], strides, pads)
    of_kernel = _kernel_gradient(x, gradient, kernel, strides, pads)
    return of_input.astype(x.dtype), of_kernel.astype(kernel.dtype)


convolve_shifted.defvjp(_forward, _backward)


def _outputs(shape, size, strides, pads) -> list[_Reading]:
    """What an output reads, down and right."""
    return [
        _Reading((n + before + after - k) // s + 1, s, [t - before for t in range(k)])
        for n, k, s, (before, after) in zip(shape[1:3], size[:2], strides, pads, strict=True)
    ]


def _input_gradient(gradient, kernel, shape, strides, pads) -> chex.Array:
    """Gradient [B, H, W, C] of the input, from that of the output.

    Pixel s b + a of an axis was read by output b + d through tap a + before - s d, for those d
    for which there is such a tap. So block b reads outputs b + d, each with s taps.
    """
    readings, taps = [], []
    for n, k, s, (before, _) in zip(shape, kernel.shape, strides, pads, strict=False):
        first, last = -(-(before - k + 1) // s), (before + s - 1) // s
        readings.append(_Reading(-(-n // s), 1, range(first, last + 1)))
        taps.append([[a + before - s * d for a in range(s)] for d in range(first, last + 1)])
    read = _reader(gradient, readings)
    total = _sum(
        read(i, j)[:, :, None, :, None] * _taps(kernel, rows, columns)[:, None]
        for i, rows in enumerate(taps[0])
        for j, columns in enumerate(taps[1])
    )
    batch, down, s, right, t, channels = total.shape
    pixels = total.reshape(batch, down * s, right * t, channels)
    return pixels[:, : shape[0], : shape[1]]


def _taps(kernel: chex.Array, rows: Sequence[int], columns: Sequence[int]) -> chex.Array:
    """Taps [rows, columns, C] of a kernel, zeros where it has none."""
    places = [
        np.asarray([t if 0 <= t < k else k for t in taken])
        for taken, k in zip((rows, columns), kernel.shape, strict=False)
    ]
    padded = jnp.pad(kernel[:, :, 0], ((0, 1), (0, 1), (0, 0)))
    return padded[places[0][:, None], places[1][None, :]]


def _kernel_gradient(x, gradient, kernel, strides, pads) -> chex.Array:
    """Gradient [h, w, 1, C] of the kernel."""
    read = _reader(x, _outputs(x.shape, kernel.shape, strides, pads))
    gradient = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))
    height, width = kernel.shape[:2]
    sums = [(read(i, j) * gradient).sum((0, 1, 2)) for i in range(height) for j in range(width)]
    return jnp.stack(sums).reshape(kernel.shape)


def _reader(x: chex.Array, axes: Sequence[_Reading]) -> Callable[[int, int], chex.Array]:
    """What the taps read of x [B, H, W, C], by the numbers of their offsets; zeros outside of x.

    The result is float32 at least.
    """
    pads = [_around(*pair) for pair in zip(x.shape[1:3], axes, strict=True)]
    # A pad of its own, which compilers write once, with whatever made x; a zero at the edge of
    # every slice would be one with the sum, and make x again for every tap.
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def read(i: int, j: int) -> chex.Array:
        part = x
        for axis, (number, reading, (before, _, _)) in enumerate(
            zip((i, j), axes, pads, strict=True), start=1
        ):
            first = reading.offsets[number] + before
            end = first + reading.stride * (reading.results - 1) + 1
            part = jax.lax.slice_in_dim(part, first, end, reading.stride, axis)
        return part.astype(wide)

    return read


def _around(length: int, reading: _Reading) -> tuple[int, int, int]:
    """How much of the positions read is before and after an axis, as `jax.lax.pad` takes it."""
    last = max(reading.offsets) + reading.stride * (reading.results - 1)
    return max(0, -min(reading.offsets)), max(0, last + 1 - length), 0


def _sum(terms) -> chex.Array:
    return functools.reduce(jnp.add, terms)
