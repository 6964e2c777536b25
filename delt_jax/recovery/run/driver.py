"""Waves of recovery: batches side by side, round after round, saved as they go."""

import functools
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax import models
from delt_jax.core import checks, keys
from delt_jax.core.progress import Progress, say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe, RecoverRecipe
from delt_jax.recovery import perturbation as perturb
from delt_jax.recovery import step as engine
from delt_jax.recovery.initial_images import Starts
from delt_jax.recovery.run import checkpoint as kept
from delt_jax.recovery.run import execution
from delt_jax.recovery.run.checkpoint import Kept
from delt_jax.recovery.run.execution import ExecutionPlan
from delt_jax.recovery.run.loss_history import History, mean_last
from delt_jax.recovery.schedule import BatchSchedule, Round, relabel_from_zero
from delt_jax.recovery.types import Active, Job, Losses, RecoverState, TeacherVariables
from delt_jax.runtime import devices as parallel
from delt_jax.runtime import processes as hosts
from delt_jax.runtime.profiling import Profile
from delt_jax.runtime.signals import DeferredSignal
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers.teacher import Teacher

_SECONDS_BETWEEN_SAVES = 20  # at least, at round ends
# What the compiled step does not read; methods that differ in these alone share programs.
_NOT_IN_PROGRAMS = (
    "iterations",
    "round_iterations",
    "min_iterations",
    "batch_size",
    "layout",
    "statistics_momentum",  # of the terms' constants
    "conv_drop",
    "round_robin",  # the teachers are what counts
    "storage",
    "dtype",  # the model's is what counts
    "chunk_steps",
    "batches_per_device",
    "save_minutes",
    "profile_chunks",
)


@dataclass(frozen=True)
class Work:
    """What every wave of a recovery shares.

    Attributes:
      recipe, source, workdir: of the run.
      teachers: that guide the images in turn; the first is the run's own.
      constants: of further terms, by teacher and term.
      starts: where the images start.
      schedule: all batches.
      partial: where finished and unfinished batches are kept.
    """

    recipe: Recipe
    source: Source
    workdir: WorkDir
    teachers: tuple[Teacher, ...]
    constants: tuple[tuple[Any, ...], ...]
    starts: Starts
    schedule: Sequence[BatchSchedule]
    partial: Path

    @property
    def teacher(self) -> Teacher:
        """The run's own teacher, whose normalisation is the images'."""
        return self.teachers[0]

    def in_plan_order(self) -> list[int]:
        """All batches, those that can go side by side in a row."""
        alike: dict[Any, list[int]] = {}
        for i in range(len(self.schedule)):
            alike.setdefault(self.likeness(i), []).append(i)
        return [i for members in alike.values() for i in members]

    def likeness(self, index: int) -> tuple[Any, ...]:
        """What batches must have in common to go side by side."""
        batch = self.schedule[index]
        return len(batch.images), batch.rounds, self.classes(index)

    def classes(self, index: int) -> tuple[int, ...]:
        """Of each image of a batch a number from 0 that its class has there.

        Only further terms read it; () without them, so that more batches are alike.
        """
        return relabel_from_zero(self.schedule[index].labels) if self.recipe.recover.terms else ()

    def job(self, index: int) -> Job:
        """What the engine reads for a batch; its key depends on seed and batch index only."""
        batch = self.schedule[index]
        low, high = self.teacher.normalisation.bounds()
        return Job(
            labels=np.array(batch.labels, np.int32),
            ranks=np.array(batch.images, np.int32) % np.int32(self.recipe.ipc),
            joins=np.array(batch.joins, np.int32),
            iterations=np.int32(batch.iterations),
            key=keys.stream(self.recipe.seed, "recover", index),
            low=np.asarray(low),
            high=np.asarray(high),
            starts=self.start(index) if self.recipe.recover.residual else None,
        )

    def start(self, index: int) -> np.ndarray:
        """Normalised float32 images [B, S, S, C] that a batch starts from."""
        return self.starts.images(self.schedule[index].images)

    def begin(self, index: int, step: int) -> Kept:
        """A batch as it was kept after `step` iterations; at its start where that is 0."""
        term_state = engine.init_term_state(self.recipe.recover, self.constants)
        term_state = jax.tree.map(np.asarray, term_state)
        if step:
            return kept.read(self.partial, index, term_state)
        images, none = self.start(index), np.zeros(0, np.float32)
        zeros = np.zeros_like(images)
        state = RecoverState(np.int32(0), images, zeros, zeros, term_state)
        return Kept(state, Losses(none, none, none, none), 0.0)


def finish(
    work: Work,
    indices: Sequence[int],
    settled: ExecutionPlan,
    bar: Progress,
    deferred_signal: DeferredSignal,
) -> None:
    """Recovers the batches that have no part yet, from where each was kept.

    Raises:
      UserError: if a batch diverges, the disk is full, or one batch alone exceeds the memory.
    """
    calls = work.recipe.recover.profile_chunks if hosts.index() == 0 else 0
    profile = Profile(work.workdir.path / "profile", calls)
    with ThreadPoolExecutor(1) as writer:
        try:
            while remaining := [i for i in indices if not kept.part(work.partial, i).exists()]:
                try:
                    for wave, width in _waves(work, remaining, settled.batches_per_device):
                        _Wave(
                            work, wave, width, settled, bar, deferred_signal, writer, profile
                        ).run()
                except kept.CorruptCheckpoint as e:
                    e.drop()
                except jax.errors.JaxRuntimeError as e:
                    settled = _halved(settled, e)
                    execution.write(work.partial, settled)
        finally:
            profile.close()


def _halved(settled: ExecutionPlan, error: Exception) -> ExecutionPlan:
    """Half as many batches per device, where the error says that memory ran out."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    stack = settled.batches_per_device
    if stack == 1:
        raise UserError(
            "The device's memory is too small for one batch; lower recover.batch_size, or set "
            "recover.dtype to bfloat16."
        ) from error
    say(f"  out of device memory with {stack} batches per device; goes on with {stack // 2}")
    return replace(settled, batches_per_device=stack // 2)


def _waves(work: Work, indices: list[int], stack: int) -> list[tuple[list[int], int]]:
    """Batches that can go side by side, and the number of devices they take.

    These are batches alike that were kept at the same iteration.
    """
    alike: dict[Any, list[int]] = {}
    for i in indices:
        alike.setdefault((work.likeness(i), kept.step_of(work.partial, i)), []).append(i)
    found = []
    for members in alike.values():
        width = min(parallel.device_count(), -(-len(members) // stack))
        found += [(wave, width) for wave in parallel.device_groups(members, width * stack)]
    return found


@functools.lru_cache(maxsize=256)
def _compiled(
    teachers: tuple[nn.Module, ...],
    recipe: RecoverRecipe,
    flip: bool,
    active: Active,
    classes: tuple[int, ...],
    first: int,
    steps: int,
    width: int,
    stack: int,
):
    own_weights = recipe.perturbation > 0
    chunk = functools.partial(
        perturb.run_chunk if own_weights else engine.run_chunk,
        models=teachers,
        recipe=recipe,
        flip=flip,
        active=active,
        steps=steps,
        classes=classes,
        first=first,
    )
    return parallel.map_jobs(chunk, width, stack, unroll=own_weights)


def program_of(recipe: RecoverRecipe) -> RecoverRecipe:
    """The recipe with everything at its default that the compiled step does not read."""
    default = RecoverRecipe()
    return replace(recipe, **{name: getattr(default, name) for name in _NOT_IN_PROGRAMS})


def active_of(positions: tuple[int, ...]) -> Active:
    """A count where the active images are the first ones, so that equal counts share code."""
    return len(positions) if positions == tuple(range(len(positions))) else positions


class _Wave:
    """Some batches on their way through the rounds."""

    def __init__(
        self,
        work: Work,
        wave: list[int],
        width: int,
        settled: ExecutionPlan,
        bar: Progress,
        deferred_signal: DeferredSignal,
        writer: ThreadPoolExecutor,
        profile: Profile,
    ):
        """Brings the batches to the devices."""
        self._work, self._wave, self._settled = work, wave, settled
        self._bar, self._deferred_signal = bar, deferred_signal
        self._writer, self._profile = writer, profile
        self._writing: Future | None = None
        self._started = self._saved = time.monotonic()
        self._width, stack = width, settled.batches_per_device
        step = kept.step_of(work.partial, wave[0])
        begun = [work.begin(i, step) for i in wave]
        self._step, self._earlier = step, [b.seconds for b in begun]
        self._states = parallel.stack_jobs([b.state for b in begun], width, stack)
        self._jobs = parallel.stack_jobs([work.job(i) for i in wave], width, stack)
        curves = [b.losses for b in begun]
        curves += [curves[-1]] * (width * stack - len(wave))
        self._history = History([Losses(*(np.stack(c) for c in zip(*curves, strict=True)))])

    def run(self) -> None:
        """Goes through the rounds that are left and writes the finished batches."""
        work = self._work
        recover = program_of(work.recipe.recover)
        dtype, classes = self._settled.dtype, work.classes(self._wave[0])
        teachers = tuple(models.create(replace(t.spec, dtype=dtype)) for t in work.teachers)
        variables = [teacher.variables for teacher in work.teachers]
        guides = jax.tree.map(jnp.asarray, tuple(map(TeacherVariables, variables, work.constants)))
        jobs, rounds = self._jobs, work.schedule[self._wave[0]].rounds
        if recover.perturbation and rounds:
            starts, stack = [work.start(i) for i in self._wave], self._settled.batches_per_device
            weights = perturb.own_weights(
                variables,
                jobs,
                parallel.stack_jobs(starts, self._width, stack),
                models=teachers,
                recipe=recover,
                flip=work.recipe.data.flip,
                active=active_of(rounds[0].active),
            )
            jobs = jobs, weights
        for rnd in rounds:
            end = rnd.start + rnd.iterations
            while self._step < end:
                steps = min(self._settled.chunk_steps, end - self._step)
                chunk = _compiled(
                    teachers,
                    recover,
                    work.recipe.data.flip,
                    active_of(rnd.active),
                    classes,
                    self._step % len(teachers),
                    steps,
                    self._width,
                    self._settled.batches_per_device,
                )
                self._states, losses = chunk(self._states, jobs, guides)
                self._step += steps
                self._after_chunk(rnd, steps, losses, last=end == self._last(rounds))
        self._write_parts()

    @staticmethod
    def _last(rounds: Sequence[Round]) -> int:
        return rounds[-1].start + rounds[-1].iterations

    def _after_chunk(self, rnd: Round, steps: int, losses: Losses, last: bool) -> None:
        """Shows and logs the losses, and saves when it is time."""
        jobs, round_ends = len(self._wave), self._step == rnd.start + rnd.iterations
        latest = self._history.add(losses, lag=1)
        figures = mean_last(latest, jobs, further=bool(self._work.recipe.recover.terms))
        self._profile.after_call(losses)
        self._bar.update(steps * len(rnd.active) * jobs, **figures)
        if round_ends:
            self._work.workdir.log.write(
                "recover",
                self._step,
                batches=self._wave,
                active=len(rnd.active),
                **figures,
            )
        if last and round_ends:
            return
        if self._deferred_signal.asked is not None:
            self._save()
            self._wait_for_writer()
            self._deferred_signal.leave_if_asked()
        since = time.monotonic() - self._saved
        if since >= 60 * self._work.recipe.recover.save_minutes or (
            round_ends and since >= _SECONDS_BETWEEN_SAVES
        ):
            self._save()

    def _save(self) -> None:
        """Copies the unfinished batches to the host; they are written while devices work."""
        copies = [self._on_host(position) for position in range(len(self._wave))]
        self._wait_for_writer()  # at most one save is under way

        def write():
            for index, copy in zip(self._wave, copies, strict=True):
                kept.write(self._work.partial, index, copy)

        self._writing = self._writer.submit(write)
        self._saved = time.monotonic()

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _on_host(self, position: int) -> Kept:
        state = parallel.job(self._states, position)
        losses = Losses(*(curve[position] for curve in self._history.arrays()))
        seconds = self._earlier[position] + (time.monotonic() - self._started) / len(self._wave)
        return Kept(state, losses, seconds)

    def _write_parts(self) -> None:
        work, truncate = self._work, self._work.recipe.recover.storage == "jpeg75"
        for position, index in enumerate(self._wave):
            state, losses, seconds = self._on_host(position)
            checks.finite(
                state.images,
                f"Batch {index} diverged to non-finite pixels; lower recover.learning_rate.",
            )
            files.write_npz_fast(
                kept.part(work.partial, index),
                images=work.teacher.normalisation.to_pixels(state.images, truncate=truncate),
                seconds=seconds,
                batches_per_device=self._settled.batches_per_device,
                **losses._asdict(),
            )
        self._wait_for_writer()
        for index in self._wave:
            kept.forget(work.partial, index)
