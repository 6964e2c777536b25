"""Applies a function to some images of a batch; on a CPU at the cost of these images alone."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp


def apply(
    function: Callable[[chex.Array, Any], chex.Array],
    images: chex.Array,
    parameters: Any,
    wanted: chex.Array,
) -> chex.Array:
    """Applies a function to the wanted images; the others stay unchanged.

    A CPU gathers the wanted images and works on small chunks of them. Accelerators, where a whole
    batch at once is faster than a loop, compute all images and select. The results are equal.

    Args:
      function: maps images [k, ...] and parameters [k, ...] to images of the same shape, each
        image by itself.
      images: [B, ...].
      parameters: pytree of arrays [B, ...].
      wanted: bool [B].
    """
    return jax.lax.platform_dependent(
        images,
        parameters,
        wanted,
        cpu=lambda *args: in_chunks(function, *args),
        default=lambda *args: all_at_once(function, *args),
    )


def all_at_once(function, images, parameters, wanted):
    """`apply`, on all images."""
    mask = wanted.reshape(-1, *[1] * (images.ndim - 1))
    return jnp.where(mask, function(images, parameters), images)


def in_chunks(function, images, parameters, wanted):
    """`apply`, on chunks of an eighth of the batch, as many as hold the wanted images."""
    batch = images.shape[0]
    size = -(-batch // 8)
    order = jnp.argsort(~wanted)
    # Padded with an index out of range, which "clip" and "drop" below make harmless.
    order = jnp.concatenate([order, jnp.full(size, batch, order.dtype)])

    def one_chunk(i, current):
        at = jax.lax.dynamic_slice(order, (i * size,), (size,))
        at = jnp.where(i * size + jnp.arange(size) < wanted.sum(), at, batch)
        taken = jax.tree.map(lambda x: x.at[at].get(mode="clip"), (current, parameters))
        return current.at[at].set(function(*taken), mode="drop")

    return jax.lax.fori_loop(0, -(-wanted.sum() // size), one_chunk, images)
