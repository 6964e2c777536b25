"""Distance of a batch's running statistics from real ones (G-VBSM, arXiv 2311.17950; EDC).

Every batch has its own running average, so batches stay independent.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.core.losses import Moments, distance
from delt_jax.recipe import RecoverRecipe
from delt_jax.teachers.layer_statistics import Statistics


class Target(NamedTuple):
    """What is matched, and how.

    Attributes:
      real: statistics of all real images, or per class with a leading axis [classes].
      momentum: float32, weight of the average so far.
      conv_drop: float32, probability that an iteration leaves a convolution out.
      first: float32, weight of the first layer, the convolution that sees the images.
    """

    real: Statistics
    momentum: chex.Numeric
    conv_drop: chex.Numeric
    first: chex.Numeric


class Followed(NamedTuple):
    """A running average.

    Attributes:
      begun: bool scalar, whether it holds any iteration yet.
      average: of the batch's statistics so far.
    """

    begun: chex.Array
    average: Statistics


def target(real: Statistics, recipe: RecoverRecipe) -> Target:
    """The target of some real statistics, with the recipe's settings."""
    settings = (recipe.statistics_momentum, recipe.conv_drop, recipe.first_bn_multiplier)
    return Target(real, *(np.float32(value) for value in settings))


def begin(like: Statistics) -> Followed:
    """The running average before the first iteration; `like` gives its shapes."""
    return Followed(np.zeros((), bool), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like))


def follow(
    now: Statistics, before: Followed, momentum: chex.Numeric
) -> tuple[Statistics, Followed]:
    """Averages a batch's statistics over its iterations.

    The average starts from the first value; the released code starts from 0, which is too low for
    some ten iterations. The gradient is that of the newest value, not scaled by its weight.

    Returns:
      The average to be matched, and the state for the next iteration.
    """
    fixed = jax.lax.stop_gradient(now)

    def mixed(old, new):
        return jnp.where(before.begun, momentum * old + (1 - momentum) * new, new)

    average = jax.tree.map(mixed, before.average, fixed)
    # The value of the average with the gradient of `now`.
    matched = jax.tree.map(lambda a, s, f: a + (s - f), average, now, fixed)
    return matched, Followed(jnp.ones_like(before.begun), average)


def residual(
    matched: Statistics, real: Statistics, target: Target, key: chex.PRNGKey
) -> chex.Array:
    """Sum over layers of ||mean - real mean|| + ||variance - real variance||, float32 scalar.

    Plain norms, neither squared nor averaged. `key` draws which convolutions are left out.
    """

    def off(a: Moments, b: Moments) -> chex.Array:
        return distance(a.variance, b.variance) + distance(a.mean, b.mean)

    norms = sum(off(a, b) for a, b in zip(matched.norms, real.norms, strict=True))
    channels = jnp.stack([off(a, b) for a, b in zip(matched.convs, real.convs, strict=True)])
    cells = jnp.stack([off(a, b) for a, b in zip(matched.cells, real.cells, strict=True)])
    counted = jax.random.bernoulli(key, 1 - target.conv_drop, channels.shape)
    convs = jnp.where(counted, channels + cells, 0.0)
    return norms + convs.sum() + (target.first - 1) * convs[0]
