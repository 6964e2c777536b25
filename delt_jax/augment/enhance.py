"""Operations that blend an image with a degenerate version: in grey, or smoothed."""

import chex
import jax.numpy as jnp

from delt_jax.augment.tables import blended


def luminance(pixels: chex.Array) -> chex.Array:
    """Pillow's mode L of uint8 [..., C], C 1 or 3: int32 [...], in its 16-bit fixed point."""
    values = pixels.astype(jnp.int32)
    if pixels.shape[-1] == 1:
        return values[..., 0]
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def mean_level(pixels: chex.Array) -> chex.Array:
    """Rounded mean luminance of each image [B, S, S, C]: int32 [B]."""
    total = luminance(pixels).sum((1, 2))
    count = pixels.shape[1] * pixels.shape[2]
    return (2 * total + count) // (2 * count)


def color(pixels: chex.Array, factor: chex.Array) -> chex.Array:
    """From grey (factor 0) to the image (1) and beyond; uint8 [B, S, S, 3], float32 [B]."""
    grey = luminance(pixels)[..., None]
    mixed = blended(grey, pixels.astype(jnp.int32), factor[:, None, None, None])
    return mixed.astype(jnp.uint8)


def sharpness(pixels: chex.Array, factor: chex.Array) -> chex.Array:
    """From smooth (factor 0) to the image (1) and beyond; uint8 [B, S, S, C], float32 [B]."""
    original = pixels.astype(jnp.int32)
    mixed = blended(smooth(original), original, factor[:, None, None, None])
    return mixed.astype(jnp.uint8)


def smooth(values: chex.Array) -> chex.Array:
    """Rounded mean of each pixel, weighted 5, and its eight neighbours; borders stay unchanged.

    Args:
      values: int32 [B, S, S, C].
    """
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * values[:, 1:-1, 1:-1]
    return values.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)
