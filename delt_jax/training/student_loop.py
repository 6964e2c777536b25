"""Trains the students of a row side by side, epoch after epoch, and saves them as they go.

What a student learns in a step is in `delt_jax.training.student_step`.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax import models
from delt_jax.core import keys, stopping
from delt_jax.core.progress import say
from delt_jax.data import Examples
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.compact import Compact
from delt_jax.runtime import devices
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import student_checkpoint, student_step
from delt_jax.training.state import TrainState
from delt_jax.training.student_checkpoint import TrainingCheckpoint
from delt_jax.training.student_step import (
    LabelledImages,
    SharedInputs,
    StudentInputs,
    StudentProgram,
)

_SMALL = 5e6  # parameters, up to which all students of a row fit on an accelerator at once


@dataclass(frozen=True)
class Student:
    """One training of a row.

    Attributes:
      id: names its files.
      seed: seed of the run, and number of the student.
      learning_rate: peak.
      images: its own set, or None where all students of the row share one.
    """

    id: str
    seed: tuple[int, int]
    learning_rate: float
    images: LabelledImages | None


@dataclass(frozen=True)
class StudentTask:
    """What the students of a row share.

    Attributes:
      program: everything that is compiled in.
      teachers: variables of the teachers that label views.
      images: the set, or None where every student has its own.
      stored: reads the stored labels of an epoch; None where labels come from elsewhere.
      test: real images on which accuracy is measured.
    """

    program: StudentProgram
    teachers: tuple[Any, ...]
    images: LabelledImages | None
    stored: Callable[[int], Compact] | None
    test: Examples


class Saving(NamedTuple):
    """How unfinished students survive an interruption.

    Attributes:
      folder: existing folder of their checkpoints.
      seconds: between two saves.
    """

    folder: Path
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A student after its last epoch.

    Attributes:
      history: (epoch, test accuracy in [0, 1]) of each evaluation; the last epoch is always one.
      variables: host arrays.
      logits: float32 [test images, classes], after the last epoch.
      seconds: duration of its training; its share where several trained at once.
    """

    history: list[tuple[int, float]]
    variables: dict[str, Any]
    logits: np.ndarray
    seconds: float


def resolve_students_per_device(program: StudentProgram, asked: int, num_students: int) -> int:
    """Number of students that train together on a device.

    Small networks leave an accelerator idle, so there all students of a row train at once. A CPU
    gains nothing from it.

    Args:
      program: that of the students.
      asked: `evaluate.seeds_at_once`; 0 leaves the choice to this function.
      num_students: how many the row has.
    """
    if asked or program.devices > 1:
        return asked or 1
    if on_cpu():
        return 1
    shapes = jax.eval_shape(lambda: student_step.init_student(program, jax.random.key(0)))
    num_parameters = sum(p.size for p in jax.tree.leaves(shapes.params))
    return num_students if num_parameters <= _SMALL else 1


def check(program: StudentProgram) -> None:
    """Raises a UserError unless the program's devices can share its batches evenly."""
    check_sharing(program.devices, program.batch, program.count)


def check_sharing(num_devices: int, batch_size: int, count: int) -> None:
    """Raises a UserError unless devices can share all batches of `count` images evenly."""
    rest = count % batch_size
    for batch in (batch_size, rest) if num_devices > 1 else ():
        if batch % num_devices:
            raise UserError(
                f"evaluate.devices_per_student is {num_devices}, which does not divide a batch "
                f"of {batch} images; set evaluate.batch_size to a multiple of it that divides "
                f"{count}."
            )
    if num_devices > devices.device_count():
        raise UserError(
            f"evaluate.devices_per_student is {num_devices}, but there are only "
            f"{devices.device_count()} devices."
        )


def train(
    task: StudentTask,
    students: Sequence[Student],
    students_per_device: int,
    saving: Saving,
    on_epochs: Callable[[int, float], None],
) -> list[Trained]:
    """Trains the students of a row; those that have come equally far train side by side.

    What a student becomes depends on its seed, on `students_per_device` and on the task alone:
    not on the number of devices, on its companions, or on where it was interrupted.

    Args:
      task: what they learn.
      students: those of one row.
      students_per_device: how many train together, see `resolve_students_per_device`.
      saving: where and when unfinished students are saved.
      on_epochs: told how many epochs of students are done, and the latest loss.

    Returns:
      One `Trained` for each student, in order.

    Raises:
      Stopped: after a signal, at the end of an epoch, once all students are saved.
    """
    restored = [_restored(task.program, student, saving.folder) for student in students]
    for state in restored:
        on_epochs(state.epoch, 0.0)
    most_devices = 1 if task.program.devices > 1 else devices.device_count()
    done: dict[int, Trained] = {}
    for epoch in sorted({state.epoch for state in restored}, reverse=True):
        alike = [i for i, state in enumerate(restored) if state.epoch == epoch]
        num_devices = min(most_devices, -(-len(alike) // students_per_device))
        layout = _Layout(task.program, num_devices, students_per_device)
        for group in devices.device_groups(alike, num_devices * students_per_device):
            with stopping.deferred():  # unfinished students are saved first
                results = _train_group(
                    task,
                    [students[i] for i in group],
                    [restored[i] for i in group],
                    layout,
                    saving,
                    on_epochs,
                )
            done |= dict(zip(group, results, strict=True))
    return [done[i] for i in range(len(students))]


def delete(folder: Path, student: Student) -> None:
    """Deletes the checkpoint of a student that is finished."""
    checkpoint.delete(_checkpoint(folder, student))


def _checkpoint(folder: Path, student: Student) -> Path:
    return folder / f"{student.id}.checkpoint"


def _restored(program: StudentProgram, student: Student, folder: Path) -> TrainingCheckpoint:
    """A student as its checkpoint has it, or a fresh one."""
    key = keys.stream(student.seed[0], "student", student.seed[1])
    fresh = student_step.init_student(program, key)
    try:
        return student_checkpoint.restore(_checkpoint(folder, student), fresh)
    except FileNotFoundError:
        pass
    except CorruptCheckpoint as e:
        say(f"  {e.path} is damaged ({e.reason}); its student starts anew")
    return TrainingCheckpoint(0, jax.tree.map(np.asarray, fresh), [], 0.0)


class _Layout(NamedTuple):
    """Where the students of a group are: each on one device, or one on all of them.

    Attributes:
      program: that of the students. Where its `devices` share batches, there is one student.
      num_devices: devices with students of their own.
      students_per_device: students on each of these.
    """

    program: StudentProgram
    num_devices: int
    students_per_device: int

    def to_devices(self, trees: Sequence[Any]) -> Any:
        """Puts a pytree per student on the devices."""
        if self.program.devices > 1:
            return devices.stack_copies(trees[0], self.program.devices)
        return devices.stack_jobs(trees, self.num_devices, self.students_per_device)

    def to_host(self, states: TrainState, i: int) -> TrainState:
        """Copies the state of student i to the host."""
        if self.program.devices > 1:
            return jax.tree.map(lambda leaf: np.asarray(leaf[0]), states)
        return devices.job(states, i)

    def compiled(self, batch: int | None) -> Callable[..., tuple[TrainState, jax.Array]]:
        """A batch of so many images, or a whole epoch, for all students of the group."""
        return _compiled(*self, batch, unroll=on_cpu())


@functools.lru_cache(maxsize=32)
def _compiled(
    program: StudentProgram,
    num_devices: int,
    students_per_device: int,
    batch: int | None,
    unroll: bool,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    if batch is None:
        call = functools.partial(student_step.run_epoch, program=program)
    else:
        call = functools.partial(student_step.run_batch, program=program, batch=batch)
    if program.devices > 1:
        return devices.share_job(call, program.devices)
    # vmap turns convolutions of students with different weights into grouped ones, which XLA's
    # CPU backend is slow at; there the students of a device are written out one after another.
    return devices.map_jobs(call, num_devices, students_per_device, unroll=unroll)


def on_cpu() -> bool:
    """Whether students train on CPUs: there batch by batch, elsewhere a whole epoch at once."""
    return jax.default_backend() == "cpu"


def _train_group(
    task: StudentTask,
    students: Sequence[Student],
    restored: Sequence[TrainingCheckpoint],
    layout: _Layout,
    saving: Saving,
    on_epochs: Callable[[int, float], None],
) -> list[Trained]:
    """Trains students that have come equally far, up to their last epoch."""
    protocol, count = task.program.protocol, len(students)
    states = layout.to_devices([one.state for one in restored])
    inputs = layout.to_devices([_inputs_of(task.program, student) for student in students])
    shared = SharedInputs(task.teachers, task.images, None, np.int32(0), np.int32(0))
    shared = jax.tree.map(jnp.asarray, shared)
    histories = [list(one.history) for one in restored]
    logits = [np.zeros(0)] * count
    started = saved = time.monotonic()

    def seconds(i: int) -> float:
        return restored[i].seconds + (time.monotonic() - started) / count

    def save(epoch: int) -> None:
        for i, student in enumerate(students):
            state = layout.to_host(states, i)
            now = TrainingCheckpoint(epoch, state, histories[i], seconds(i))
            student_checkpoint.save(_checkpoint(saving.folder, student), now)

    loss_before = None
    for epoch in range(restored[0].epoch, protocol.epochs):
        shared = shared._replace(stored_labels=_labels_of(task, epoch), epoch=jnp.int32(epoch))
        states, loss = _run_epoch(layout, states, inputs, shared)
        done = epoch + 1
        # On an accelerator the loss of the epoch before is read, so that nothing waits for this.
        latest = loss if loss_before is None else loss_before
        on_epochs(count, float(np.mean(jax.device_get(latest))))
        loss_before = None if on_cpu() else loss
        if done % protocol.eval_every == 0 or done == protocol.epochs:
            for i in range(count):
                logits[i], accuracy = _evaluate(task, layout.to_host(states, i))
                histories[i].append((done, accuracy))
        due = done < protocol.epochs and time.monotonic() - saved > saving.seconds
        if due or stopping.requested():  # also after the last epoch: other students may be left
            save(done)
            saved = time.monotonic()
            stopping.leave()
    if restored[0].epoch == protocol.epochs:  # stopped between its last epoch and its score
        logits = [_evaluate(task, layout.to_host(states, i))[0] for i in range(count)]
    variables = [student_step.scored_variables(layout.to_host(states, i)) for i in range(count)]
    return [Trained(histories[i], variables[i], logits[i], seconds(i)) for i in range(count)]


def _inputs_of(program: StudentProgram, student: Student) -> StudentInputs:
    run, number = student.seed
    # Stored labels belong to views that all students see, so the key of those is not a student's.
    views = program.plan.view_key if program.plan else keys.stream(run, "views", number)
    dropout = keys.stream(run, "dropout", number)
    return StudentInputs(views, dropout, np.float32(student.learning_rate), student.images)


def _labels_of(task: StudentTask, epoch: int) -> jax.Array | None:
    """Stored labels of an epoch's views, probabilities [N, classes]."""
    plan = task.program.plan
    if task.stored is None or plan is None:
        return None
    return _expand(task.stored(epoch), plan.num_classes, plan.form, plan.temperature)


_expand = jax.jit(compact.expand, static_argnums=(1, 2, 3))


def _run_epoch(
    layout: _Layout, states: TrainState, inputs: StudentInputs, shared: SharedInputs
) -> tuple[TrainState, jax.Array]:
    """Trains all students of a group for an epoch; also returns their losses."""
    program = layout.program
    if not on_cpu():
        return layout.compiled(None)(states, inputs, shared)
    losses = []
    for start in program.starts:  # XLA's CPU backend runs convolutions slowly inside a loop
        run = layout.compiled(min(program.batch, program.count - start))
        states, loss = run(states, inputs, shared._replace(start=jnp.int32(start)))
        losses.append(loss)
    return states, jnp.stack(losses)


def _evaluate(task: StudentTask, state: TrainState) -> tuple[np.ndarray, float]:
    """Logits of the test images, and the accuracy."""
    program, test = task.program, task.test
    model, variables = models.create(program.student), student_step.scored_variables(state)
    logits = teacher_lib.logits_of_examples(model, variables, program.normalisation, test)
    return logits, float((logits.argmax(-1) == test.labels).mean())
