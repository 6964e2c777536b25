"""What turns gradients into steps: Adam, or an optimiser from outside, for every image by itself.

A plug-in is an `optax.GradientTransformation`, or a function without arguments that returns one.
Its `init` and `update` see a single image, so every image has its own state, which begins when the
image joins. As with `optax.scale_by_adam`, its updates are multiplied by the learning rate and then
subtracted; it has neither rate nor sign.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.core import plugins
from delt_jax.errors import UserError

ADAM = "adam"


class OptimiserState(NamedTuple):
    """State of the optimiser of some images, as of `RecoverState`."""

    mu: Any
    nu: Any
    plugged: Any


@functools.lru_cache(maxsize=16)
def find(name: str) -> optax.GradientTransformation:
    """The optimiser of a plug-in.

    Raises:
      UserError: if there is none, or its state is no pytree of plain arrays.
    """
    found = plugins.find(plugins.OPTIMISERS, name, {})
    if not isinstance(found, optax.GradientTransformation):
        found = plugins.call(plugins.OPTIMISERS, name, found)
    what = "an optax.GradientTransformation, or a function that returns one"
    plugins.checked(plugins.OPTIMISERS, name, found, optax.GradientTransformation, what)
    image = jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)

    def step(image):
        before = found.init(image)
        updates, after = found.update(image, before, image)
        return updates, before, after

    updates, before, after = plugins.call(plugins.OPTIMISERS, name, jax.eval_shape, step, image)
    plain = all(jnp.issubdtype(leaf.dtype, jnp.number) for leaf in jax.tree.leaves(before))
    if jax.tree.map(_kind, before) != jax.tree.map(_kind, after) or not plain:
        raise UserError(
            f"The optimiser {name!r} must keep a pytree of numbers whose shapes and types stay; "
            f"it begins with {jax.tree.map(_kind, before)} and goes on with "
            f"{jax.tree.map(_kind, after)}."
        )
    if _kind(updates) != _kind(image):
        raise UserError(
            f"The optimiser {name!r} must return updates like the image, float32 [S, S, C]."
        )
    return found


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def version(name: str) -> int:
    """Version of an optimiser from outside."""
    return plugins.version(plugins.OPTIMISERS, name)


def parts(name: str) -> dict[str, int]:
    """Version by the name of the part; {} for Adam, which belongs to the step."""
    return {} if name == ADAM else {f"optimiser.{name}": version(name)}


def begin(name: str, images: chex.Array) -> OptimiserState:
    """The state before the first step of images [n, S, S, C]."""
    if name != ADAM:
        return OptimiserState((), (), jax.vmap(find(name).init)(images))
    return OptimiserState(jnp.zeros_like(images), jnp.zeros_like(images), ())


def restarted(name: str, state: Any, images: chex.Array, begins: chex.Array) -> Any:
    """The state of an optimiser from outside, begun anew for some images.

    Args:
      name: of the optimiser.
      state: arrays [n, ...].
      images: float32 [n, S, S, C], as they are now.
      begins: bool [n], which of them begin.
    """
    fresh = begin(name, images).plugged
    return jax.tree.map(
        lambda new, old: jnp.where(begins.reshape(-1, *[1] * (new.ndim - 1)), new, old),
        fresh,
        state,
    )


def step(
    name: str,
    images: chex.Array,
    grads: chex.Array,
    state: Any,
    rate: chex.Array,
    bounds: tuple[chex.Array, chex.Array],
) -> tuple[chex.Array, Any]:
    """A step of an optimiser from outside for every image by itself, clipped to valid pixels.

    Args:
      name: of the optimiser.
      images, grads: float32 [n, S, S, C].
      state: arrays [n, ...].
      rate: float32 [n], learning rate of each image.
      bounds: smallest and largest valid pixel, float32 [C] each.

    Returns:
      Images and state after the step.
    """
    updates, state = jax.vmap(find(name).update)(grads, state, images)
    return jnp.clip(images - rate[:, None, None, None] * updates, *bounds), state
