"""Gradients of a network's weights on real and learned images of every class, compared."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from delt_jax.learned import augmentation, networks, sharing
from delt_jax.learned.images import by_class
from delt_jax.learned.method import Real, Setup
from delt_jax.models import forms

# (gradients on real images, gradients on learned ones) of one class -> how far they are apart
Distance = Callable[[Any, Any], chex.Array]


def total(
    key: chex.PRNGKey,
    images: chex.Array,
    params: Any,
    real: Real,
    setup: Setup,
    distance: Distance,
) -> chex.Array:
    """Sum over classes of the distance of both sides' gradients; differentiable in the images.

    Both sides of a class are augmented with the same parameters.

    Args:
      key: of the augmentation.
      images: float [N, S, S, C], decoded, class by class.
      params: of a network without BatchNorm.
      real: by class.
      setup: of the run.
      distance: of the gradients of one class.
    """
    classes = setup.num_classes

    def sides(key: chex.PRNGKey, number: chex.Array, real: chex.Array, images: chex.Array):
        label = jax.nn.one_hot(number, classes)
        real, images = augmentation.alike(key, setup.augment, real, images)
        wanted, found = (
            networks.gradients(params, x, jnp.tile(label, (len(x), 1)), setup.spec)
            for x in (real, images)
        )
        return jax.lax.stop_gradient(wanted), found

    with forms.in_loops():
        keys = jax.random.split(key, classes)
        given = keys, jnp.arange(classes), real.images, by_class(images, classes)
        # In turn: a CPU's caches hold one class, which also goes through one operation of DSA, not
        # all; and vmap makes grouped convolutions of gradients, which took ten times as long as
        # their operations should on an H100.
        wanted, found = jax.lax.map(lambda one: sides(*one), given)
    return jax.vmap(distance)(sharing.mean(wanted), found).sum()
