"""Dense convolutions as sums of matrix products of shifted images.

XLA's CPU backend has fast convolutions, but not inside loops: one step of gradients of a 3x3
convolution took 68 ms by itself and 2,039 ms in a `lax.scan`. With products it took 131 and 113.
Under `jax.vmap` over kernels, too, a product stays one, where a convolution falls into groups.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

_FEW = 4  # channels; so few make thin products, so all taps share one


def convolve_dots(
    x: chex.Array,
    kernel: chex.Array,
    padding: Sequence[tuple[int, int]],
    precision: Any = None,
) -> chex.Array:
    """A convolution without stride, dilation and groups; equal to the plain one up to rounding.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C, F].
      padding: pixels before and after, down and right.
      precision: of the products, as of `jax.lax.dot_general`.

    Returns:
      [B, O, P, F].
    """
    height, width, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    taps = [
        jax.lax.slice_in_dim(jax.lax.slice_in_dim(x, i, i + rows, axis=1), j, j + columns, axis=2)
        for i in range(height)
        for j in range(width)
    ]
    kernels = kernel.reshape(height * width, channels, features)
    if channels <= _FEW:
        taps, kernels = [jnp.concatenate(taps, -1)], kernels.reshape(1, -1, features)
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of bfloat16 would lose what they add

    def product(tap, kernel):
        return jnp.matmul(tap, kernel, precision=precision, preferred_element_type=wide)

    total = product(taps[0], kernels[0])
    for tap, one in zip(taps[1:], kernels[1:], strict=True):
        total = total + product(tap, one)
    return total.astype(x.dtype)
