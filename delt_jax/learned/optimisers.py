"""Optimisers of learned images: one transformation of a whole `Learned`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.learned.images import by_class
from delt_jax.learned.method import Learned, Setup


def of_parts(
    images: optax.GradientTransformation,
    labels: optax.GradientTransformation | None = None,
    extra: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Gives images, labels and each further array an optimiser; None leaves them as they are."""
    still = optax.set_to_zero()
    parts = {"images": images, "labels": labels or still, "extra": extra or still}

    def names(learned: Learned) -> Learned:
        return Learned("images", "labels", dict.fromkeys(learned.extra, "extra"))

    return optax.partition(parts, names)


def rated(
    make: Callable[[float], optax.GradientTransformation], setup: Setup
) -> optax.GradientTransformation:
    """The same kind of optimiser for images and labels, at their rates.

    Args:
      make: of a rate.
      setup: with the rates; labels of rate 0 stay as they are.
    """
    return of_parts(make(setup.image_rate), make(setup.label_rate) if setup.label_rate else None)


class Coasting(NamedTuple):
    """State of `coasting_sgd`: velocities of all images, float32 [N, S, S, C]."""

    velocity: chex.Array


def coasting_sgd(
    rate: chex.Array, momentum: float, num_classes: int
) -> optax.GradientTransformation:
    """SGD of a tensor of all classes that takes the gradient of one class after another (IDC).

    The released code makes a step for every class with a gradient of its images alone, but the
    velocity of the whole tensor is applied each time: class c coasts c times, takes its step, and
    coasts C - 1 - c times. Both runs of coasting are geometric sums, so an update has all classes
    at once. Gradients must be those at `before_turn`.

    Args:
      rate: learning rate, scalar or [C], of channels.
      momentum: of the velocity, as torch's SGD has it: v <- momentum v + gradient, x <- x - rate v.
      num_classes: equally many images each, in order.
    """

    def init(learned: Learned) -> Coasting:
        return Coasting(jnp.zeros_like(learned.images))

    def update(
        gradient: Learned, state: Coasting, params: Learned | None = None
    ) -> tuple[Learned, Coasting]:
        del params
        shape = state.velocity.shape
        before, after = _turns(num_classes, len(shape))
        start = by_class(state.velocity, num_classes)
        turned = momentum ** (before + 1) * start + by_class(gradient.images, num_classes)
        path = _sum_of_powers(momentum, before) * start
        path = path + turned + _sum_of_powers(momentum, after) * turned
        still = jax.tree.map(jnp.zeros_like, gradient)
        moved = still._replace(images=-rate * path.reshape(shape))
        return moved, Coasting((momentum**after * turned).reshape(shape))

    return optax.GradientTransformation(init, update)


def before_turn(
    state: Coasting, learned: Learned, rate: chex.Array, momentum: float, num_classes: int
) -> Learned:
    """Every class as it is when its turn comes, having coasted; arguments as of `coasting_sgd`."""
    before, _ = _turns(num_classes, state.velocity.ndim)
    path = _sum_of_powers(momentum, before) * by_class(state.velocity, num_classes)
    return learned._replace(images=learned.images - rate * path.reshape(learned.images.shape))


def _turns(num_classes: int, ndim: int) -> tuple[chex.Array, chex.Array]:
    """How often each class coasts before its turn and after it, float32 [classes, 1, ...]."""
    before = jnp.arange(num_classes, dtype=jnp.float32).reshape(-1, *[1] * ndim)
    return before, num_classes - 1 - before


def _sum_of_powers(momentum: float, count: chex.Array) -> chex.Array:
    """momentum + momentum^2 + ... + momentum^count."""
    return momentum * (1 - momentum**count) / (1 - momentum)


def momentum_sgd(momentum: float) -> Callable[[float], Any]:
    """SGD as torch has it, as `rated` takes it."""
    return lambda rate: optax.sgd(rate, momentum)
