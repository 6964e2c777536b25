"""Strided convolutions of few channels as convolutions on blocks of pixels.

A k x k convolution with stride s reads its three colours s pixels apart, for which no hardware has
a fast path. On the image of s x s blocks, whose channels are the block's pixels, it is a
convolution without stride, of a smaller kernel on s * s times the channels ("space to depth").
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp


def convolve_blocks(
    x: chex.Array,
    kernel: chex.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    multiple: int = 1,
    precision: Any = None,
) -> chex.Array:
    """A strided convolution as one without stride on blocks of pixels; equal up to rounding.

    Output o of an axis sums w[t] x[s o + t - p] over t. With zeros before w, so that p becomes a
    multiple of s, the t of a block are neighbours and the padding is whole blocks.

    Args:
      x: [B, H, W, C]; zeros complete the last blocks.
      kernel: [h, w, C, F].
      strides: down and right, which are the sides of a block.
      padding: pixels before and after, down and right.
      multiple: zeros fill the channels of the blocks to a multiple of it.
      precision: of `jax.lax.conv_general_dilated`.

    Returns:
      [B, O, P, F], as the plain convolution.
    """
    in_front, behind, block_padding = [], [], []
    for length, size, stride, (before, after) in zip(
        x.shape[1:3], kernel.shape[:2], strides, padding, strict=True
    ):
        blocks_before = -(-before // stride)
        front = stride * blocks_before - before
        taps = -(-(size + front) // stride)
        outputs = (length + before + after - size) // stride + 1
        blocks = -(-length // stride)
        in_front.append(front)
        behind.append(stride * taps - size - front)
        block_padding.append((blocks_before, outputs - blocks - blocks_before + taps - 1))
    kernel = jnp.pad(kernel, ((in_front[0], behind[0]), (in_front[1], behind[1]), (0, 0), (0, 0)))
    x, kernel = _blocks(x, strides, multiple), _kernel_blocks(kernel, strides, multiple)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        block_padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _blocks(x: chex.Array, sides: Sequence[int], multiple: int) -> chex.Array:
    """x [B, H, W, C] as [B, H / s, W / s, s s C], zeros where a block or channel is missing."""
    down, right = sides
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % down), (0, -x.shape[2] % right), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // down, down, width // right, right, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(*x.shape[:3], down * right * channels)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -x.shape[-1] % multiple)))


def _kernel_blocks(kernel: chex.Array, sides: Sequence[int], multiple: int) -> chex.Array:
    """kernel [s h, s w, C, F] as [h, w, s s C, F], zeros for channels that are missing."""
    rows = kernel.transpose(3, 0, 1, 2)  # an image per output
    return _blocks(rows, sides, multiple).transpose(1, 2, 3, 0)
