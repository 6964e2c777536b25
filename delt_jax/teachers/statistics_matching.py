"""Distance of a batch's running statistics from real ones (G-VBSM, arXiv 2311.17950; EDC).

Every batch has its own running average, so batches stay independent.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.core.losses import Moments, distance
from delt_jax.recipe import Recipe, RecoverRecipe
from delt_jax.teachers.layer_statistics import Statistics

# Part of identities where convolutions are left out; raise it when results with them change.
DROP_VERSION = 2


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
      begun: bool [1 + convolutions], whether the averages of all BatchNorms, and of each
        convolution, hold any iteration yet.
      average: of the batch's statistics so far.
    """

    begun: chex.Array
    average: Statistics


class Distances(NamedTuple):
    """Distances of averages from real statistics.

    Attributes:
      norms: float32 [BatchNorms], ||mean - real mean|| + ||variance - real variance|| each.
      convs: float32 [convolutions], the same of the channels plus that of the cells.
    """

    norms: chex.Array
    convs: chex.Array


def parts(recipe: Recipe) -> dict[str, int]:
    """Versions of what only some recipes use of this."""
    return {"statistics.conv_drop": DROP_VERSION} if recipe.recover.conv_drop else {}


def target(real: Statistics, recipe: RecoverRecipe) -> Target:
    """The target of some real statistics, with the recipe's settings."""
    settings = (recipe.statistics_momentum, recipe.conv_drop, recipe.first_bn_multiplier)
    return Target(real, *(np.float32(value) for value in settings))


def begin(like: Statistics) -> Followed:
    """The running average before the first iteration; `like` gives its shapes."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    return Followed(np.zeros(1 + len(like.convs), bool), zeros)


def match(
    now: Statistics, real: Statistics, target: Target, before: Followed, key: chex.PRNGKey
) -> tuple[chex.Array, Followed]:
    """Distance of a batch's running statistics from real ones, in one iteration.

    Args:
      now: statistics of the batch as it is.
      real: what they are to be.
      target: how they are matched; its own `real` is not read.
      before: averages before the iteration.
      key: draws which convolutions are left out.

    Returns:
      The weighted sum of the distances, float32 scalar, and the averages after the iteration.
    """
    counted = jax.random.bernoulli(key, 1 - target.conv_drop, (len(now.convs),))
    matched, after = follow(now, before, target.momentum, counted)
    return total(distances(matched, real), target.first, counted), after


def follow(
    now: Statistics, before: Followed, momentum: chex.Numeric, counted: chex.Array
) -> tuple[Statistics, Followed]:
    """Averages a batch's statistics over its iterations.

    An average starts from the first value; the released code starts from 0, which is too low for
    some ten iterations. The gradient is that of the newest value, not scaled by its weight. The
    average of a convolution that is left out stands still.

    Args:
      now: statistics of the batch as it is.
      before: averages before the iteration.
      momentum: weight of the average so far.
      counted: bool [convolutions], false for those that this iteration leaves out.

    Returns:
      The averages to be matched, and the state for the next iteration.
    """
    fixed = jax.lax.stop_gradient(now)

    def averaged(old: Moments, new: Moments, begun: chex.Array, is_counted: Any) -> Moments:
        def mixed(a, b):
            mean = jnp.where(begun, momentum * a + (1 - momentum) * b, b)
            return mean if is_counted is True else jnp.where(is_counted, mean, a)

        return jax.tree.map(mixed, old, new)

    def of_convs(old: tuple[Moments, ...], new: tuple[Moments, ...]) -> tuple[Moments, ...]:
        return tuple(map(averaged, old, new, begun[1:], counted))

    begun, old = before.begun, before.average
    average = Statistics(
        tuple(averaged(a, b, begun[0], True) for a, b in zip(old.norms, fixed.norms, strict=True)),
        of_convs(old.convs, fixed.convs),
        of_convs(old.cells, fixed.cells),
    )
    # The value of the average with the gradient of `now`.
    matched = jax.tree.map(lambda a, s, f: a + (s - f), average, now, fixed)
    seen = jnp.concatenate([jnp.ones(1, bool), counted])
    return matched, Followed(begun | seen, average)


def distances(matched: Statistics, real: Statistics) -> Distances:
    """Distances of statistics from real ones, layer by layer: plain norms, not squared."""

    def off(a: Moments, b: Moments) -> chex.Array:
        return distance(a.variance, b.variance) + distance(a.mean, b.mean)

    norms, channels, cells = (
        jnp.stack([off(a, b) for a, b in zip(ours, theirs, strict=True)])
        for ours, theirs in zip(matched, real, strict=True)
    )
    return Distances(norms, channels + cells)


def total(off: Distances, first: chex.Numeric, counted: chex.Array) -> chex.Array:
    """Sum of distances, in which the first convolution counts `first` times.

    Args:
      off: distances of all layers.
      first: weight of the first convolution.
      counted: bool [convolutions], false for those that are left out.
    """
    convs = jnp.where(counted, off.convs, 0.0)
    return off.norms.sum() + convs.sum() + (first - 1) * convs[0]
