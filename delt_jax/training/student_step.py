"""Where a student learns: `step` draws views, labels them and takes a gradient step.

All functions here are pure: a student's next state depends on its inputs, on what the students of
a row share and on the epoch's number. `delt_jax.training.student_loop` compiles and drives them.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax import models
from delt_jax.augment.views import (
    EpochPlan,
    Mixed,
    ViewProgram,
    ViewSpec,
    plan_epoch,
    student_views,
)
from delt_jax.core import losses as losses_lib
from delt_jax.data import Normalisation
from delt_jax.labels import compact, labelling
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.models.norm import shared_over
from delt_jax.runtime import devices as devices_lib
from delt_jax.training import protocols
from delt_jax.training import state as state_lib
from delt_jax.training.protocols import Protocol
from delt_jax.training.state import Trainer, TrainState

_SCHEDULES = {"half_cosine": state_lib.half_cosine, "cosine": state_lib.cosine}
PLAIN = ViewSpec("", 1, 1.0, False, "none", 1.0)  # no augmentation: whole images, unmixed


@dataclass(frozen=True)
class StudentProgram:
    """Everything about a student's training that is compiled in.

    Attributes:
      student: architecture of the student.
      teachers: architectures of the teachers that label views while students train; empty where
        labels come from elsewhere.
      protocol: how the student trains. In the regime "plain" its views are not used.
      regime: where labels come from: "online", "stored", "fixed", "hard" or "plain", as
        `delt_jax.evaluation.metrics.Score` explains them.
      normalisation: of the student's inputs, which is that of the first teacher.
      teacher_normalisations: one for each teacher.
      count: number of images in the set, N.
      group_size: number of images that are mixed among themselves.
      plan: which views have stored labels; None unless the regime is "stored". Views come again
        after its epochs. Where teachers label in place of the store, their labels go through
        the float16 form of the plan, too.
      devices: number of devices that share each batch.
      shared_norm: whether these devices also share BatchNorm's statistics.
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
        """The values under the names that are hashed into ids of scores; these never change."""
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
        """Versions of the architectures, the protocol and the augmentations in use."""
        networks = {spec.name for spec in (self.student, *self.teachers)}
        parts = {f"model.{name}": models.version(name) for name in networks}
        parts[f"protocol.{self.protocol.name}"] = protocols.version(self.protocol.name)
        return parts | self.protocol.views.versions()

    @property
    def batch(self) -> int:
        """Number of images per batch; the last batch of an epoch may be smaller."""
        return min(self.protocol.batch_size, self.count)

    @property
    def starts(self) -> range:
        """Position in the epoch at which each batch starts."""
        return range(0, self.count, self.batch)


class LabelledImages(NamedTuple):
    """A set to learn from.

    Attributes:
      pixels: uint8 [N, S, S, C].
      labels: int32 [N], classes.
      targets: float32 [N, classes], soft labels of the images without augmentation, as
        probabilities; None where no regime needs them.
    """

    pixels: chex.Array
    labels: chex.Array
    targets: chex.Array | None


class StudentInputs(NamedTuple):
    """What one student does not share with the others of its row.

    Attributes:
      view_key: key of the views; every epoch folds its number into it.
      dropout_key: key of dropout; every step folds its number into it.
      learning_rate: float32 scalar, peak.
      images: its set, or None where all students learn from that of `SharedInputs`.
    """

    view_key: chex.PRNGKey
    dropout_key: chex.PRNGKey
    learning_rate: chex.Array
    images: LabelledImages | None


class SharedInputs(NamedTuple):
    """What all students of a row share.

    Attributes:
      teachers: variables of each teacher of `StudentProgram.teachers`.
      images: the set, or None where every student has its own.
      stored_labels: probabilities float32 [N, classes] of this epoch's views, by index of the
        image; None where labels do not come from the store.
      epoch: int32 scalar.
      start: int32 scalar, position in the epoch at which the batch starts; `run_epoch` ignores it.
    """

    teachers: tuple[Any, ...]
    images: LabelledImages | None
    stored_labels: chex.Array | None
    epoch: chex.Array
    start: chex.Array


class EpochViews(NamedTuple):
    """Which views a student sees in an epoch.

    Attributes:
      key: key from which the views are drawn.
      plan: order of the images, and their partners in the mix.
    """

    key: chex.PRNGKey
    plan: EpochPlan


def make_optimiser(program: StudentProgram) -> optax.GradientTransformation:
    """AdamW at a peak rate of 1; `StudentInputs.learning_rate` scales its updates."""
    protocol = program.protocol
    schedule = _SCHEDULES[protocol.schedule](1.0, protocol.epochs, len(program.starts))
    # The schedule counts batches; the optimiser counts its steps, each of `accumulate` batches.
    optimiser = state_lib.adamw(
        lambda step: schedule(step * protocol.accumulate), protocol.weight_decay
    )
    if protocol.accumulate == 1:
        return optimiser
    return optax.MultiSteps(optimiser, protocol.accumulate).gradient_transformation()


def init_student(program: StudentProgram, key: chex.PRNGKey) -> TrainState:
    """A student with fresh parameters."""
    spec = program.student
    shape = (spec.image_size, spec.image_size, spec.channels)
    state = state_lib.init_state(models.create(spec), make_optimiser(program), key, shape)
    if program.protocol.ema:
        state = state.replace(average=jax.tree.map(jnp.array, state.variables))
    return state


def scored_variables(state: TrainState) -> dict[str, Any]:
    """The variables whose accuracy counts: the averaged ones where an average is kept."""
    return state.variables if state.average is None else state.average


def run_epoch(
    state: TrainState, student: StudentInputs, shared: SharedInputs, program: StudentProgram
) -> tuple[TrainState, chex.Array]:
    """Trains on all batches of an epoch; also returns the mean of their losses."""
    views = epoch_views(student, shared, program)
    full_batches, rest = divmod(program.count, program.batch)

    def body(state, start):
        return step(state, student, shared._replace(start=start), views, program, program.batch)

    state, losses = jax.lax.scan(body, state, jnp.arange(full_batches) * program.batch)
    if rest:
        last = shared._replace(start=jnp.int32(full_batches * program.batch))
        state, loss = step(state, student, last, views, program, rest)
        losses = jnp.append(losses, loss)
    return state, losses.mean()


def run_batch(
    state: TrainState,
    student: StudentInputs,
    shared: SharedInputs,
    program: StudentProgram,
    batch: int,
) -> tuple[TrainState, chex.Array]:
    """Trains on the `batch` images of an epoch from `shared.start` on; also returns the loss."""
    return step(state, student, shared, epoch_views(student, shared, program), program, batch)


def epoch_views(
    student: StudentInputs, shared: SharedInputs, program: StudentProgram
) -> EpochViews:
    """Draws order and partners of the epoch `shared.epoch`."""
    # Views with stored labels come round again after the labelled epochs.
    epoch = shared.epoch % program.plan.epochs if program.plan else shared.epoch
    key = jax.random.fold_in(student.view_key, epoch)
    return EpochViews(key, plan_epoch(key, program.count, program.group_size))


def step(
    state: TrainState,
    student: StudentInputs,
    shared: SharedInputs,
    views: EpochViews,
    program: StudentProgram,
    batch: int,
) -> tuple[TrainState, chex.Array]:
    """Takes one gradient step on one batch of views.

    Args:
      state: the student before the step.
      student: what is its own.
      shared: what it shares with others; `shared.start` is the batch's first position.
      views: this epoch's.
      program: static.
      batch: static, number of images of the batch.

    Returns:
      The student after the step, and the loss before it.
    """
    protocol = program.protocol
    data = shared.images if student.images is None else student.images
    assert data is not None
    start, dropout_key = shared.start, jax.random.fold_in(student.dropout_key, state.step)
    axis = None
    if program.devices > 1:  # each device takes a contiguous share of the batch
        axis, batch = devices_lib.AXIS, batch // program.devices
        device = jax.lax.axis_index(axis)
        start, dropout_key = start + device * batch, jax.random.fold_in(dropout_key, device)
    # Where batches hold whole groups of the mix, partners are in the batch and need no second view.
    aligned = program.devices == 1 and program.batch % program.group_size == 0
    spec = PLAIN if program.regime == "plain" else protocol.views
    drawing = ViewProgram(spec, program.normalisation, aligned)
    mixed = student_views(views.key, data.pixels, views.plan, start, batch, drawing)
    positions = start + jnp.arange(batch)
    own = views.plan.order[positions]  # indices of the images, [batch]
    partners = views.plan.order[views.plan.partner[positions]]
    targets, hard = _labels(program, shared, data, mixed, own, partners)
    model, optimiser = models.create(program.student), make_optimiser(program)
    with shared_over(axis if program.shared_norm else None):
        return state_lib.update(
            Trainer(model, optimiser, protocol.ema, axis),
            state,
            mixed.images,
            lambda logits: _loss(program, logits, targets, hard),
            dropout_key,
            student.learning_rate,
        )


def _labels(
    program: StudentProgram,
    shared: SharedInputs,
    data: LabelledImages,
    mixed: Mixed,
    own: chex.Array,
    partners: chex.Array,
) -> tuple[chex.Array, chex.Array]:
    """Soft and hard labels of a batch of views, probabilities [batch, classes] each.

    Args:
      program: its regime says where the soft labels come from.
      shared: has the teachers, or stored labels of this epoch.
      data: the set.
      mixed: the views, and how they were mixed.
      own, partners: int [batch], indices of the images and of those mixed into them.
    """
    classes = jax.nn.one_hot(data.labels, program.student.num_classes)
    hard = mixed.labels(classes[own], classes[partners])
    if program.regime == "fixed":
        assert data.targets is not None
        return mixed.labels(data.targets[own], data.targets[partners]), hard
    if shared.stored_labels is not None:
        return shared.stored_labels[own], hard
    if program.teachers:
        return _teacher_labels(program, shared.teachers, mixed.images), hard
    return hard, hard


def _teacher_labels(
    program: StudentProgram, teachers: tuple[Any, ...], images: chex.Array
) -> chex.Array:
    """Labels of views by the mean of the teachers' logits, probabilities [B, classes]."""
    networks = [models.create(spec) for spec in program.teachers]
    logits = labelling.mean_logits(networks, program.teacher_normalisations, teachers, images)
    temperature = program.protocol.temperature
    if program.plan is None:
        return jax.nn.softmax(logits / temperature)
    plan = program.plan  # the student gets what the store would have kept of these labels
    labels = compact.compress(logits, plan.top_k, plan.form, plan.temperature)
    return compact.expand(labels, plan.num_classes, plan.form, plan.temperature)


def _loss(
    program: StudentProgram, logits: chex.Array, targets: chex.Array, hard: chex.Array
) -> chex.Array:
    protocol = program.protocol
    if program.regime in ("hard", "plain"):
        return losses_lib.kl_divergence(logits, hard, 1.0)
    if protocol.loss == "mse":
        loss = losses_lib.logit_error(logits, targets, protocol.temperature)
    else:
        loss = losses_lib.kl_divergence(logits, targets, protocol.temperature)
    if protocol.hard_weight:
        loss += protocol.hard_weight * losses_lib.kl_divergence(logits, hard, 1.0)
    return loss
