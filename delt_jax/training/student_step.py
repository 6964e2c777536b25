"""How students learn: views, labels and a gradient in one compiled program.

Everything is a function of arrays and of the epoch's number; `student_training` drives it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax import models
from delt_jax.augment.views import EpochPlan, ViewProgram, ViewSpec, plan_epoch, student_views
from delt_jax.core import losses as objective
from delt_jax.data import Normalisation
from delt_jax.labels import compact, labelling
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.models.norm import shared_over
from delt_jax.runtime import devices as parallel
from delt_jax.training import protocols
from delt_jax.training import state as training
from delt_jax.training.protocols import Protocol
from delt_jax.training.state import TrainState

_SCHEDULES = {"half_cosine": training.half_cosine, "cosine": training.cosine}
PLAIN = ViewSpec("", 1, 1.0, False, "none", 1.0)  # images as they are


@dataclass(frozen=True)
class StudentProgram:
    """All of a student's training that is compiled in.

    Attributes:
      student: its architecture.
      teachers: architectures of the teachers that label views, empty if none does.
      protocol: how it trains; its views count unless the regime is "plain".
      regime: where labels come from, as `metrics.Score` has it.
      normalisation: of its inputs, and of the first teacher's.
      teacher_normalisations: of every teacher's.
      count: images in the set, N.
      group_size: images that are mixed among themselves.
      plan: of stored labels; in the "stored" regime views come again after its epochs, and what
        teachers say in its place goes through its float16 form. None in other regimes.
      devices: that share a batch.
      shared_norm: they share BatchNorm's statistics, too.
    """

    student: ModelSpec
    teachers: tuple[ModelSpec, ...]
    protocol: Protocol
    regime: str
    normalisation: Normalisation
    teacher_normalisations: tuple[Normalisation, ...]
    count: int
    group_size: int
    plan: LabelPlan | None = None
    devices: int = 1
    shared_norm: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that identities have."""
        return {
            "student": self.student.as_dict(),
            "judges": [spec.as_dict() for spec in self.teachers],
            "protocol": self.protocol.as_dict(),
            "regime": self.regime,
            "normalisation": self.normalisation.as_dict(),
            "judge_normalisations": [each.as_dict() for each in self.teacher_normalisations],
            "count": self.count,
            "group_size": self.group_size,
            "plan": self.plan.as_dict() if self.plan else None,
            "devices": self.devices,
            "shared_norm": self.shared_norm,
        }

    def versions(self) -> dict[str, int]:
        """Versions of the named parts that this training uses."""
        networks = {spec.name for spec in (self.student, *self.teachers)}
        parts = {f"model.{name}": models.version(name) for name in networks}
        parts[f"protocol.{self.protocol.name}"] = protocols.version(self.protocol.name)
        return parts | self.protocol.views.versions()

    @property
    def batch(self) -> int:
        """Images per batch; the last one of an epoch may be smaller."""
        return min(self.protocol.batch_size, self.count)

    @property
    def starts(self) -> range:
        """First position of every batch of an epoch."""
        return range(0, self.count, self.batch)


class Images(NamedTuple):
    """A set to learn from: uint8 [N, S, S, C], int32 [N], and float32 [N, classes] or None.

    The last are probabilities, the labels of images as they are.
    """

    pixels: chex.Array
    labels: chex.Array
    targets: chex.Array | None


class Job(NamedTuple):
    """One student's own: keys of its views and of dropout, peak learning rate, and its images.

    Images are None where all students have the same, which then are in `Shared`.
    """

    view_key: chex.PRNGKey
    dropout_key: chex.PRNGKey
    learning_rate: chex.Array
    images: Images | None


class Shared(NamedTuple):
    """The same for all students.

    Attributes:
      teachers: variables of the teachers.
      images: or None where every student has its own.
      stored: of the views of this epoch, by image, probabilities [N, classes]; or None.
      epoch: int32 scalar.
      start: int32 scalar, first position of the batch, for `run_batch`.
    """

    teachers: tuple[Any, ...]
    images: Images | None
    stored: chex.Array | None
    epoch: chex.Array
    start: chex.Array


def make_optimiser(program: StudentProgram) -> optax.GradientTransformation:
    """AdamW at a peak rate of 1; every student's own rate scales its updates."""
    protocol = program.protocol
    schedule = _SCHEDULES[protocol.schedule](1.0, protocol.epochs, len(program.starts))
    # It counts batches, and the optimiser the steps taken on them.
    optimiser = training.adamw(
        lambda step: schedule(step * protocol.accumulate), protocol.weight_decay
    )
    if protocol.accumulate == 1:
        return optimiser
    return optax.MultiSteps(optimiser, protocol.accumulate).gradient_transformation()


def init_student(program: StudentProgram, key: chex.PRNGKey) -> TrainState:
    """A fresh student."""
    spec = program.student
    shape = (spec.image_size, spec.image_size, spec.channels)
    state = training.init_state(models.create(spec), make_optimiser(program), key, shape)
    if program.protocol.ema:
        state = state.replace(average=jax.tree.map(jnp.array, state.variables))
    return state


def measured(state: TrainState) -> dict[str, Any]:
    """The variables that count: averaged ones where they are kept."""
    return state.variables if state.average is None else state.average


def run_epoch(
    state: TrainState, job: Job, shared: Shared, program: StudentProgram
) -> tuple[TrainState, chex.Array]:
    """All batches of an epoch; also returns the mean of their losses."""
    epoch_key, plan = _plan(job, shared, program)
    full = program.count // program.batch

    def one(state, start):
        return _step(state, job, shared, program, epoch_key, plan, start, program.batch)

    state, losses = jax.lax.scan(one, state, jnp.arange(full) * program.batch)
    rest = program.count - full * program.batch
    if rest:
        start = jnp.int32(full * program.batch)
        state, loss = _step(state, job, shared, program, epoch_key, plan, start, rest)
        losses = jnp.append(losses, loss)
    return state, losses.mean()


def run_batch(
    state: TrainState, job: Job, shared: Shared, program: StudentProgram, batch: int
) -> tuple[TrainState, chex.Array]:
    """The batch of an epoch that begins at `shared.start`; also returns its loss."""
    epoch_key, plan = _plan(job, shared, program)
    return _step(state, job, shared, program, epoch_key, plan, shared.start, batch)


def _plan(job: Job, shared: Shared, program: StudentProgram) -> tuple[chex.PRNGKey, EpochPlan]:
    epoch = shared.epoch % program.plan.epochs if program.plan else shared.epoch
    key = jax.random.fold_in(job.view_key, epoch)
    return key, plan_epoch(key, program.count, program.group_size)


def _step(
    state: TrainState,
    job: Job,
    shared: Shared,
    program: StudentProgram,
    epoch_key: chex.PRNGKey,
    plan: EpochPlan,
    start: chex.Array,
    batch: int,
) -> tuple[TrainState, chex.Array]:
    """One gradient step on the views of positions start..start + batch of an epoch."""
    protocol = program.protocol
    data = job.images or shared.images
    assert data is not None
    dropout_key = jax.random.fold_in(job.dropout_key, state.step)
    axis = None
    if program.devices > 1:  # each takes its part of the batch
        axis, batch = parallel.AXIS, batch // program.devices
        device = jax.lax.axis_index(axis)
        start, dropout_key = start + device * batch, jax.random.fold_in(dropout_key, device)
    views = PLAIN if program.regime == "plain" else protocol.views
    # Then the groups of the mix are the student's batches, and partners need no second view.
    aligned = program.devices == 1 and program.batch % program.group_size == 0
    drawing = ViewProgram(views, program.normalisation, aligned)
    mixed = student_views(epoch_key, data.pixels, plan, start, batch, drawing)
    positions = start + jnp.arange(batch)
    own, partners = plan.order[positions], plan.order[plan.partner[positions]]
    classes = jax.nn.one_hot(data.labels, program.student.num_classes)
    hard = mixed.labels(classes[own], classes[partners])
    if program.regime == "fixed":
        assert data.targets is not None
        targets = mixed.labels(data.targets[own], data.targets[partners])
    elif shared.stored is not None:
        targets = shared.stored[own]
    elif program.teachers:
        targets = _label(program, shared.teachers, mixed.images)
    else:
        targets = hard
    with shared_over(axis if program.shared_norm else None):
        return training.update(
            models.create(program.student),
            make_optimiser(program),
            lambda logits: _loss(program, logits, targets, hard),
            state,
            mixed.images,
            dropout_key,
            rate=job.learning_rate,
            decay=protocol.ema,
            axis=axis,
        )


def _label(program: StudentProgram, teachers: tuple[Any, ...], images: chex.Array) -> chex.Array:
    """Probabilities [B, classes] at the temperature, by the mean of the teachers' logits."""
    networks = [models.create(spec) for spec in program.teachers]
    logits = labelling.mean_logits(networks, program.teacher_normalisations, teachers, images)
    temperature = program.protocol.temperature
    if program.plan is None:
        return jax.nn.softmax(logits / temperature)
    plan = program.plan
    labels = compact.compress(logits, plan.top_k, plan.form, plan.temperature)
    return compact.expand(labels, plan.num_classes, plan.form, plan.temperature)


def _loss(
    program: StudentProgram, logits: chex.Array, targets: chex.Array, hard: chex.Array
) -> chex.Array:
    protocol = program.protocol
    if program.regime in ("hard", "plain"):
        return objective.kl_divergence(logits, hard, 1.0)
    if protocol.loss == "mse":
        loss = objective.logit_error(logits, targets, protocol.temperature)
    else:
        loss = objective.kl_divergence(logits, targets, protocol.temperature)
    if protocol.hard_weight:
        loss += protocol.hard_weight * objective.kl_divergence(logits, hard, 1.0)
    return loss
