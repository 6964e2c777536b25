"""Random resized crop, flip and roll as one linear map of the image.

All three only move and average pixels, so each is a matrix per axis:
``out = rows @ image @ columns.T``. Two small matrix products per image batch are fast on
every accelerator and differentiate to two more.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

VERSION = 1  # part of identities; raise it when results change

_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_BOX_DRAWS = 2 * _TRIES + 2  # areas, aspect ratios, and a position

Precision = jax.lax.Precision | jax.lax.DotAlgorithmPreset


class View(NamedTuple):
    """A crop, flip and shift of an image; leading axes, if any, index images.

    Attributes:
      box: int32 [..., 4], top, left, height, width of the crop; may stick out of the image, beyond
        which there are zeros, if it is of the result's size.
      flip: bool [...], mirror left-right after the crop.
      roll: int32 [..., 2], circular shift down and right, after the flip.
    """

    box: chex.Array
    flip: chex.Array
    roll: chex.Array


def full_view(size: int) -> View:
    """The view that leaves a size x size image unchanged."""
    return View(jnp.array([0, 0, size, size], jnp.int32), jnp.array(False), jnp.zeros(2, jnp.int32))


def resize_weights(
    start: chex.Array, length: chex.Array, in_size: int, out_size: int, antialias: bool
) -> chex.Array:
    """Matrix of a bilinear resize of ``pixels[start:start + length]`` to `out_size` pixels.

    Triangle filter with half-pixel centres; antialiasing widens it by the scale when
    shrinking. Taps outside the box are dropped and the rest renormalised, so nothing is read
    from beyond the crop: exactly crop-then-resize (torchvision's ``resized_crop``).

    Args:
      start: int scalar, first pixel of the box.
      length: int scalar, pixels in the box, at least 1.
      in_size: pixels of the image along this axis.
      out_size: pixels of the result.
      antialias: widen the filter when shrinking.

    Returns:
      float32 [out_size, in_size]; rows sum to 1, or to 0 where the box has left the image.
    """
    support = jnp.maximum(length / out_size, 1.0) if antialias else 1.0
    # Centres (o + 1/2) length / out_size - 1/2 within the box, as whole pixels and a fraction:
    # in integers, because float32 loses the fraction's digits in large images.
    halves = (2 * jnp.arange(out_size) + 1) * length - out_size
    whole, fraction = halves // (2 * out_size), halves % (2 * out_size) / (2 * out_size)
    pixel = jnp.arange(in_size) - start
    distance = jnp.abs(pixel[None, :] - whole[:, None] - fraction[:, None])
    weights = jnp.maximum(1.0 - distance / support, 0.0)
    inside = (pixel >= 0) & (pixel < length)
    weights = jnp.where(inside[None, :], weights, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def _view_weights(view: View, in_size: tuple[int, int], out_size: int, antialias: bool):
    top, left, height, width = view.box
    rows = resize_weights(top, height, in_size[0], out_size, antialias)
    columns = resize_weights(left, width, in_size[1], out_size, antialias)
    columns = jnp.where(view.flip, columns[::-1], columns)
    return jnp.roll(rows, view.roll[0], axis=0), jnp.roll(columns, view.roll[1], axis=0)


def view_images(
    images: chex.Array,
    view: View,
    out_size: int,
    antialias: bool = True,
    precision: Precision = jax.lax.Precision.HIGHEST,
) -> chex.Array:
    """Crops, resizes, flips and rolls a batch of images.

    Args:
      images: float [B, H, W, C].
      view: one view shared by all images (no leading axis), or one per image (leading B).
      out_size: side of the square result.
      antialias: see `resize_weights`.
      precision: of the matrix products. TF32 or bfloat16, the defaults on GPU and TPU, would blur
        the pixels of float32 activations.

    Returns:
      float [B, out_size, out_size, C].
    """
    chex.assert_rank(images, 4)
    size = images.shape[1:3]
    if view.box.ndim == 1:
        rows, columns = _view_weights(view, size, out_size, antialias)
        return jnp.einsum("oh,bhwc,pw->bopc", rows, images, columns, precision=precision)
    chex.assert_equal(view.box.shape[0], images.shape[0])
    rows, columns = jax.vmap(lambda v: _view_weights(v, size, out_size, antialias))(view)
    return jnp.einsum("boh,bhwc,bpw->bopc", rows, images, columns, precision=precision)


def random_box(
    key: chex.PRNGKey,
    size: tuple[int, int],
    min_scale: chex.Array | float,
    aspect: tuple[float, float] = _ASPECT,
) -> chex.Array:
    """Crop box of torchvision's RandomResizedCrop(scale=(min_scale, 1), ratio=aspect).

    Ten tries of a uniform area fraction and a log-uniform aspect ratio, rounded to pixels;
    the first that fits gets a uniform position. If none fits: the central crop closest to
    the aspect range.

    Args:
      key: PRNG key.
      size: (height, width) of the image.
      min_scale: smallest area fraction, may be traced.
      aspect: smallest and largest ratio of width to height.

    Returns:
      int32 [4]: top, left, height, width.
    """
    return _box(jax.random.uniform(key, (_BOX_DRAWS,)), size, min_scale, aspect)


def _box(
    draws: chex.Array,
    size: tuple[int, int],
    min_scale: chex.Array | float,
    aspect: tuple[float, float] = _ASPECT,
) -> chex.Array:
    """`random_box` of `_BOX_DRAWS` numbers in [0, 1): many small draws would compile slowly."""
    height, width = size
    area = height * width * (min_scale + (1.0 - min_scale) * draws[:_TRIES])
    log_low, log_high = jnp.log(aspect[0]), jnp.log(aspect[1])
    ratio = jnp.exp(log_low + (log_high - log_low) * draws[_TRIES : 2 * _TRIES])
    w = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    h = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits)
    any_fits = fits.any()
    in_ratio = width / height
    fallback_w = round(height * aspect[1]) if in_ratio > aspect[1] else width
    fallback_h = round(width / aspect[0]) if in_ratio < aspect[0] else height
    h = jnp.where(any_fits, h[first], fallback_h)
    w = jnp.where(any_fits, w[first], fallback_w)
    top = jnp.where(any_fits, _below(draws[-2], height - h + 1), (height - fallback_h) // 2)
    left = jnp.where(any_fits, _below(draws[-1], width - w + 1), (width - fallback_w) // 2)
    return jnp.stack([top, left, h, w]).astype(jnp.int32)


def _below(draw: chex.Array, count: chex.Array | int) -> chex.Array:
    """Maps a draw in [0, 1) to a whole number in 0..count - 1."""
    return jnp.minimum(jnp.floor(draw * count).astype(jnp.int32), count - 1)


def random_view(
    key: chex.PRNGKey,
    size: int,
    min_scale: chex.Array,
    flip: bool = True,
    shifts: tuple[int, int] = (0, 0),
    padding: int = 0,
) -> View:
    """Draws one view of a size x size image.

    Args:
      key: PRNG key.
      size: side of the image.
      min_scale: smallest area fraction of the crop.
      flip: mirror with probability 1/2.
      shifts: smallest and largest circular shift in pixels, each axis uniform between them.
      padding: instead of a resized crop, takes one of the image's size out of the image with so
        many pixels of zeros around it; 0 takes resized crops.
    """
    draws = jax.random.uniform(key, (_BOX_DRAWS + 3,))
    low, high = shifts
    roll = _below(draws[_BOX_DRAWS + 1 :], high - low + 1)
    return View(
        box=_padded_box(draws[_BOX_DRAWS - 2 : _BOX_DRAWS], size, padding)
        if padding
        else _box(draws[:_BOX_DRAWS], (size, size), min_scale),
        flip=(draws[_BOX_DRAWS] < 0.5) & flip,
        roll=roll + low if low else roll,
    )


def _padded_box(draws: chex.Array, size: int, padding: int) -> chex.Array:
    """Box of torchvision's RandomCrop(size, padding), which sticks out of the image at random.

    Args:
      draws: float32 [2] in [0, 1), for the place from the top and from the left.
      size: side of the image.
      padding: pixels of zeros around it.

    Returns:
      int32 [4]: top, left, height, width.
    """
    corner = _below(draws, 2 * padding + 1) - padding
    return jnp.concatenate([corner, jnp.full(2, size, jnp.int32)])


def random_shift(key: chex.PRNGKey, images: chex.Array, padding: int) -> chex.Array:
    """Zero-pads each image [B, H, W, C] by `padding` pixels and crops it at a random place.

    The usual augmentation of small images since ResNet (arXiv 1512.03385, section 4.2).
    """
    batch, height, width, channels = images.shape
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, pad)
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def cut(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(cut)(padded, corners)


def random_flip(key: chex.PRNGKey, images: chex.Array) -> chex.Array:
    """Mirrors each image [B, H, W, C] left-right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
