"""A recovery to be done: what all of its batches share, and what each of them starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from delt_jax.core import keys
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import optimisers
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepSettings
from delt_jax.recovery.run import checkpoint, loss_history, shapes
from delt_jax.recovery.run.checkpoint import BatchCheckpoint
from delt_jax.recovery.run.outline import Outline
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.recovery.starts import Starts
from delt_jax.recovery.types import BatchInputs, RecoverState, TeacherVariables
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers.teacher import Teacher


@dataclass(frozen=True)
class RecoveryTask:
    """What all batches of a recovery share.

    Attributes:
      recipe: says how the recovery is driven: type, batches per device, saves, profile, storage.
      settings: what the compiled steps read.
      seed: of the run.
      ipc: images per class.
      teachers: guide the images in round robin; the first is the run's own.
      variables: of each teacher, with the constants of the extra loss terms; host arrays.
      starts: the start images.
      schedule: of all batches.
      partial: folder of finished and unfinished batches.
      workdir: takes log and profile.
    """

    recipe: RecoverRecipe
    settings: StepSettings
    seed: int
    ipc: int
    teachers: tuple[Teacher, ...]
    variables: tuple[TeacherVariables, ...]
    starts: Starts
    schedule: Sequence[BatchSchedule]
    partial: Path
    workdir: WorkDir

    @property
    def teacher(self) -> Teacher:
        """The run's own teacher, whose normalisation is the images'."""
        return self.teachers[0]

    @property
    def outline(self) -> Outline:
        """What was known of it before its teachers were trained."""
        specs = tuple(teacher.spec for teacher in self.teachers)
        return Outline(self.settings, specs, self.schedule)

    def in_device_order(self) -> list[int]:
        """All batches, such that those that can run side by side follow each other."""
        return self.outline.in_device_order()

    def inputs(self, index: int) -> BatchInputs:
        """What the steps of a batch read; its key depends on seed and batch index only."""
        batch = self.schedule[index]
        low, high = self.teacher.normalisation.bounds()
        return BatchInputs(
            labels=np.array(batch.labels, np.int32),
            ranks=np.array(batch.indices, np.int32) % np.int32(self.ipc),
            start_iterations=np.array(batch.start_iterations, np.int32),
            end_iterations=np.array(batch.end_iterations, np.int32),
            iterations=np.int32(batch.iterations),
            key=keys.stream(self.seed, "recover", index),
            low=np.asarray(low),
            high=np.asarray(high),
            starts=self.start_images(index) if self.settings.residual else None,
        )

    def start_images(self, index: int) -> np.ndarray:
        """Normalised float32 images [B, S, S, C] that a batch starts from."""
        return self.starts.images(self.schedule[index].indices)

    def restored(self, index: int, step: int) -> BatchCheckpoint:
        """A batch as it was saved after `step` iterations; at its start if that is 0.

        Raises:
          CorruptCheckpoint: if it is damaged.
        """
        term_state = recovery_step.init_term_state(self.settings, self.variables)
        term_state = jax.tree.map(np.asarray, term_state)
        optimiser, names = self.settings.optimiser, [name for name, _ in self.settings.terms]
        if step:
            like = shapes.of_state(
                self.settings, self.teacher.spec, len(self.schedule[index].indices)
            )
            like = like.replace(step=np.int32(0), term_state=term_state)
            return checkpoint.restore(self.partial, index, like, names)
        images = self.start_images(index)
        own = jax.tree.map(np.asarray, optimisers.begin(optimiser, images))
        state = RecoverState(np.int32(0), images, own.mu, own.nu, term_state, own.plugged)
        return BatchCheckpoint(state, loss_history.none_yet(names), 0.0)
