"""How a student learns: gradient steps on labelled views, as pure functions.

What is compiled of them is a `LearnProgram`, which knows neither set nor regime, so that most
students of an evaluation share it. `delt_jax.training.student_loop` drives it.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from delt_jax import models
from delt_jax.core import losses as losses_lib
from delt_jax.models import ModelSpec
from delt_jax.models.norm import shared_over
from delt_jax.runtime import devices
from delt_jax.training import state as state_lib
from delt_jax.training.protocol import MOMENTUM
from delt_jax.training.state import Outcome, Trainer, TrainState
from delt_jax.training.student_program import StudentProgram

_SCHEDULES = {
    "half_cosine": state_lib.half_cosine,
    "cosine": state_lib.cosine,
    "step": state_lib.step,
    "two_steps": state_lib.two_steps,
    "warm_cosine": state_lib.warm_cosine,
    "constant": state_lib.constant,
}


class LearnProgram(NamedTuple):
    """What is compiled into a student's gradient steps; hashable.

    Attributes:
      student: architecture.
      weight_decay, accumulate, ema, loss, optimiser: as of `Protocol`.
      has_hard_term: whether a cross-entropy with the image's own class is added.
      shares: number of shares of each batch; see `StudentProgram.devices`.
      shared_norm: as of `StudentProgram`.
    """

    student: ModelSpec
    weight_decay: float
    accumulate: int
    ema: float
    loss: str
    has_hard_term: bool
    shares: int = 1
    shared_norm: bool = False
    optimiser: str = "adamw"


def learn_program(program: StudentProgram) -> LearnProgram:
    """What of a student's training its gradient steps depend on."""
    protocol = program.protocol
    return LearnProgram(
        program.student,
        protocol.weight_decay,
        protocol.accumulate,
        protocol.ema,
        "kl" if program.is_hard and not program.learns_values else protocol.loss,
        protocol.hard_weight > 0,
        program.devices,
        program.shared_norm,
        protocol.optimiser,
    )


class Lesson(NamedTuple):
    """Labelled views.

    Attributes:
      images: normalised float32 [n, S, S, C].
      targets: soft labels, probabilities float32 [n, classes]; classes where labels are hard; label
        values where the loss is "squared".
      classes: int32 [n], of each view's own image, whatever is mixed into it.
    """

    images: chex.Array
    targets: chex.Array
    classes: chex.Array


class Pace(NamedTuple):
    """What the steps of a call take from the protocol; equal for all students of a group.

    Attributes:
      rates: float32 [batches], the schedule's share of the peak rate, for each batch.
      temperature: float32 scalar, by which logits are divided.
      hard_weight: float32 scalar, weight of the hard labels' term, where there is one.
    """

    rates: chex.Array
    temperature: chex.Array
    hard_weight: chex.Array


class Own(NamedTuple):
    """What a student does not share with others.

    Attributes:
      dropout_key: key of dropout; every step folds its number into it.
      learning_rate: float32 scalar, peak.
      share: int32 scalar, which share of each batch is given; 0 where batches are not shared.
    """

    dropout_key: chex.PRNGKey
    learning_rate: chex.Array
    share: chex.Array


def rates(program: StudentProgram) -> np.ndarray:
    """The schedule's share of the peak rate for each batch, float32 [epochs, batches]."""
    protocol, batches = program.protocol, len(program.starts)
    numbers = np.arange(protocol.epochs * batches, dtype=np.int32)
    # Accumulated batches are one step of the optimiser, at the rate of the first of them.
    first = numbers // protocol.accumulate * protocol.accumulate
    schedule = _SCHEDULES[protocol.schedule](1.0, protocol.epochs, batches)
    return np.asarray(schedule(first), np.float32).reshape(protocol.epochs, batches)


def pace(program: StudentProgram, rates: np.ndarray) -> Pace:
    """The pace of some batches, float32 [batches] of `rates`."""
    protocol, hard = program.protocol, program.is_hard
    return Pace(
        rates,
        np.float32(1.0 if hard or program.regime == "learned" else protocol.temperature),
        np.float32(0.0 if hard else protocol.hard_weight),
    )


def make_optimiser(program: LearnProgram) -> optax.GradientTransformation:
    """The optimiser at a rate of 1; the rate of each batch scales its updates.

    So the velocity of SGD holds gradients alone, as torch's does: it is not scaled by the rates
    that were when these came.
    """
    if program.optimiser == "sgd":
        optimiser = optax.chain(
            optax.add_decayed_weights(program.weight_decay), optax.sgd(1.0, momentum=MOMENTUM)
        )
    else:
        optimiser = state_lib.adamw(optax.constant_schedule(1.0), program.weight_decay)
    if program.accumulate == 1:
        return optimiser
    return optax.MultiSteps(optimiser, program.accumulate).gradient_transformation()


def init_student(program: StudentProgram, key: chex.PRNGKey) -> TrainState:
    """A student with fresh parameters."""
    model, optimiser, shape = _network(program)
    state = state_lib.init_state(model, optimiser, key, shape)
    if program.protocol.ema:
        state = state.replace(average=jax.tree.map(jnp.array, state.params))
    return state


def shapes_of_student(program: StudentProgram) -> TrainState:
    """Shapes and types of what `init_student` returns; nothing is computed."""
    state = state_lib.shapes_of_state(*_network(program))
    return state.replace(average=state.params) if program.protocol.ema else state


def _network(program: StudentProgram) -> tuple[Any, Any, tuple[int, int, int]]:
    """Model, optimiser, and shape of the images."""
    spec = program.student
    shape = (spec.image_size, spec.image_size, spec.channels)
    return models.create(spec), make_optimiser(learn_program(program)), shape


def scored_variables(state: TrainState) -> dict[str, Any]:
    """The variables whose accuracy counts: averaged parameters where an average is kept.

    BatchNorm's running statistics are the student's own beside them, as EDC (arXiv 2404.13733)
    evaluates.
    """
    return state.variables if state.average is None else state.variables | {"params": state.average}


def learn(
    state: TrainState, own: Own, lesson: Lesson, pace: Pace, program: LearnProgram, batch: int
) -> tuple[TrainState, chex.Array]:
    """Takes a gradient step on each batch of a lesson.

    Args:
      state: the student before.
      own: what is its own.
      lesson: n labelled views.
      pace: has a rate for each batch.
      program: static.
      batch: static, number of views per batch; the last one may be smaller.

    Returns:
      The student after the steps, and their losses, float32 [batches].
    """
    whole, rest = divmod(len(lesson.images), batch)

    def step(state, given):
        views, rate = given
        return learn_batch(state, own, views, pace._replace(rates=rate), program)

    if whole + bool(rest) == 1:  # outside a loop, in which XLA's CPU convolutions are slow
        state, loss = step(state, (lesson, pace.rates[0]))
        return state, loss[None]
    batches = jax.tree.map(lambda x: x[: whole * batch].reshape(whole, batch, *x.shape[1:]), lesson)
    state, losses = jax.lax.scan(step, state, (batches, pace.rates[:whole]))
    if rest:
        last = jax.tree.map(lambda x: x[whole * batch :], lesson)
        state, loss = step(state, (last, pace.rates[whole]))
        losses = jnp.append(losses, loss)
    return state, losses


def learn_batch(
    state: TrainState, own: Own, lesson: Lesson, pace: Pace, program: LearnProgram
) -> tuple[TrainState, chex.Array]:
    """Takes one gradient step; `pace.rates` is a scalar. Also returns the loss before it."""
    outcome = gradients(state, own, lesson, pace, program)
    return state_lib.apply_gradients(
        _trainer(program), state, outcome, own.learning_rate * pace.rates
    )


def learn_mean(
    state: TrainState, own: Own, outcomes: Outcome, pace: Pace, program: LearnProgram
) -> tuple[TrainState, chex.Array]:
    """Takes one gradient step on a batch whose shares were passed forward and back before.

    Losses, gradients and running statistics are averaged in the order of the shares.

    Args:
      state: the student before.
      own: of any share.
      outcomes: of all shares, with a leading axis [shares].
      pace: has the rate of the batch, float32 [1].
      program: static.

    Returns:
      The student after the step, and the loss before it, float32 [1].
    """

    def mean(x):
        total = x[0]
        for share in range(1, program.shares):
            total = total + x[share]
        return total * (1.0 / program.shares)

    rate = own.learning_rate * pace.rates[0]
    outcome = jax.tree.map(mean, outcomes)
    state, loss = state_lib.apply_gradients(_trainer(program), state, outcome, rate)
    return state, loss[None]


def gradients(
    state: TrainState, own: Own, lesson: Lesson, pace: Pace, program: LearnProgram
) -> Outcome:
    """Loss, gradients and running statistics of one batch, or of one share of it."""
    key = jax.random.fold_in(own.dropout_key, state.step)
    if program.shares > 1:
        key = jax.random.fold_in(key, own.share)
    with shared_over(devices.AXIS if program.shared_norm and program.shares > 1 else None):
        return state_lib.gradients(
            _trainer(program),
            state,
            lesson.images,
            lambda logits: loss_of(program, logits, lesson, pace),
            key,
        )


def _trainer(program: LearnProgram) -> Trainer:
    return Trainer(models.create(program.student), make_optimiser(program), program.ema)


def loss_of(program: LearnProgram, logits: chex.Array, lesson: Lesson, pace: Pace) -> chex.Array:
    """What a gradient step lowers, float32 scalar.

    Args:
      program: says which loss it is, and whether the own class counts.
      logits: of the student, float32 [n, classes].
      lesson: that these are of.
      pace: temperature and weight of the own class's cross-entropy.
    """
    if program.loss == "mse":
        soft = losses_lib.logit_error(logits, lesson.targets, pace.temperature)
    elif program.loss == "squared":
        soft = losses_lib.squared_error(logits, lesson.targets)
    else:
        # By the reciprocal: whether XLA divides by it depends on the number of devices.
        cool = logits * (1.0 / pace.temperature)
        soft = losses_lib.kl_divergence(cool, lesson.targets, 1.0)
    if not program.has_hard_term:
        return soft
    return soft + pace.hard_weight * losses_lib.cross_entropy(logits, lesson.classes)
