"""Max-pooling, and a gradient of it that knows where each maximum was.

XLA's own gradient searches every window again and scatters, for which GPUs have no deterministic
kernel. Here the forward pass keeps the place of each maximum, a byte per window, and a pixel's
gradient sums those of the few windows that chose it.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax.models import forms


def max_pool(x: chex.Array, size: int, stride: int, padding: int = 0) -> chex.Array:
    """Maxima of the windows of x, in the chosen form.

    Args:
      x: [B, H, W, C].
      size: side of a window.
      stride: between windows.
      padding: on every side, with values below all others.

    Returns:
      [B, O, P, C]. Of equal maxima in a window, the first in reading order gets the gradient.
    """
    if forms.current(x.dtype).pool == "indexed":
        return indexed_max_pool(x, size, stride, padding)
    pads = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (size, size), (stride, stride), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def indexed_max_pool(x: chex.Array, size: int, stride: int, padding: int) -> chex.Array:
    """`max_pool` whose gradient only selects and adds; in float32 equal to the plain form's."""
    return _with_places(x, size, stride, padding)[0]


def _forward(x: chex.Array, size: int, stride: int, padding: int):
    pooled, places = _with_places(x, size, stride, padding)
    # Else a GPU's compiler might search again for the places, four times for every pixel, rather
    # than keep a byte; that of a CPU always does.
    return pooled, (jax.lax.optimization_barrier(places), x.shape[1:3])


def _backward(size: int, stride: int, padding: int, kept, gradient: chex.Array):
    places, shape = kept
    reach = range(-(-size // stride))  # an axis has at most so many windows with a given pixel
    total = jnp.zeros((), gradient.dtype)
    # The windows in reading order, so that a sum rounds as XLA's does.
    for shifts in ((down, right) for down in reversed(reach) for right in reversed(reach)):
        rows, columns = (
            (np.arange(length) + padding) % stride + shift * stride
            for length, shift in zip(shape, shifts, strict=True)
        )
        place = _place(rows[:, None], columns[None, :], size, stride)[:, :, None]
        chosen = _at_pixels(places, shape, stride, padding, shifts) == place
        total = total + jnp.where(chosen, _at_pixels(gradient, shape, stride, padding, shifts), 0)
    return (total,)


indexed_max_pool.defvjp(_forward, _backward)


def _place(row, column, size: int, stride: int):
    """Number of a pixel within its window, from 1; a pixel beyond the window has no other's."""
    width = size + stride
    kind = np.int8 if (size + 1) * width < 128 else np.int32
    return np.asarray(1 + np.minimum(row, size) * width + column, kind)


def _with_places(
    x: chex.Array, size: int, stride: int, padding: int
) -> tuple[chex.Array, chex.Array]:
    """The maximum of every window, and its place."""
    pads = ((0, 0, 0), (padding, padding, 0), (padding, padding, 0), (0, 0, 0))
    padded = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), pads)
    height, width = ((length - size) // stride * stride + 1 for length in padded.shape[1:3])

    def values(row: int, column: int) -> chex.Array:
        return padded[:, row : row + height : stride, column : column + width : stride]

    best = values(0, 0)
    places = jnp.full(best.shape, _place(0, 0, size, stride))
    for row, column in list(np.ndindex(size, size))[1:]:
        value = values(row, column)
        places = jnp.where(value > best, _place(row, column, size, stride), places)
        best = jnp.maximum(best, value)
    return best, places


def _at_pixels(
    values: chex.Array, shape: tuple[int, int], stride: int, padding: int, shifts: tuple[int, int]
) -> chex.Array:
    """Values [B, O, P, C] of the window that each pixel is in, [B, H, W, C].

    It is the last window that holds the pixel, or `shifts` windows before it; 0 where none is.
    """
    pads, sizes = [(0, 0, 0)], []
    for length, count, shift in zip(shape, values.shape[1:3], shifts, strict=True):
        first, last = padding // stride - shift, (length - 1 + padding) // stride - shift
        pads.append((-first, last - count + 1, 0))
        sizes.append(last - first + 1)
    values = jax.lax.pad(values, jnp.zeros((), values.dtype), [*pads, (0, 0, 0)])
    batch, channels = values.shape[0], values.shape[-1]
    wide = (batch, sizes[0], stride, sizes[1], stride, channels)
    values = jnp.broadcast_to(values[:, :, None, :, None], wide)
    values = values.reshape(batch, sizes[0] * stride, sizes[1] * stride, channels)
    start = padding % stride
    return values[:, start : start + shape[0], start : start + shape[1]]
