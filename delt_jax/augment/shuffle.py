"""RDED's shuffled patches (arXiv 2312.03526): an image's rows and columns of patches permuted."""

import chex
import jax
import jax.numpy as jnp

VERSION = 1  # part of identities; raise it when results change


def strip_order(permutation: chex.Array, size: int) -> chex.Array:
    """Source index of each pixel of an axis whose strips are permuted.

    Strips are size // n pixels wide and the last one takes what is left over.

    Args:
      permutation: int [n], which strip comes first, second, and so on.
      size: pixels of the axis, at least n.

    Returns:
      int32 [size].
    """
    count = permutation.shape[0]
    starts = jnp.array([*range(0, count * (size // count), size // count), size])
    widths = jnp.diff(starts)[permutation]
    ends = jnp.cumsum(widths)
    pixel = jnp.arange(size)
    strip = jnp.searchsorted(ends, pixel, side="right", method="compare_all")
    return (starts[permutation] + widths - ends)[strip] + pixel


def shuffle(images: chex.Array, rows: chex.Array, columns: chex.Array) -> chex.Array:
    """Reads images [B, H, W, C] at rows int [B, H] and columns int [B, W]."""
    return jax.vmap(lambda image, r, c: image[r][:, c])(images, rows, columns)


def random_order(key: chex.PRNGKey, size: int, factor: int) -> tuple[chex.Array, chex.Array]:
    """Rows and columns, int32 [size] each, of an image cut into `factor` strips either way."""
    row_key, column_key = jax.random.split(key)
    rows, columns = (jax.random.permutation(k, factor) for k in (row_key, column_key))
    return strip_order(rows, size), strip_order(columns, size)
