"""Labels of the views that a student learns from: a pure function of views and label sources."""

from typing import Any, NamedTuple

import chex
import jax

from delt_jax import models
from delt_jax.augment.drawing import Drawn
from delt_jax.core import losses
from delt_jax.data import Normalisation
from delt_jax.labels import compact, labelling
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.training.student_program import StudentProgram


class LabelProgram(NamedTuple):
    """What is compiled into the labelling of a student's views; hashable.

    Attributes:
      source: "teachers", "stored", "fixed" or "classes".
      num_classes: of the labels.
      teachers, normalisations: as of `StudentProgram`, where teachers label.
      temperature: at which they do.
      plan: whose form their labels take, or None.
      as_values: whether probabilities become the values of a squared error.
    """

    source: str
    num_classes: int
    teachers: tuple[ModelSpec, ...] = ()
    normalisations: tuple[Normalisation, ...] = ()
    temperature: float = 1.0
    plan: LabelPlan | None = None
    as_values: bool = False


def label_program(program: StudentProgram) -> LabelProgram:
    """How the views of a student get their labels."""
    num_classes, as_values = program.student.num_classes, program.learns_values
    if program.is_hard:
        return LabelProgram("classes", num_classes, as_values=as_values)
    if program.regime == "learned":  # which are values already where these are wanted
        return LabelProgram("fixed", num_classes)
    if program.regime == "fixed":
        return LabelProgram("fixed", num_classes, as_values=as_values)
    if not program.teachers:
        return LabelProgram("stored", num_classes, as_values=as_values)
    return LabelProgram(
        "teachers",
        num_classes,
        program.teachers,
        program.teacher_normalisations,
        program.protocol.temperature,
        program.plan,
        as_values,
    )


class LabelInputs(NamedTuple):
    """What the labelling of views reads beside them; only what its program needs is there.

    Attributes:
      classes: int32 [N], of the set.
      targets: float32 [N, classes], soft labels of the images without augmentation, or learned
        ones.
    """

    classes: chex.Array
    targets: chex.Array | None


def label(
    drawn: Drawn,
    inputs: LabelInputs,
    stored: chex.Array | None,
    teachers: tuple[Any, ...],
    program: LabelProgram,
) -> tuple[chex.Array, chex.Array]:
    """Labels views.

    Args:
      drawn: the views.
      inputs: labels of the set.
      stored: float32 [N, classes], probabilities of this epoch's views, by index of the image;
        None where labels do not come from the store.
      teachers: variables of each teacher that labels.
      program: static.

    Returns:
      Labels, probabilities or values float32 [n, classes], and the class of each view's own image,
      int32 [n].
    """
    labels = _labels(drawn, inputs, stored, teachers, program)
    if program.as_values:
        labels = losses.label_values(labels)
    return labels, inputs.classes[drawn.own]


def _labels(
    drawn: Drawn,
    inputs: LabelInputs,
    stored: chex.Array | None,
    teachers: tuple[Any, ...],
    program: LabelProgram,
) -> chex.Array:
    mixed, own, partners = drawn
    if program.source == "teachers":
        return _teacher_labels(program, teachers, mixed.images)
    if program.source == "fixed":
        assert inputs.targets is not None
        return mixed.labels(inputs.targets[own], inputs.targets[partners])
    if program.source == "stored":
        assert stored is not None
        return stored[own]
    hard = jax.nn.one_hot(inputs.classes, program.num_classes)
    return mixed.labels(hard[own], hard[partners])


def _teacher_labels(
    program: LabelProgram, teachers: tuple[Any, ...], images: chex.Array
) -> chex.Array:
    """Labels of views by the mean of the teachers' logits, probabilities [n, classes]."""
    networks = [models.create(spec) for spec in program.teachers]
    logits = labelling.mean_logits(networks, program.normalisations, teachers, images)
    if program.plan is None:
        return jax.nn.softmax(logits / program.temperature)
    plan = program.plan  # the student gets what the store would have kept of these labels
    labels = compact.compress(logits, plan.top_k, plan.form, plan.temperature)
    return compact.expand(labels, plan.num_classes, plan.form, plan.temperature)
