"""How far a batch's statistics are from real ones, in a running average (G-VBSM, EDC).

Batches stay independent: every one starts an average of its own.
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
    """What is matched, and how; float32 scalars beside the statistics.

    Attributes:
      real: of all real images, or per class with a leading axis [classes].
      momentum: weight of the average so far.
      conv_drop: probability that a convolution's part is left out of an iteration.
      first: how often the first layer counts, the convolution that sees the images.
    """

    real: Statistics
    momentum: chex.Numeric
    conv_drop: chex.Numeric
    first: chex.Numeric


class Followed(NamedTuple):
    """A running average, and whether it has begun."""

    begun: chex.Array
    average: Statistics


def target(real: Statistics, recipe: RecoverRecipe) -> Target:
    """With the recipe's settings."""
    settings = (recipe.statistics_momentum, recipe.conv_drop, recipe.first_bn_multiplier)
    return Target(real, *(np.float32(value) for value in settings))


def begin(like: Statistics) -> Followed:
    """Before the first iteration."""
    return Followed(np.zeros((), bool), jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like))


def follow(
    now: Statistics, before: Followed, momentum: chex.Numeric
) -> tuple[Statistics, Followed]:
    """A batch's statistics, averaged over the iterations so far.

    The average starts from the first value, where the released code starts from 0 and so is too
    low for some ten iterations. Its gradient is all of the newest value's.
    """
    fixed = jax.lax.stop_gradient(now)

    def mixed(old, new):
        return jnp.where(before.begun, momentum * old + (1 - momentum) * new, new)

    average = jax.tree.map(mixed, before.average, fixed)
    matched = jax.tree.map(lambda a, s, f: a + (s - f), average, now, fixed)
    return matched, Followed(jnp.ones_like(before.begun), average)


def residual(
    matched: Statistics, real: Statistics, target: Target, key: chex.PRNGKey
) -> chex.Array:
    """Sum over layers of the plain norms of what means and variances are off; float32 scalar."""

    def off(a: Moments, b: Moments) -> chex.Array:
        return distance(a.variance, b.variance) + distance(a.mean, b.mean)

    norms = sum(off(a, b) for a, b in zip(matched.norms, real.norms, strict=True))
    channels = jnp.stack([off(a, b) for a, b in zip(matched.convs, real.convs, strict=True)])
    cells = jnp.stack([off(a, b) for a, b in zip(matched.cells, real.cells, strict=True)])
    counted = jax.random.bernoulli(key, 1 - target.conv_drop, channels.shape)
    convs = jnp.where(counted, channels + cells, 0.0)
    return norms + convs.sum() + (target.first - 1) * convs[0]
