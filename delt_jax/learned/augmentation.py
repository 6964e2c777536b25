"""DSA on both sides of a comparison, and on what networks train on."""

import chex
import jax

from delt_jax.augment import dsa
from delt_jax.augment.dsa import Parameters
from delt_jax.learned import sharing


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
    return _augmented(key, strategy, images, len(images), 0)


def each_of_all(key: chex.PRNGKey, strategy: str, images: chex.Array) -> chex.Array:
    """The same, where the images may be this device's share of a batch.

    An image's parameters are those that it has where one device has the whole batch.
    """
    count, place = len(images) * sharing.count(), sharing.place() * len(images)
    return _augmented(key, strategy, images, count, place)


def _augmented(
    key: chex.PRNGKey, strategy: str, images: chex.Array, count: int, place: int | chex.Array
) -> chex.Array:
    """Augments the images from `place` on of `count`."""
    if not strategy:
        return images
    parsed = dsa.parse(strategy)
    choice_key, draw_key = jax.random.split(key)
    keys = jax.random.split(draw_key, count)
    keys = jax.lax.dynamic_slice_in_dim(keys, place, len(images)) if count > len(images) else keys
    drawn: Parameters = jax.vmap(lambda k: dsa.draw(k, images.shape[1]))(keys)
    return dsa.augment(images, dsa.choose(choice_key, parsed), drawn, parsed)
