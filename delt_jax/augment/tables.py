"""Operations that map grey levels: tables of 256 entries per image and channel."""

import chex
import jax.numpy as jnp

LEVELS = 256


def histogram(pixels: chex.Array) -> chex.Array:
    """Counts the grey levels of each image and channel.

    Args:
      pixels: uint8 [B, S, S, C].

    Returns:
      int32 [B, C, 256].
    """
    batch, channels = pixels.shape[0], pixels.shape[3]
    planes = jnp.arange(batch * channels).reshape(batch, 1, 1, channels)
    counts = jnp.zeros((batch * channels, LEVELS), jnp.int32)
    counts = counts.at[planes, pixels.astype(jnp.int32)].add(1)
    return counts.reshape(batch, channels, LEVELS)


def autocontrast(counts: chex.Array) -> chex.Array:
    """Tables int32 [B, C, 256] that stretch the levels present to 0..255, rounding down.

    If the stretched level is a whole number, Pillow's float64 arithmetic may give one less.
    """
    levels, present = jnp.arange(LEVELS), counts > 0
    lowest = jnp.argmax(present, -1, keepdims=True)
    highest = LEVELS - 1 - jnp.argmax(present[..., ::-1], -1, keepdims=True)
    stretched = (levels - lowest) * 255 // jnp.maximum(highest - lowest, 1)
    return jnp.where(highest > lowest, jnp.clip(stretched, 0, 255), levels)


def equalize(counts: chex.Array) -> chex.Array:
    """Tables int32 [B, C, 256] that spread the pixels evenly over the levels."""
    levels = jnp.arange(LEVELS)
    highest = LEVELS - 1 - jnp.argmax(counts[..., ::-1] > 0, -1, keepdims=True)
    last = jnp.take_along_axis(counts, highest, -1)
    total = counts.sum(-1, keepdims=True)
    step = (total - last) // 255
    below = jnp.cumsum(counts, -1) - counts
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, spread, levels)


def invert() -> chex.Array:
    """Table int32 [256] of the negative."""
    return 255 - jnp.arange(LEVELS)


def posterize(bits: chex.Array) -> chex.Array:
    """Tables int32 [..., 256] that keep the `bits` highest bits, 0..8."""
    step = jnp.left_shift(1, 8 - bits)[..., None]
    return jnp.arange(LEVELS) // step * step


def solarize(threshold: chex.Array) -> chex.Array:
    """Tables int32 [..., 256] that invert the levels from `threshold` on."""
    levels = jnp.arange(LEVELS)
    return jnp.where(levels < threshold[..., None], levels, 255 - levels)


def solarize_add(addend: chex.Array) -> chex.Array:
    """Tables int32 [..., 256] that brighten the levels below 128 by `addend`."""
    levels = jnp.arange(LEVELS)
    return jnp.where(levels < 128, jnp.minimum(levels + addend[..., None], 255), levels)


def blend(level: chex.Array, factor: chex.Array) -> chex.Array:
    """Tables int32 [..., 256] from one level (factor 0) to the image (1) and beyond.

    Brightness blends with 0, contrast with the image's mean.
    """
    levels = jnp.arange(LEVELS)
    level = level[..., None]
    return blended(level, levels, factor[..., None])


def blended(degenerate: chex.Array, original: chex.Array, factor: chex.Array) -> chex.Array:
    """Pillow's ``Image.blend``: degenerate + factor (original - degenerate), cut to 0..255.

    Exact if the factor is a multiple of 2^-14 below 2^2: float32 then holds every term.

    Args:
      degenerate: whole numbers in 0..255, as `original`.
      original: whole numbers in 0..255.
      factor: float32, 0 for the one and 1 for the other.

    Returns:
      int32.
    """
    mixed = degenerate + factor * (original - degenerate).astype(jnp.float32)
    return jnp.floor(jnp.clip(mixed, 0, 255)).astype(jnp.int32)


def look_up(pixels: chex.Array, tables: chex.Array) -> chex.Array:
    """Maps uint8 pixels [B, S, S, C] through int32 tables [B, C, 256]; uint8."""
    batch, channels = pixels.shape[0], pixels.shape[3]
    flat = pixels.reshape(batch, -1, channels).astype(jnp.int32)
    mapped = jnp.take_along_axis(tables.swapaxes(1, 2).astype(jnp.uint8), flat, axis=1)
    return mapped.reshape(pixels.shape)
