"""Trains students side by side, epoch after epoch, and keeps them as they go."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax import models
from delt_jax.core import keys
from delt_jax.core.progress import say
from delt_jax.data import Examples
from delt_jax.errors import UserError
from delt_jax.labels.compact import Compact
from delt_jax.labels.compact import expand as expand_labels
from delt_jax.runtime import devices as parallel
from delt_jax.runtime.signals import DeferredSignal
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import student_checkpoint
from delt_jax.training import student_step as learning
from delt_jax.training.state import TrainState
from delt_jax.training.student_checkpoint import TrainingCheckpoint
from delt_jax.training.student_step import Images, Job, Shared, StudentProgram

_SMALL = 5e6  # parameters, up to which all students of a row fit on an accelerator at once


@dataclass(frozen=True)
class Student:
    """One training of a row.

    Attributes:
      id: names its files.
      seed: of the run, and of this student.
      learning_rate: peak.
      images: its own set, or None if the row shares one.
    """

    id: str
    seed: tuple[int, int]
    learning_rate: float
    images: Images | None


@dataclass(frozen=True)
class StudentTask:
    """What the students of a row share.

    Attributes:
      program: all that is compiled in.
      teachers: variables of the teachers that label views.
      images: the set, or None if every student has its own.
      stored: reads the stored labels of an epoch, or None.
      test: real images that accuracy is measured on.
    """

    program: StudentProgram
    teachers: tuple[Any, ...]
    images: Images | None
    stored: Callable[[int], Compact] | None
    test: Examples


@dataclass(frozen=True)
class Trained:
    """A student after its last epoch.

    Attributes:
      history: (epoch, test accuracy in [0, 1]) of each look; the last epoch is always among them.
      variables: host arrays.
      logits: float32 [test images, classes].
      seconds: of its training; its share where several trained at once.
    """

    history: list[tuple[int, float]]
    variables: dict[str, Any]
    logits: np.ndarray
    seconds: float


def at_once(program: StudentProgram, asked: int, students: int) -> int:
    """Students that train together on a device.

    Args:
      program: theirs.
      asked: evaluate.seeds_at_once.
      students: of a row.
    """
    if asked or program.devices > 1:
        return asked or 1
    if _on_cpu():
        return 1
    shapes = jax.eval_shape(lambda: learning.init_student(program, jax.random.key(0)))
    return students if sum(p.size for p in jax.tree.leaves(shapes.params)) <= _SMALL else 1


def check(program: StudentProgram) -> None:
    """Raises a UserError unless its devices can share its batches evenly."""
    rest = program.count % program.batch
    for batch in (program.batch, rest) if program.devices > 1 else ():
        if batch % program.devices:
            raise UserError(
                f"evaluate.devices_per_student is {program.devices}, which does not divide a batch "
                f"of {batch} images; set evaluate.batch_size to a multiple of it that divides "
                f"{program.count}."
            )
    if program.devices > parallel.device_count():
        raise UserError(
            f"evaluate.devices_per_student is {program.devices}, but there are only "
            f"{parallel.device_count()} devices."
        )


def train(
    task: StudentTask,
    students: Sequence[Student],
    stack: int,
    partial: Path,
    save_seconds: float,
    on_epochs: Callable[[int, float], None],
    deferred_signal: DeferredSignal,
) -> list[Trained]:
    """Trains the students of a row, those that stand at the same epoch side by side.

    What a student becomes depends on its seed, `stack` and the lesson alone: not on the number of
    devices, on its companions, or on where it was interrupted.

    Args:
      task: what they learn.
      students: of one row.
      stack: how many train together on a device, see `at_once`.
      partial: folder where unfinished ones are kept.
      save_seconds: between two saves.
      on_epochs: told how many student-epochs are done, and the latest loss.
      deferred_signal: a signal that came is obeyed at the end of an epoch, when all is saved.

    Returns:
      One `Trained` for each, in order.
    """
    begun = [_restored(task.program, student, partial) for student in students]
    for state in begun:
        on_epochs(state.epoch, 0.0)
    devices = 1 if task.program.devices > 1 else parallel.device_count()
    done: dict[int, Trained] = {}
    for epoch in sorted({state.epoch for state in begun}, reverse=True):
        alike = [i for i, state in enumerate(begun) if state.epoch == epoch]
        width = min(devices, -(-len(alike) // stack))
        for wave in parallel.device_groups(alike, width * stack):
            together = _Together(task, [students[i] for i in wave], width, stack, partial)
            results = together.run(
                [begun[i] for i in wave], save_seconds, on_epochs, deferred_signal
            )
            done |= dict(zip(wave, results, strict=True))
    return [done[i] for i in range(len(students))]


def delete(partial: Path, student: Student) -> None:
    """Deletes the checkpoint of a student that is finished."""
    checkpoint.delete(_checkpoint(partial, student))


def _checkpoint(partial: Path, student: Student) -> Path:
    return partial / f"{student.id}.checkpoint"


def _restored(program: StudentProgram, student: Student, partial: Path) -> TrainingCheckpoint:
    """A student as it was saved, or a fresh one."""
    fresh = learning.init_student(program, keys.stream(student.seed[0], "student", student.seed[1]))
    try:
        return student_checkpoint.restore(_checkpoint(partial, student), fresh)
    except FileNotFoundError:
        pass
    except CorruptCheckpoint as e:
        say(f"  {e.path} is damaged ({e.reason}); its student starts anew")
    return TrainingCheckpoint(0, jax.tree.map(np.asarray, fresh), [], 0.0)


@functools.lru_cache(maxsize=32)
def _compiled(program: StudentProgram, batch: int | None, width: int, stack: int):
    """An epoch, or one batch of it, for so many students at once."""
    if batch is None:
        call = functools.partial(learning.run_epoch, program=program)
    else:
        call = functools.partial(learning.run_batch, program=program, batch=batch)
    if program.devices > 1:
        return parallel.share_job(call, program.devices)
    # vmap makes grouped convolutions of the students' weights, which CPUs are slow at.
    return parallel.map_jobs(call, width, stack, unroll=_on_cpu())


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _expand(labels: Compact, num_classes: int, form: str, temperature: float):
    return expand_labels(labels, num_classes, form, temperature)


class _Together:
    """Students that stand at the same epoch, on `width` devices with `stack` on each."""

    def __init__(
        self, task: StudentTask, students: Sequence[Student], width: int, stack: int, partial: Path
    ):
        self._task, self._program = task, task.program
        self._students, self._partial = students, partial
        self._width, self._stack = width, stack
        self._shared = jax.tree.map(
            jnp.asarray,
            Shared(task.teachers, task.images, None, np.int32(0), np.int32(0)),
        )

    def run(
        self,
        begun: Sequence[TrainingCheckpoint],
        save_seconds: float,
        on_epochs: Callable[[int, float], None],
        deferred_signal: DeferredSignal,
    ) -> list[Trained]:
        protocol, count = self._program.protocol, len(self._students)
        states = self._placed([one.state for one in begun])
        jobs = self._placed([self._job(student) for student in self._students])
        histories = [list(one.history) for one in begun]
        before = [one.seconds for one in begun]
        started = saved = time.monotonic()

        def seconds(i: int) -> float:
            return before[i] + (time.monotonic() - started) / count

        def keep(epoch: int) -> None:
            for i, student in enumerate(self._students):
                state = self._host(states, i)
                now = TrainingCheckpoint(epoch, state, histories[i], seconds(i))
                student_checkpoint.save(_checkpoint(self._partial, student), now)

        logits = [np.zeros(0)] * count
        late = None
        for epoch in range(begun[0].epoch, protocol.epochs):
            states, loss = self._epoch(states, jobs, epoch)
            done = epoch + 1
            # An accelerator is asked for the loss of the epoch before, so that it need not wait.
            on_epochs(count, float(np.mean(jax.device_get(loss if late is None else late))))
            late = None if _on_cpu() else loss
            if done % protocol.eval_every == 0 or done == protocol.epochs:
                for i in range(count):
                    logits[i], accuracy = self._look(self._host(states, i))
                    histories[i].append((done, accuracy))
            due = time.monotonic() - saved > save_seconds
            if done < protocol.epochs and (due or deferred_signal.asked):
                keep(done)
                saved = time.monotonic()
                deferred_signal.leave_if_asked()
        finished = [self._host(states, i) for i in range(count)]
        return [
            Trained(histories[i], learning.measured(state), logits[i], seconds(i))
            for i, state in enumerate(finished)
        ]

    def _placed(self, trees: Sequence[Any]) -> Any:
        """On the devices: a student each, or copies of the one that they share."""
        if self._program.devices > 1:
            return parallel.stack_copies(trees[0], self._program.devices)
        return parallel.stack_jobs(trees, self._width, self._stack)

    def _host(self, states: TrainState, i: int) -> TrainState:
        if self._program.devices > 1:
            return jax.tree.map(lambda leaf: np.asarray(leaf[0]), states)
        return parallel.job(states, i)

    def _job(self, student: Student) -> Job:
        run, own = student.seed
        plan = self._program.plan
        # Stored labels are of views that all students learn from.
        views = plan.view_key if plan else keys.stream(run, "views", own)
        return Job(
            views,
            keys.stream(run, "dropout", own),
            np.float32(student.learning_rate),
            student.images,
        )

    def _epoch(self, states: TrainState, jobs: Job, epoch: int) -> tuple[TrainState, Any]:
        program, stored = self._program, None
        if self._task.stored is not None and program.plan is not None:
            labels = self._task.stored(epoch)
            plan = program.plan
            stored = _expand(labels, plan.num_classes, plan.form, plan.temperature)
        shared = self._shared._replace(stored=stored, epoch=jnp.int32(epoch))
        if not _on_cpu():
            return _compiled(program, None, self._width, self._stack)(states, jobs, shared)
        losses = []
        for start in program.starts:  # convolutions are slow inside a loop on a CPU
            batch = min(program.batch, program.count - start)
            run = _compiled(program, batch, self._width, self._stack)
            states, loss = run(states, jobs, shared._replace(start=jnp.int32(start)))
            losses.append(loss)
        return states, jnp.stack(losses)

    def _look(self, state: TrainState) -> tuple[np.ndarray, float]:
        """Logits of the test images, and the accuracy."""
        program, test = self._program, self._task.test
        model, variables = models.create(program.student), learning.measured(state)
        logits = teacher_lib.logits_of_examples(model, variables, program.normalisation, test)
        return logits, float((logits.argmax(-1) == test.labels).mean())
