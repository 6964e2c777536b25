"""Training that is differentiated: gradient steps in a loop, as functions of what is learned.

An inner loss is `loss(params, learned, step) -> scalar`, where `step` holds what one step draws,
such as indices and keys; `steps` have a leading axis. Every step is a checkpoint: memory holds the
weights before each, and what one step needs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

InnerLoss = Callable[[Any, Any, Any], chex.Array]


def descend(
    loss: InnerLoss,
    params: Any,
    learned: Any,
    steps: Any,
    rate: chex.Array,
    count: chex.Array | None = None,
) -> Any:
    """Plain gradient descent: params <- params - rate * grad loss, once for each of `steps`.

    Args:
      loss: of a step.
      params: weights before the first.
      learned: what the loss depends on beside them.
      steps: pytree with a leading axis of steps; none where it is 0.
      rate: learning rate, scalar.
      count: int32 scalar, which may be traced: only the first so many steps are taken, and those
        after them are not computed, so that nothing of them, finite or not, reaches a derivative.

    Returns:
      Weights after the last, differentiable in `params`, `learned` and `rate`.
    """

    def down(params, drawn):
        return _down(params, jax.grad(loss)(params, learned, drawn), rate)

    @jax.checkpoint
    def step(params, numbered):
        number, drawn = numbered
        if count is None:
            return down(params, drawn), None
        return jax.lax.cond(number < count, down, lambda params, _: params, params, drawn), None

    numbers = jnp.arange(len(jax.tree.leaves(steps)[0]))
    return jax.lax.scan(step, params, (numbers, steps))[0]


def descend_measured(
    loss: InnerLoss,
    params: Any,
    learned: Any,
    steps: Any,
    rate: chex.Array,
    measure: Callable[[Any], Any],
) -> Any:
    """As `descend`, but returns what `measure` says of the weights after each step, stacked."""

    def step(params, drawn):
        after = _down(params, jax.grad(loss)(params, learned, drawn), rate)
        return after, measure(after)

    return jax.lax.scan(step, params, steps)[1]


def _down(params: Any, grads: Any, rate: chex.Array) -> Any:
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


class AdamState(NamedTuple):
    """Adam between two steps.

    Attributes:
      params: the weights.
      mean, square: its two moments, like `params`.
      count: int32 scalar, steps taken.
    """

    params: Any
    mean: Any
    square: Any
    count: chex.Array


def adam_start(params: Any) -> AdamState:
    """Adam before its first step."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return AdamState(params, zeros, zeros, jnp.int32(0))


def adam_step(state: AdamState, grads: Any, rate: float) -> AdamState:
    """A step of Adam(0.9, 0.999, 1e-8) that has a derivative where a gradient is zero.

    `optax.adam` has none there: the root of the second moment rises infinitely steeply from 0, and
    the weights of a unit that never fired have a moment of exactly 0.
    """
    count = state.count + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mean, grads)
    square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, state.square, grads)

    def moved(param, mean, square):
        # The exponent is a float of the weights' type, so that float64 stays float64.
        steps = count.astype(param.dtype)
        mean, square = mean / (1 - 0.9**steps), square / (1 - 0.999**steps)
        has_moved = square > 0
        root = jnp.where(has_moved, jnp.sqrt(jnp.where(has_moved, square, 1)), 0)
        return param - rate * mean / (root + 1e-8)

    return AdamState(jax.tree.map(moved, state.params, mean, square), mean, square, count)


def adam_free(
    loss: InnerLoss,
    params: Any,
    learned: Any,
    draw: Callable[[chex.Array], Any],
    count: chex.Array,
    rate: float,
) -> AdamState:
    """Adam without derivatives, from fresh weights: RaT-BPTT's steps before its window.

    Args:
      loss: of a step.
      params: fresh weights.
      learned: what the loss depends on beside them.
      draw: what the step of a number draws.
      count: int32 scalar, number of steps; it may be traced, so that one program serves all
        windows.
      rate: learning rate.
    """

    def step(number, state):
        return adam_step(state, jax.grad(loss)(state.params, learned, draw(number)), rate)

    return jax.lax.fori_loop(0, count, step, adam_start(params))


def adam_window(loss: InnerLoss, state: AdamState, learned: Any, steps: Any, rate: float) -> Any:
    """Adam for a window of steps with derivatives (RaT-BPTT).

    Args:
      loss: of a step.
      state: before the window; a constant, its moments included.
      learned: what the loss depends on beside the weights.
      steps: of the window, with a leading axis.
      rate: learning rate.

    Returns:
      Weights after the window, whose derivative in `learned` runs through it alone.
    """

    @jax.checkpoint
    def step(state, drawn):
        return adam_step(state, jax.grad(loss)(state.params, learned, drawn), rate), None

    return jax.lax.scan(step, jax.lax.stop_gradient(state), steps)[0].params
