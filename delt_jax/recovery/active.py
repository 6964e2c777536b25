"""Which images of a batch take part in an iteration: a part of its arrays, and a mask within it."""

import chex
import jax.numpy as jnp

from delt_jax.recovery.types import Active, BatchInputs


def take(x: chex.Array, active: Active) -> chex.Array:
    """The active images' part of x [B, ...]."""
    # The first ones are a slice; other positions need a gather.
    return x[:active] if isinstance(active, int) else x[jnp.array(active)]


def put(x: chex.Array, part: chex.Array, active: Active) -> chex.Array:
    """x [B, ...] with the active images' part replaced."""
    if isinstance(active, int):
        return part if active == len(x) else x.at[:active].set(part)
    return x.at[jnp.array(active)].set(part)


def mask(step: chex.Array, inputs: BatchInputs, count: int) -> chex.Array:
    """Which of the first `count` images it is the time of, bool [count]; `step` is int32."""
    starts, ends = inputs.start_iterations[:count], inputs.end_iterations[:count]
    return (starts <= step) & (step < ends)


def weights(taking_part: chex.Array) -> chex.Array:
    """Equal weights of the images that take part [n], which sum to 1; 0 for the others.

    All are 0 where no image takes part.
    """
    chosen = taking_part.astype(jnp.float32)
    return chosen / jnp.maximum(chosen.sum(), 1.0)


def only(taking_part: chex.Array, new: chex.Array, old: chex.Array | float) -> chex.Array:
    """`new` [n, ...] for the images that take part [n], `old` for the others."""
    return jnp.where(taking_part.reshape(-1, *[1] * (new.ndim - 1)), new, old)
