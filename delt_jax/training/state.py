"""Training a classifier: its state, one gradient step, optimisers and learning-rate schedules.

Teachers (squeeze) and students (evaluate) are trained by the same `update`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from delt_jax.runtime.programs import Program

VERSION = 1  # part of identities; raise it when results change


class TrainState(struct.PyTreeNode):
    """Everything that a gradient step changes.

    Attributes:
      step: int32 scalar, number of gradient steps taken.
      params: float32 pytree of weights.
      batch_stats: BatchNorm's running statistics; empty for models without BatchNorm.
      opt_state: state of the optimiser.
      average: exponential moving average of `params`, or None where none is kept.
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


class Trainer(NamedTuple):
    """What all gradient steps of a training share; hashable, so it can be a static argument.

    Attributes:
      model: the classifier.
      optimiser: its state is in `TrainState.opt_state`.
      ema_decay: decay of `TrainState.average`, where one is kept.
      freeze_norm: whether BatchNorm uses its running statistics and leaves them as they are;
        nothing is dropped out then.
    """

    model: nn.Module
    optimiser: optax.GradientTransformation
    ema_decay: float = 0.0
    freeze_norm: bool = False


class Outcome(NamedTuple):
    """What a batch says about a classifier.

    Attributes:
      loss: float32 scalar.
      batch_stats: running statistics after it.
      grads: of the parameters.
    """

    loss: chex.Array
    batch_stats: Any
    grads: Any


@functools.lru_cache(maxsize=32)
def _init(model: nn.Module, image_shape: tuple[int, int, int]) -> Program:
    """Fresh variables of a key; op by op that would take seconds."""
    images = jnp.zeros((1, *image_shape))
    return Program(jax.jit(lambda key: model.init(key, images, train=False)), quickly=True)


def init_state(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    key: chex.PRNGKey,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """A state with fresh parameters, for images of shape (S, S, C)."""
    return _begin(_init(model, image_shape)(key), optimiser)


def shapes_of_state(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Shapes and types of what `init_state` returns; nothing is computed."""

    def fresh(key):
        images = jnp.zeros((1, *image_shape))
        return _begin(model.init(key, images, train=False), optimiser)

    return jax.eval_shape(fresh, jax.random.key(0))


def _begin(variables: Any, optimiser: optax.GradientTransformation) -> TrainState:
    params = variables["params"]
    return TrainState(
        jnp.int32(0), params, variables.get("batch_stats", {}), optimiser.init(params)
    )


def update(
    trainer: Trainer,
    state: TrainState,
    images: chex.Array,
    loss: Callable[[chex.Array], chex.Array],
    key: chex.PRNGKey | None = None,
) -> tuple[TrainState, chex.Array]:
    """Takes one gradient step in train mode (see `gradients`); also returns the loss before it."""
    return apply_gradients(trainer, state, gradients(trainer, state, images, loss, key))


def gradients(
    trainer: Trainer,
    state: TrainState,
    images: chex.Array,
    loss: Callable[[chex.Array], chex.Array],
    key: chex.PRNGKey | None = None,
) -> Outcome:
    """Passes a batch forward and back, in train mode unless the trainer freezes the norm.

    Args:
      trainer: has the model.
      state: of the classifier.
      images: normalised float32 [B, S, S, C].
      loss: maps logits [B, classes] to a scalar.
      key: for dropout and stochastic depth; models without them need none.
    """

    def objective(params):
        logits, changed = trainer.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=not trainer.freeze_norm,
            mutable=["batch_stats"],
            rngs=None if key is None else {"dropout": key},
        )
        kept = state.batch_stats if trainer.freeze_norm else {}
        return loss(logits), changed.get("batch_stats", kept)

    (value, batch_stats), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    return Outcome(value, batch_stats, grads)


def apply_gradients(
    trainer: Trainer, state: TrainState, outcome: Outcome, rate: chex.Array | float = 1.0
) -> tuple[TrainState, chex.Array]:
    """Takes the step that an outcome asks for.

    Args:
      trainer: has the optimiser.
      state: before the step.
      outcome: of its batch.
      rate: multiplies the optimiser's updates. It may be traced, so students that differ by
        learning rate are one compiled program.

    Returns:
      The state after the step, and the loss before it.
    """
    updates, opt_state = trainer.optimiser.update(outcome.grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: rate * u, updates))
    after = TrainState(state.step + 1, params, outcome.batch_stats, opt_state)
    if state.average is None:
        return after, outcome.loss
    average = optax.incremental_update(params, state.average, 1.0 - trainer.ema_decay)
    return after.replace(average=average), outcome.loss


def half_cosine(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of RDED and DELT: peak (1 + cos(pi e / 2E)) / 2 in epoch e of E.

    This is a quarter of a cosine's period, so it ends at half the peak and not at zero. Their
    code has it so (arXiv 2312.03526, 2411.19946).
    """

    def schedule(step):
        epoch = step // steps_per_epoch
        return peak * 0.5 * (1.0 + jnp.cos(jnp.pi * epoch / (2 * epochs)))

    return schedule


def cosine(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of SRe2L (arXiv 2306.13092): peak (1 + cos(pi e / E)) / 2 in epoch e of E."""

    def schedule(step):
        epoch = step // steps_per_epoch
        return peak * 0.5 * (1.0 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def step(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of DC, DSA and DM (arXiv 2006.05929): the peak, and a tenth from the middle on.

    Their code trains for E + 1 epochs and drops the rate after epoch E // 2 + 1, counted from 0;
    `epochs` is E + 1.
    """
    last = (epochs - 1) // 2 + 1

    def schedule(step):
        return jnp.where(step // steps_per_epoch <= last, peak, 0.1 * peak)

    return schedule


def two_steps(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of IDC (arXiv 2205.14959): a fifth of it from epoch 2E // 3 and 5E // 6 on."""
    first, second = 2 * epochs // 3, 5 * epochs // 6

    def schedule(step):
        epoch = step // steps_per_epoch
        return peak * jnp.where(epoch < first, 1.0, jnp.where(epoch < second, 0.2, 0.04))

    return schedule


def constant(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """The peak throughout."""
    del epochs, steps_per_epoch

    def schedule(step):
        return jnp.full(jnp.shape(step), peak)

    return schedule


def warm_cosine(peak: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of FRePo's students: from 0 up in 500 steps, then a cosine to a hundredth.

    Of trainings shorter than 1000 steps the first half is the warm-up.
    """
    steps = epochs * steps_per_epoch
    warm = min(500, steps // 2)

    def schedule(step):
        share = jnp.clip((step - warm) / max(steps - warm, 1), 0, 1)
        falling = 0.01 + 0.99 * 0.5 * (1.0 + jnp.cos(jnp.pi * share))
        return peak * jnp.where(step < warm, step / max(warm, 1), falling)

    return schedule


def adamw(learning_rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """AdamW(0.9, 0.999) that decays only weights with more than one axis."""

    def decayed(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.adamw(learning_rate, weight_decay=weight_decay, mask=decayed)


def sgd(
    kind: str, peak: float, steps: int, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD with momentum and L2 decay, coupled as torch does: the decay is part of the gradient.

    Args:
      kind: "cosine" to zero, or "one_cycle" (cosine up over 30 % of the steps, then down).
      peak: highest learning rate.
      steps: total number of steps.
      momentum: decay of the velocity.
      weight_decay: L2 coefficient of all parameters, biases included.
    """
    schedule = (
        optax.cosine_decay_schedule(peak, steps)
        if kind == "cosine"
        else optax.cosine_onecycle_schedule(steps, peak)
    )
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )
