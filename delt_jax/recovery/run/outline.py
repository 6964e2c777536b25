"""What is known of a recovery before its teachers are trained: settings, networks, schedule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.recovery.program import StepProgram, StepSettings, active_of
from delt_jax.recovery.run.plan import ExecutionPlan
from delt_jax.recovery.run.sizes import padded_size
from delt_jax.recovery.schedule import BatchSchedule, Round, relabel_from_zero


@dataclass(frozen=True)
class Outline:
    """What the compiled programs of a recovery follow from, together with its execution plan.

    Attributes:
      settings: what the compiled steps read.
      specs: of the teachers, which guide the images in round robin.
      schedule: of all batches.
    """

    settings: StepSettings
    specs: tuple[ModelSpec, ...]
    schedule: Sequence[BatchSchedule]

    def in_device_order(self) -> list[int]:
        """All batches, such that those that can run side by side follow each other."""
        alike: dict[Any, list[int]] = {}
        for i in range(len(self.schedule)):
            alike.setdefault(self.likeness(i), []).append(i)
        return [i for members in alike.values() for i in members]

    def likeness(self, index: int) -> tuple[Any, ...]:
        """What batches must have in common to run side by side."""
        batch = self.schedule[index]
        return len(batch.indices), batch.rounds, self.classes(index)

    def classes(self, index: int) -> tuple[int, ...]:
        """Numbers the classes of a batch's images from 0.

        () without extra terms, which alone read it, so that more batches are alike.
        """
        return relabel_from_zero(self.schedule[index].labels) if self.settings.terms else ()

    def program(
        self, index: int, rnd: Round, plan: ExecutionPlan, steps: int = 1, first_teacher: int = 0
    ) -> StepProgram:
        """The program of a call within a round of a batch.

        Args:
          index: of the batch.
          rnd: one of its rounds.
          plan: how the recovery runs.
          steps: iterations of the call.
          first_teacher: index of the teacher that guides the first of them.
        """
        batch_size, masked = len(self.schedule[index].indices), bool(plan.sizes)
        return StepProgram(
            tuple(models.create(replace(spec, dtype=plan.dtype)) for spec in self.specs),
            self.settings,
            padded_size(rnd, batch_size, plan.sizes) if masked else active_of(rnd.active),
            steps,
            self.classes(index),
            first_teacher,
            masked,
        )
