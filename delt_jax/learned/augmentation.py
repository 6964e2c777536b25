"""DSA on both sides of a comparison, and on what networks train on."""

import chex
import jax

from delt_jax.augment import dsa
from delt_jax.augment.dsa import Parameters


def alike(key: chex.PRNGKey, strategy: str, *batches: chex.Array) -> tuple[chex.Array, ...]:
    """Augments batches [B, S, S, C] by one operation of each stage, with the same parameters.

    Args:
      key: of the draw.
      strategy: as `dsa.parse` reads it; empty changes nothing.
      *batches: of one size; each may have a length of its own.
    """
    if not strategy:
        return batches
    parsed, size = dsa.parse(strategy), batches[0].shape[1]
    choice_key, draw_key = jax.random.split(key)
    choice, drawn = dsa.choose(choice_key, parsed), dsa.draw(draw_key, size)
    return tuple(dsa.augment(batch, choice, drawn, parsed) for batch in batches)


def each(key: chex.PRNGKey, strategy: str, images: chex.Array) -> chex.Array:
    """Augments images [B, S, S, C] by operations that they share, with parameters of their own."""
    if not strategy:
        return images
    parsed = dsa.parse(strategy)
    choice_key, draw_key = jax.random.split(key)
    keys = jax.random.split(draw_key, len(images))
    drawn: Parameters = jax.vmap(lambda k: dsa.draw(k, images.shape[1]))(keys)
    return dsa.augment(images, dsa.choose(choice_key, parsed), drawn, parsed)
