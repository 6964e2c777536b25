"""Losses of trajectory matching: MTT, and where FTD, TESLA, DATM and ATT differ from it.

A student starts from an expert's weights and takes steps on the learned images; its end is compared
with the expert's weights some epochs on. `segment` is such a pair of weights.
"""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.learned import unrolled
from delt_jax.learned.unrolled import InnerLoss


class Segment(NamedTuple):
    """A piece of an expert's training.

    Attributes:
      start: its weights at the start of an epoch.
      target: its weights some epochs later.
    """

    start: Any
    target: Any


def squared_distance(one: Any, other: Any) -> chex.Array:
    """Sum of squared differences over all weights, scalar."""
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), one, other)
    return jax.tree.reduce(jnp.add, squares)


def absolute_distance(one: Any, other: Any) -> chex.Array:
    """Sum of absolute differences over all weights, scalar."""
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.abs(a - b).sum(), one, other))


def mtt_loss(
    loss: InnerLoss, segment: Segment, learned: Any, steps: Any, rate: chex.Array
) -> chex.Array:
    """|| theta_N - target ||^2 / || start - target ||^2 (MTT, arXiv 2203.11932, equation 2).

    It is 1 without steps.

    Args:
      loss: of an inner step.
      segment: of an expert.
      learned: images and labels.
      steps: of the student, with a leading axis N.
      rate: the student's learning rate, which may be learned, too.
    """
    end = unrolled.descend(loss, segment.start, learned, steps, rate)
    return squared_distance(end, segment.target) / squared_distance(*segment)


def tesla_gradient(
    loss: InnerLoss, segment: Segment, learned: Any, steps: Any, rate: chex.Array
) -> tuple[chex.Array, Any, chex.Array]:
    """TESLA's estimate of the gradient of `mtt_loss` (arXiv 2211.10586, section 3.2).

    It takes the weights before each step as constants, so it is another estimator than the
    derivative of `mtt_loss`, which also runs through them; the two part as the rate grows. It
    needs no checkpoints: one pass sums the gradients, a second one weighs each.

    Args:
      loss: of an inner step.
      segment: of an expert.
      learned: images and labels.
      steps: of the student, with a leading axis.
      rate: the student's learning rate.

    Returns:
      The loss, and its gradients with respect to `learned` and `rate`.
    """
    rate = jnp.asarray(rate)

    def walk(carry, drawn):
        params, summed = carry
        grads = jax.grad(loss)(params, learned, drawn)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        return (params, jax.tree.map(jnp.add, summed, grads)), None

    still = jax.tree.map(jnp.zeros_like, segment.start)
    end, summed = jax.lax.scan(walk, (segment.start, still), steps)[0]
    total = squared_distance(*segment)
    gap = jax.tree.map(jnp.subtract, end, segment.target)
    # What a gradient of the student is worth: d loss / d g_i = -2 rate (theta_N - target) / total.
    weights = jax.tree.map(lambda g: -2 * rate * g / total, gap)

    def weigh(carry, drawn):
        params, into = carry

        def inner(learned):
            grads = jax.grad(loss)(params, learned, drawn)
            return optax.tree.vdot(weights, grads), grads

        (_, grads), more = jax.value_and_grad(inner, has_aux=True)(learned)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        return (params, jax.tree.map(jnp.add, into, more)), None

    zeros = jax.tree.map(jnp.zeros_like, learned)
    of_learned = jax.lax.scan(weigh, (segment.start, zeros), steps)[0][1]
    of_rate = -2 * optax.tree.vdot(gap, summed) / total
    return squared_distance(end, segment.target) / total, of_learned, of_rate


def att_loss(
    loss: InnerLoss, segment: Segment, learned: Any, steps: Any, rate: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """MTT's loss at the step at which the student is nearest to the target (ATT).

    The choice is not differentiated, and nothing flows through later steps. Nearest is by the sum
    of absolute differences, as the released code has it, and of equal ones the later; the paper
    (arXiv 2407.14245, section 3.2) writes the squared norm. A step that has diverged is never
    nearest; where the first one has, the loss is not finite.

    Args:
      loss: of an inner step.
      segment: of an expert.
      learned: images and labels.
      steps: the longest training of the student, with a leading axis.
      rate: its learning rate.

    Returns:
      The loss, and the number of steps that were taken, int32 from 1 on.
    """

    def measure(params):
        return absolute_distance(params, segment.target)

    # Walked once to choose, and once, no further than chosen, to be differentiated.
    constant, constant_rate = jax.lax.stop_gradient((learned, rate))
    near = unrolled.descend_measured(loss, segment.start, constant, steps, constant_rate, measure)
    near = jnp.where(jnp.isfinite(near), near, jnp.inf)
    taken = (len(near) - jnp.argmin(near[::-1])).astype(jnp.int32)
    end = unrolled.descend(loss, segment.start, learned, steps, rate, taken)
    return squared_distance(end, segment.target) / squared_distance(*segment), taken


def latest_start(step: int, first: int, last: int, grown_at: int) -> int:
    """The epoch before which a piece starts, which grows linearly (DATM).

    Args:
      step: number of the outer step.
      first: the epoch at step 0.
      last: the epoch from step `grown_at` on.
      grown_at: 0 where it does not grow.
    """
    share = min(step / grown_at, 1.0) if grown_at else 1.0
    return math.floor(first + share * (last - first))
