"""Learned images as networks see them: class by class, decoded, mirrored, within bounds."""

import math

import chex
import jax
import jax.numpy as jnp

from delt_jax.learned.method import Setup


def by_class(images: chex.Array, num_classes: int) -> chex.Array:
    """Views a set that is kept class by class, [N, ...], as [classes, N / classes, ...]."""
    return images.reshape(num_classes, -1, *images.shape[1:])


def decode(images: chex.Array, setup: Setup) -> chex.Array:
    """Cuts every stored image into its parts, each of which is enlarged to full size (IDC).

    Parts follow each other row by row, image by image. Enlarging is bilinear with pixel centres at
    halves, as torch's `align_corners=False`. A side that is no multiple of the factor is padded
    with grey (0.5 among pixels in [0, 1]) at its end first.

    Args:
      images: float [N, S, S, C].
      setup: with the factor and the bounds.

    Returns:
      float [N * factor^2, S, S, C]; the images themselves if the factor is 1.
    """
    factor, (count, size, _, channels) = setup.factor, images.shape
    if factor == 1:
        return images
    side = math.ceil(size / factor)
    padding = (0, factor * side - size)
    grey = (jnp.asarray(setup.low) + jnp.asarray(setup.high)).astype(images.dtype) / 2
    padded = jnp.pad(images - grey, ((0, 0), padding, padding, (0, 0))) + grey
    parts = padded.reshape(count, factor, side, factor, side, channels).swapaxes(2, 3)
    parts = parts.reshape(-1, side, side, channels)
    return jax.image.resize(parts, (len(parts), size, size, channels), "bilinear", antialias=False)


def encode(parts: chex.Array, factor: int) -> chex.Array:
    """Shrinks images and puts factor^2 of them into each stored one, as a start for `decode`.

    A side that is no multiple of the factor loses what does not fit behind the last parts.

    Args:
      parts: float [N * factor^2, S, S, C], in the order of `decode`.
      factor: of images along a side.

    Returns:
      float [N, S, S, C].
    """
    if factor == 1:
        return parts
    size, channels = parts.shape[1], parts.shape[3]
    side = math.ceil(size / factor)
    small = jax.image.resize(parts, (len(parts), side, side, channels), "bilinear", antialias=False)
    grid = small.reshape(-1, factor, factor, side, side, channels).swapaxes(2, 3)
    return grid.reshape(-1, factor * side, factor * side, channels)[:, :size, :size]


def with_mirrored(
    images: chex.Array, labels: chex.Array, is_mirrored: bool
) -> tuple[chex.Array, chex.Array]:
    """Puts a mirrored copy of every image, with its label, behind all others, if there are any.

    Args:
      images: [N, S, S, C].
      labels: [N, ...].
      is_mirrored: whether there are copies.
    """
    if not is_mirrored:
        return images, labels
    both = jnp.concatenate([images, images[:, :, ::-1]])
    return both, jnp.concatenate([labels, labels])


def within_bounds(images: chex.Array, setup: Setup) -> chex.Array:
    """Brings images [..., C] back between black and white of every channel."""
    return jnp.clip(images, jnp.asarray(setup.low), jnp.asarray(setup.high))
