"""Everything about a student's training that is compiled in, and the set that it learns from."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex

from delt_jax import models
from delt_jax.augment.views import ViewSpec
from delt_jax.core.normalisation import AlreadyMapped
from delt_jax.data import Normalisation
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.training import protocols
from delt_jax.training.protocols import Protocol

PLAIN = ViewSpec("", 1, 1.0, False, "none", 1.0)  # no augmentation: whole images, unmixed
# Of what only some trainings have; part of identities, to be raised when their results change.
OWN_CLASS_VERSION = 2  # the added cross-entropy, since its label is not mixed any more
EMA_VERSION = 2  # averaged weights, since running statistics are not averaged any more


def parts(protocol: Protocol, regime: str) -> dict[str, int]:
    """Versions of a training's protocol, its views, and what it has beside others.

    Args:
      protocol: of the training.
      regime: where its labels come from, as of `StudentProgram`.
    """
    found = {f"protocol.{protocol.name}": protocols.version(protocol.name)}
    if protocol.hard_weight and not _is_hard(regime):
        found["training.own_class"] = OWN_CLASS_VERSION
    if protocol.ema:
        found["training.ema"] = EMA_VERSION
    return found | protocol.views.versions()


def _is_hard(regime: str) -> bool:
    return regime in ("hard", "plain")


@dataclass(frozen=True)
class StudentProgram:
    """Everything about a student's training that is compiled in.

    Attributes:
      student: architecture of the student.
      teachers: architectures of the teachers that label views while students train; empty where
        labels come from elsewhere.
      protocol: how the student trains. In the regime "plain" its views are not used.
      regime: where labels come from: "online", "stored", "fixed", "learned", "hard" or "plain",
        as `delt_jax.evaluation.metrics.Score` explains them.
      normalisation: of the student's inputs, which is that of the first teacher, or that which is
        part of the set's preprocessing.
      teacher_normalisations: one for each teacher.
      count: number of images in the set, N.
      group_size: number of images that are mixed among themselves.
      plan: which views have stored labels; None unless the regime is "stored". Views come again
        after its epochs. Where teachers label in place of the store, their labels go through
        the float16 form of the plan, too.
      devices: number of shares that each batch is cut into, for as many devices; fewer devices
        take several shares each, and the student is the same.
      shared_norm: whether these devices also share BatchNorm's statistics.
      space: hash of the preprocessing whose space the images are in, as floats; empty where they
        are pixels.
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
    space: str = ""

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
        } | ({"space": self.space} if self.space else {})

    def versions(self) -> dict[str, int]:
        """Versions of the architectures, the protocol and the augmentations in use."""
        networks = {spec.name for spec in (self.student, *self.teachers)}
        named = {f"model.{name}": models.version(name) for name in networks}
        return named | parts(self.protocol, self.regime)

    @property
    def is_hard(self) -> bool:
        """Whether the labels are classes."""
        return _is_hard(self.regime)

    @property
    def learns_values(self) -> bool:
        """Whether labels are values for a squared error, rather than probabilities."""
        return self.protocol.loss == "squared"

    @property
    def inputs(self) -> Normalisation | AlreadyMapped:
        """Maps the set's images, and test images that went through its preprocessing."""
        return AlreadyMapped() if self.space else self.normalisation

    @property
    def drawing(self) -> tuple[ViewSpec, int]:
        """Distribution of the views, and the number of images that are mixed among themselves."""
        return PLAIN if self.regime == "plain" else self.protocol.views, self.group_size

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
      pixels: uint8 [N, S, S, C]; float32 where they are in the space of a preprocessing.
      labels: int32 [N], classes.
      targets: float32 [N, classes], soft labels of the images without augmentation, as
        probabilities; None where no regime needs them.
      learned: float32 [N, classes], labels that came with the set, as probabilities or as the
        values of a squared error; None where no regime needs them.
    """

    pixels: chex.Array
    labels: chex.Array
    targets: chex.Array | None
    learned: chex.Array | None = None
