"""Training a classifier: state, one gradient step, learning-rate schedules.

Shared by the teacher (squeeze) and the students (evaluate).
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct


class TrainState(struct.PyTreeNode):
    """What training changes.

    Attributes:
      step: int32 scalar, gradient steps taken.
      params: float32 pytree.
      batch_stats: BatchNorm running statistics.
      opt_state: of the optimiser.
      average: exponential moving average of `variables`, or None where none is kept.
    """

    step: chex.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@functools.partial(jax.jit, static_argnums=0)  # op by op it takes seconds
def _init(model, key, images):
    return model.init(key, images, train=False)


def init_state(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    key: chex.PRNGKey,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Fresh parameters for images of shape (S, S, C)."""
    variables = _init(model, key, jnp.zeros((1, *image_shape)))
    params = variables["params"]
    return TrainState(
        jnp.int32(0), params, variables.get("batch_stats", {}), optimiser.init(params)
    )


def update(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    loss: Callable[[chex.Array], chex.Array],
    state: TrainState,
    images: chex.Array,
    key: chex.PRNGKey | None = None,
    *,
    rate: chex.Array | float = 1.0,
    decay: float = 0.0,
    axis: str | None = None,
) -> tuple[TrainState, chex.Array]:
    """One gradient step in train mode.

    Args:
      model: the classifier.
      optimiser: made for `state.params`.
      loss: scalar of the logits [B, classes].
      state: current state.
      images: normalised [B, S, S, C].
      key: of this step's dropout and stochastic depth; needed only by models that have them.
      rate: factor of the optimiser's updates, may be traced: students at several learning rates
        are one program.
      decay: of `state.average`, if it is kept.
      axis: of the devices that share the batch, over which gradients, running statistics and
        loss are averaged.

    Returns:
      The next state and the loss before the step.
    """

    def objective(params):
        logits, changed = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs=None if key is None else {"dropout": key},
        )
        return loss(logits), changed.get("batch_stats", {})

    (value, batch_stats), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    if axis is not None:
        value, batch_stats, grads = jax.lax.pmean((value, batch_stats, grads), axis)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: rate * u, updates))
    after = TrainState(state.step + 1, params, batch_stats, opt_state)
    if state.average is None:
        return after, value
    average = optax.incremental_update(after.variables, state.average, 1.0 - decay)
    return after.replace(average=average), value


def half_cosine(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of RDED and DELT: peak (1 + cos(pi e / 2E)) / 2 in epoch e of E.

    A quarter of a cosine's period: it ends at half the peak, not at zero.
    """

    def schedule(step):
        epoch = step // steps_per_epoch
        return peak * 0.5 * (1.0 + jnp.cos(jnp.pi * epoch / (2 * epochs)))

    return schedule


def cosine(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of SRe2L: peak (1 + cos(pi e / E)) / 2 in epoch e of E, nearly zero at last."""

    def schedule(step):
        epoch = step // steps_per_epoch
        return peak * 0.5 * (1.0 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def adamw(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """AdamW(0.9, 0.999) that decays only weights with more than one axis."""

    def decayed(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.adamw(learning_rate, weight_decay=weight_decay, mask=decayed)


def sgd(
    kind: str, peak: float, steps: int, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD with momentum and L2 decay, as torch couples them.

    Args:
      kind: "cosine" to zero, or "one_cycle" (cosine up over 30 % of the steps, then down).
      peak: highest learning rate.
      steps: total number of steps.
      momentum: of the velocity.
      weight_decay: L2 coefficient on all parameters.
    """
    schedule = (
        optax.cosine_decay_schedule(peak, steps)
        if kind == "cosine"
        else optax.cosine_onecycle_schedule(steps, peak)
    )
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )
