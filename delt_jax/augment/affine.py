"""Shear, translation and rotation by one resampling, with Pillow's conventions.

Coordinates are those of ``Image.transform(size, AFFINE, matrix, resample, fillcolor)``: pixel
centres at halves, `matrix` from the result to the source, edge pixels repeated below the filter,
and `fill` wherever a centre falls outside the source.
"""

import chex
import jax
import jax.numpy as jnp

# Coefficients are multiples of 1/4096. float32 then holds every coordinate of an image of up to
# 1024 pixels exactly, so views do not depend on how XLA orders the arithmetic.
_STEPS = 4096
# Added before the fraction is cut off, so that rounding errors do not turn 99.99999 into 99.
_GUARD = 2.0**-12
_TAPS = 4


def shear_x(amount: chex.Array) -> chex.Array:
    """Matrix [..., 6] that reads row y at `amount` * y further right."""
    return _matrix(1.0, amount, 0.0, 0.0, 1.0, 0.0)


def shear_y(amount: chex.Array) -> chex.Array:
    """Matrix [..., 6] that reads column x at `amount` * x further down."""
    return _matrix(1.0, 0.0, 0.0, amount, 1.0, 0.0)


def translate(right: chex.Array, down: chex.Array) -> chex.Array:
    """Matrix [..., 6] that reads `right` pixels further right and `down` further down."""
    return _matrix(1.0, 0.0, right, 0.0, 1.0, down)


def rotate(degrees: chex.Array, size: int) -> chex.Array:
    """Matrix [..., 6] that turns a size x size image counter-clockwise about its centre."""
    cosine = _stepped(jnp.cos(jnp.deg2rad(degrees)))
    sine = _stepped(-jnp.sin(jnp.deg2rad(degrees)))
    half = size / 2
    return _matrix(
        cosine, sine, half * (1 - cosine - sine), -sine, cosine, half * (1 + sine - cosine)
    )


def _stepped(values: chex.Array) -> chex.Array:
    return jnp.round(values * _STEPS) / _STEPS


def _matrix(*coefficients: chex.Array) -> chex.Array:
    return jnp.stack(jnp.broadcast_arrays(*map(_stepped, map(jnp.float32, coefficients))), -1)


def resample(
    pixels: chex.Array, matrix: chex.Array, bicubic: chex.Array, fill: tuple[int, ...]
) -> chex.Array:
    """Reads each image through its matrix.

    Args:
      pixels: uint8 [B, S, S, C].
      matrix: float32 [B, 6]: (a, b, c, d, e, f) reads (a x + b y + c, d x + e y + f).
      bicubic: bool [B], cubic (a = -1) instead of linear interpolation.
      fill: colour outside the source, C values in 0..255.

    Returns:
      uint8 [B, S, S, C]. Fractions are cut off as in Pillow, which computes in float64, so some
      pixels differ by one grey level.
    """
    size, channels = pixels.shape[1], pixels.shape[3]
    a, b, c, d, e, f = (matrix[:, i, None, None] for i in range(6))
    centre = jnp.arange(size) + 0.5
    x = a * centre + b * centre[:, None] + c
    y = d * centre + e * centre[:, None] + f
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    x, left, y, top = x - 0.5, jnp.floor(x - 0.5), y - 0.5, jnp.floor(y - 0.5)
    across = _weights(x - left, bicubic[:, None, None])
    along = _weights(y - top, bicubic[:, None, None])
    # The four taps start one pixel before `left`, so two repeated pixels on each side suffice.
    margin = _TAPS // 2
    padded = jnp.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "edge")
    width = size + 2 * margin
    corner = width * jnp.clip(top + 1, 0, size) + jnp.clip(left + 1, 0, size)
    flat = padded.reshape(-1, width * width, channels)
    first = corner.astype(jnp.int32).reshape(-1, size * size)
    total = jnp.zeros((*x.shape, channels), jnp.float32)
    for i, row in enumerate(along):
        for j, column in enumerate(across):
            # One gather per tap, [B, S * S, C]: the taps are neighbours at fixed distances.
            tap = jax.vmap(lambda image, at: image[at])(flat, first + (i * width + j))
            total += (row * column)[..., None] * tap.reshape(total.shape)
    value = jnp.floor(jnp.clip(total, 0, 255) + _GUARD)
    return jnp.where(inside[..., None], value, jnp.asarray(fill, jnp.float32)).astype(jnp.uint8)


def _weights(d: chex.Array, bicubic: chex.Array) -> list[chex.Array]:
    """Weights of the four taps around a point at distance `d` in [0, 1) after the second tap."""
    square, cube = d * d, d * d * d
    cubic = (
        2 * square - d - cube,
        1 - 2 * square + cube,
        d + square - cube,
        cube - square,
    )
    zero = jnp.zeros_like(d)
    linear = (zero, 1 - d, d, zero)
    return [jnp.where(bicubic, c, li) for c, li in zip(cubic, linear, strict=True)]
