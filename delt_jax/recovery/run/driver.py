"""Drives a recovery: device groups of batches go through the rounds, and are saved on the way."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.core import checks, stopping
from delt_jax.core.progress import Progress, say
from delt_jax.errors import UserError
from delt_jax.recovery import perturbation
from delt_jax.recovery.program import StepProgram
from delt_jax.recovery.run import ahead, checkpoint, chunks, execution
from delt_jax.recovery.run.checkpoint import BatchCheckpoint
from delt_jax.recovery.run.chunks import compile_chunk
from delt_jax.recovery.run.loss_history import History, columns, mean_last
from delt_jax.recovery.run.plan import ExecutionPlan
from delt_jax.recovery.run.task import RecoveryTask
from delt_jax.recovery.schedule import Round
from delt_jax.recovery.types import BatchInputs, Losses
from delt_jax.recovery.views import Views
from delt_jax.runtime import devices
from delt_jax.runtime import processes as hosts
from delt_jax.runtime.profiling import Profile
from delt_jax.store import files
from delt_jax.store.checkpoint import CorruptCheckpoint

SECONDS_BETWEEN_SAVES = 20  # at least, at round ends


@dataclass(frozen=True)
class Session:
    """What the device groups of one call of `finish` share.

    Attributes:
      task: the recovery.
      plan: how it runs.
      bar: shows progress and losses.
      writer: one thread, which writes checkpoints while the devices work.
      profile: traces the first compiled calls, if asked for.
    """

    task: RecoveryTask
    plan: ExecutionPlan
    bar: Progress
    writer: ThreadPoolExecutor
    profile: Profile


def finish(
    task: RecoveryTask,
    indices: Sequence[int],
    plan: ExecutionPlan,
    bar: Progress,
) -> None:
    """Recovers those of some batches that are not finished yet, from their checkpoints.

    Raises:
      UserError: if a batch diverges, the disk is full, or one batch alone exceeds the memory.
    """
    calls = task.recipe.profile_chunks if hosts.index() == 0 else 0
    profile = Profile(task.workdir.path / "profile", calls)

    def remaining():
        return [i for i in indices if not checkpoint.finished_batch(task.partial, i).exists()]

    with ThreadPoolExecutor(1) as writer:
        session = Session(task, plan, bar, writer, profile)
        try:
            while left := remaining():
                try:
                    steps = {i: checkpoint.step_of(task.partial, i) for i in left}
                    for group, num_devices in _groups(task, steps, session.plan):
                        DeviceGroup(session, group, num_devices).run()
                        stopping.leave()
                except CorruptCheckpoint as e:
                    checkpoint.drop(e)
                except jax.errors.JaxRuntimeError as e:
                    session = replace(session, plan=_halved(session.plan, e))
                    execution.write(task.partial, session.plan)
        finally:
            profile.close()


def _groups(
    task: RecoveryTask, steps: dict[int, int], plan: ExecutionPlan
) -> list[tuple[list[int], int]]:
    """Groups of batches with their numbers of devices; their programs begin to be compiled."""
    groups = ahead.device_groups(task.outline, steps, plan.batches_per_device)
    starts = [ahead.Start(group[0], steps[group[0]], width) for group, width in groups]
    ahead.begin(task.outline, plan, starts, task.variables)
    return groups


def _halved(plan: ExecutionPlan, error: Exception) -> ExecutionPlan:
    """The plan with half as many batches per device, if the error says that memory ran out."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    batches = plan.batches_per_device
    if batches == 1:
        raise UserError(
            "The device's memory is too small for one batch; lower recover.batch_size, or set "
            "recover.dtype to bfloat16."
        ) from error
    text = f"  out of device memory with {batches} batches per device; goes on with {batches // 2}"
    say(text, by_each=True)
    return replace(plan, batches_per_device=batches // 2)


class DrawnViews:
    """The views of batches side by side, drawn for many iterations at once, which go on."""

    def __init__(
        self,
        task: RecoveryTask,
        plan: ExecutionPlan,
        layout: tuple[int, int],
        inputs: BatchInputs,
    ):
        """Takes the batches' inputs, with leading axes of `layout`; draws nothing yet."""
        self._count = chunks.views_at_once(plan.chunk_steps)
        self._drawn: Views | None = None
        self._layout, self._inputs = layout, inputs._replace(starts=None)
        size, batch_size = task.teacher.spec.image_size, inputs.labels.shape[-1]
        self._draw = chunks.compile_views(task.settings, size, self._count, layout, batch_size)
        self._first = 0

    def of(self, step: int, steps: int) -> Views:
        """Views on the devices, among them those of `steps` iterations from `step` on."""
        if self._drawn is None or step + steps > self._first + self._count:
            num_devices, batches_per_device = self._layout
            firsts = [np.int32(step)] * (num_devices * batches_per_device)
            self._drawn = self._draw(devices.stack_jobs(firsts, *self._layout), self._inputs, ())
            self._first = step
        return self._drawn


class DeviceGroup:
    """Batches side by side on devices, on their way through the rounds.

    Attributes:
      indices: of the batches, which are alike and were saved at the same iteration.
    """

    def __init__(self, session: Session, indices: Sequence[int], num_devices: int):
        """Brings the batches to the devices."""
        self.indices = list(indices)
        self._session, self._task = session, session.task
        self._layout = num_devices, session.plan.batches_per_device
        self._writing: Future | None = None
        self._ended: tuple[int, int] | None = None  # step and images of a round to be logged
        self._started = self._saved = time.monotonic()
        task, self._step = self._task, checkpoint.step_of(self._task.partial, self.indices[0])
        restored = [task.restored(i, self._step) for i in self.indices]
        self._earlier = [batch.seconds for batch in restored]
        self._states = devices.stack_jobs([batch.state for batch in restored], *self._layout)
        self._inputs = devices.stack_jobs([task.inputs(i) for i in self.indices], *self._layout)
        self._views = DrawnViews(task, session.plan, self._layout, self._inputs)
        curves = [batch.losses for batch in restored]
        # Places without a batch repeat the last one, as stack_jobs does.
        curves += [curves[-1]] * (num_devices * session.plan.batches_per_device - len(curves))
        self._history = History([jax.tree.map(lambda *parts: np.stack(parts), *curves)])

    def run(self) -> None:
        """Goes through the rounds that are left and writes the finished batches."""
        task, plan, first = self._task, self._session.plan, self.indices[0]
        rounds, num_teachers = task.schedule[first].rounds, len(task.teachers)
        teachers = jax.tree.map(jnp.asarray, task.variables)
        if task.settings.perturbation and rounds:
            self._perturb(task.outline.program(first, rounds[0], plan))
        for rnd in rounds:
            end, program = rnd.start + rnd.iterations, task.outline.program(first, rnd, plan)
            while self._step < end:
                steps, turn = min(plan.chunk_steps, end - self._step), self._step % num_teachers
                program = replace(program, steps=steps, first_teacher=turn)
                views = self._views.of(self._step, steps)
                chunk = compile_chunk(program, *self._layout, len(task.schedule[first].indices))
                self._states, losses = chunk(self._states, (self._inputs, views), teachers)
                self._step += steps
                self._after_chunk(rnd, steps, losses)
                if self._step < rounds[-1].start + rounds[-1].iterations:
                    self._save_if_due(round_ends=self._step == end)
        self._write_finished()

    def _perturb(self, program: StepProgram) -> None:
        """Gives the batches their own parameters; the program is that of their first iteration."""
        task = self._task
        starts = [task.start_images(i) for i in self.indices]
        starts = devices.stack_jobs(starts, *self._layout)
        params = perturbation.own_params(program, task.variables, self._inputs, starts)
        self._inputs = self._inputs._replace(params=params)

    def _after_chunk(self, rnd: Round, steps: int, losses: Losses) -> None:
        """Shows the losses, and notes the end of a round."""
        batches = len(self.indices)
        latest = self._history.add(losses, lag=1)
        figures = mean_last(latest, batches)
        self._session.profile.after_call(losses)
        self._log_round(latest)
        self._session.bar.update(steps * len(rnd.active) * batches, **figures)
        if self._step == rnd.start + rnd.iterations:
            self._ended = self._step, len(rnd.active)

    def _log_round(self, losses: Losses | None) -> None:
        """Logs the round that has ended, if its losses have not been logged: the newest of these.

        They come one chunk late, or when the batches are saved, whichever is first.
        """
        if self._ended is None:
            return
        step, active = self._ended
        figures = mean_last(losses, len(self.indices))
        log = self._task.workdir.log
        log.write("recover", step, batches=self.indices, active=active, **figures)
        self._ended = None

    def _save_if_due(self, round_ends: bool) -> None:
        """Saves when it is time; leaves the process where a signal asked for it."""
        if stopping.requested():
            self._save()
            self._wait_for_writer()
            stopping.leave()
        since = time.monotonic() - self._saved
        if since >= 60 * self._task.recipe.save_minutes or (
            round_ends and since >= SECONDS_BETWEEN_SAVES
        ):
            self._save()

    def _save(self) -> None:
        """Copies the unfinished batches to the host; they are written while devices work."""
        self._log_round(self._history.arrays())
        copies = [self._on_host(position) for position in range(len(self.indices))]
        self._wait_for_writer()  # at most one save is under way

        def write():
            for index, copy in zip(self.indices, copies, strict=True):
                checkpoint.save(self._task.partial, index, copy)

        self._writing = self._session.writer.submit(write)
        self._saved = time.monotonic()

    def _wait_for_writer(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _on_host(self, position: int) -> BatchCheckpoint:
        state = devices.job(self._states, position)
        losses = jax.tree.map(lambda curve: curve[position], self._history.arrays())
        spent = (time.monotonic() - self._started) / len(self.indices)
        return BatchCheckpoint(state, losses, self._earlier[position] + spent)

    def _write_finished(self) -> None:
        """Writes the batches' pixels and losses, then deletes their checkpoints."""
        self._log_round(self._history.arrays())
        task, plan = self._task, self._session.plan
        truncate = task.recipe.storage == "jpeg75"
        for position, index in enumerate(self.indices):
            state, losses, seconds = self._on_host(position)
            checks.finite(
                state.images,
                f"Batch {index} diverged to non-finite pixels; lower recover.learning_rate.",
            )
            files.write_npz_fast(
                checkpoint.finished_batch(task.partial, index),
                images=task.teacher.normalisation.to_pixels(state.images, truncate=truncate),
                seconds=seconds,
                batches_per_device=plan.batches_per_device,
                **columns(losses),
            )
        self._wait_for_writer()
        for index in self.indices:
            checkpoint.delete(task.partial, index)
