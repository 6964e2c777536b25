"""Residuals of real pixels in recovery (FADRM, arXiv 2506.24125), as pure functions.

The iterations are parted into blocks of equal length. At the start of every block but the first the
images are mixed with those that they started from, x <- (1 - share) x + share x_0, and Adam begins
anew, while the learning rate and the curriculum go on. FADRM's released code has a share of 0.5
(its alpha is 1 - share) and four blocks, starts from real patches, and on ImageNet also changes the
images' size from block to block, which is not done here.
"""

import chex
import jax.numpy as jnp


def block_start(done: chex.Array, total: chex.Array, blocks: int) -> chex.Array:
    """First iteration of the block that an iteration is in.

    Args:
      done: int32 [n], iterations before it, in [0, total).
      total: int32 [n], in all.
      blocks: into which these are parted, as equal as they can be; block k begins at
        ceil(k total / blocks).

    Returns:
      int32 [n], at most `done`.
    """
    k = jnp.floor_divide(done * blocks, total)
    return -jnp.floor_divide(-k * total, blocks)


def age(done: chex.Array, total: chex.Array, blocks: int) -> chex.Array:
    """Iterations since the last residual, int32 [n]: what Adam's bias correction counts."""
    return done - block_start(done, total, blocks)


def mix(
    images: chex.Array,
    starts: chex.Array,
    mu: chex.Array,
    nu: chex.Array,
    done: chex.Array,
    total: chex.Array,
    share: float,
    blocks: int,
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """What an iteration begins with: mixed images and no moments where it begins a later block.

    Images of the valid pixel range stay within it, as do any two such on the way between them. An
    image that joins with this iteration is its own start and keeps every bit.

    Args:
      images: [n, S, S, C], after `done` iterations.
      starts: the same images before any iteration.
      mu, nu: Adam's moments, same shape.
      done, total: int32 [n], as of `block_start`, as each image counts its iterations.
      share: of the starts, in [0, 1]; 0 mixes nothing, but Adam still begins anew.
      blocks: at least 1, which changes nothing.

    Returns:
      images, mu and nu.
    """
    chex.assert_equal_shape([images, starts, mu, nu])
    begins = (done > 0) & (age(done, total, blocks) == 0)
    where = begins[:, None, None, None]
    # By the difference, so that where there is none not a bit changes.
    mixed = images + jnp.asarray(share, images.dtype) * (starts - images)
    return (
        jnp.where(where, mixed, images),
        jnp.where(where, jnp.zeros_like(mu), mu),
        jnp.where(where, jnp.zeros_like(nu), nu),
    )
