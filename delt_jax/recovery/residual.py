"""Residuals of real pixels in recovery (FADRM, arXiv 2506.24125), as pure functions.

The iterations are split into blocks of equal length. At the start of every block but the first,
each image is mixed with its start image, x <- (1 - share) x + share x_0, and Adam starts afresh;
learning rate and curriculum go on. FADRM's released code has a share of 0.5 (its alpha is
1 - share) and four blocks, starts from real patches, and on ImageNet also changes the images' size
from block to block, which is not done here.
"""

import chex
import jax.numpy as jnp
import optax

from delt_jax.recovery.types import Clock


def block_start(done: chex.Array, total: chex.Array, blocks: int) -> chex.Array:
    """First iteration of the block that an iteration is in.

    Args:
      done: int32 [n], iterations before it, in [0, total).
      total: int32 [n], iterations in all.
      blocks: number of blocks, as equal in length as they can be: block k begins at
        ceil(k total / blocks).

    Returns:
      int32 [n], at most `done`.
    """
    k = jnp.floor_divide(done * blocks, total)
    return -jnp.floor_divide(-k * total, blocks)


def age(done: chex.Array, total: chex.Array, blocks: int) -> chex.Array:
    """Iterations since the block began, int32 [n]: what Adam's bias correction counts."""
    return done - block_start(done, total, blocks)


def mix(
    images: chex.Array,
    starts: chex.Array,
    adam: optax.ScaleByAdamState,
    clock: Clock,
    share: float,
    blocks: int,
) -> tuple[chex.Array, optax.ScaleByAdamState]:
    """Mixes start images in where a later block begins, and restarts Adam there.

    Two images of the valid pixel range stay within it when mixed. An image that joins with this
    iteration is its own start image and keeps every bit.

    Args:
      images: float32 [n, S, S, C], after `clock.done` iterations.
      starts: float32 [n, S, S, C], the same images before any iteration.
      adam: moments [n, S, S, C]; its count is not read.
      clock: of the images.
      share: of the start images, in [0, 1]; 0 mixes nothing, but Adam still restarts.
      blocks: at least 1; 1 changes nothing.

    Returns:
      Images, and Adam's state whose count is `age`.
    """
    chex.assert_equal_shape([images, starts, adam.mu, adam.nu])
    since = age(clock.done, clock.total, blocks)
    begins = block_begins(clock, blocks)[:, None, None, None]
    mu = jnp.where(begins, jnp.zeros_like(adam.mu), adam.mu)
    nu = jnp.where(begins, jnp.zeros_like(adam.nu), adam.nu)
    return mix_images(images, starts, clock, share, blocks), optax.ScaleByAdamState(since, mu, nu)


def block_begins(clock: Clock, blocks: int) -> chex.Array:
    """Which images begin a block but the first, bool [n]."""
    return (clock.done > 0) & (age(clock.done, clock.total, blocks) == 0)


def mix_images(
    images: chex.Array, starts: chex.Array, clock: Clock, share: float, blocks: int
) -> chex.Array:
    """The images of `mix` alone, for other optimisers than Adam."""
    # By the difference, so that equal images stay equal bit for bit.
    mixed = images + jnp.asarray(share, images.dtype) * (starts - images)
    return jnp.where(block_begins(clock, blocks)[:, None, None, None], mixed, images)
