"""Work on some images of a batch, at about the cost of those alone where devices are slow."""

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
    """Replaces the wanted images by what a function makes of them.

    A CPU gathers them and takes a few at a time, as often as it takes; other devices, which do
    a whole batch at once faster than they branch, do all and keep the wanted. The result is the
    same.

    Args:
      function: of images [k, ...] and parameters [k, ...], image by image; keeps the shape.
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
    order = jnp.concatenate([order, jnp.full(size, batch, order.dtype)])  # beyond the last image

    def one_chunk(i, current):
        at = jax.lax.dynamic_slice(order, (i * size,), (size,))
        at = jnp.where(i * size + jnp.arange(size) < wanted.sum(), at, batch)
        taken = jax.tree.map(lambda x: x.at[at].get(mode="clip"), (current, parameters))
        return current.at[at].set(function(*taken), mode="drop")

    return jax.lax.fori_loop(0, -(-wanted.sum() // size), one_chunk, images)
