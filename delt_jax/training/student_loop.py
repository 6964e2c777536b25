"""Trains students side by side, epoch after epoch, and saves them as they go.

What a student learns in a step is in `delt_jax.training.student_step`. An epoch goes in spans: the
views of a span are drawn by one call, labelled by another, and learnt from batch by batch on a CPU,
by one call elsewhere.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from delt_jax import models
from delt_jax.augment.drawing import Wanted
from delt_jax.augment.views import ViewSpec
from delt_jax.core import keys, stopping
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.core.progress import say
from delt_jax.data import Examples, batches
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.compact import Compact
from delt_jax.runtime import devices
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.teachers import prediction
from delt_jax.training import student_checkpoint, student_layout, student_step
from delt_jax.training.student_checkpoint import TrainingCheckpoint
from delt_jax.training.student_labels import LabelInputs
from delt_jax.training.student_layout import StudentLayout
from delt_jax.training.student_program import LabelledImages, StudentProgram
from delt_jax.training.student_step import Lesson, Own

# Protocols that learned sets were published with.
_OF_FLOATS = ("dsa", "idc", "frepo", "mtt", "ratbptt", "rcig")


@dataclass(frozen=True)
class Student:
    """One training.

    Attributes:
      id: names its files.
      seed: seed of the run, and number of the student.
      learning_rate: peak.
      images: the set that it learns from.
    """

    id: str
    seed: tuple[int, int]
    learning_rate: float
    images: LabelledImages


@dataclass(frozen=True)
class StudentTask:
    """What students that train side by side share.

    Attributes:
      program: everything that is compiled in.
      teachers: variables of the teachers that label views.
      stored: reads the stored labels of an epoch; None where labels come from elsewhere.
      test: real images on which accuracy is measured.
      preprocessing: of test images where students learn from float images of its space.
    """

    program: StudentProgram
    teachers: tuple[Any, ...]
    stored: Callable[[int], Compact] | None
    test: Examples
    preprocessing: Preprocessing | None = None


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


def check(program: StudentProgram) -> None:
    """Raises a UserError unless devices can share batches evenly, and views be drawn of the set."""
    views, _ = program.drawing
    if program.space:
        check_floats(views)
    check_sharing(program.devices, program.batch, program.count, program.shared_norm)


def check_floats(views: ViewSpec) -> None:
    """Raises a UserError if views of float images are to have what only pixels know."""
    if views.rand_augment:
        raise UserError(
            f"The set holds float images, and RandAugment ({views.rand_augment}) knows only "
            f'pixels; set relabel.rand_augment to "", or evaluate.protocol to one without it: '
            f"{', '.join(_OF_FLOATS[:-1])} or {_OF_FLOATS[-1]}."
        )


def check_sharing(num_shares: int, batch_size: int, count: int, shared_norm: bool) -> None:
    """Raises a UserError unless devices can share all batches of `count` images evenly."""
    rest = count % batch_size
    for batch in (batch_size, rest) if num_shares > 1 else ():
        if batch % num_shares:
            raise UserError(
                f"evaluate.devices_per_student is {num_shares}, which does not divide a batch "
                f"of {batch} images; set evaluate.batch_size to a multiple of it that divides "
                f"{count}."
            )
    if shared_norm and num_shares > devices.device_count():
        raise UserError(
            f'evaluate.devices_per_student is {num_shares} and evaluate.batch_norm "shared", for '
            f"which as many devices are needed, but there are only {devices.device_count()}; "
            f'lower it, or set evaluate.batch_norm to "own".'
        )


def train(
    task: StudentTask,
    students: Sequence[Student],
    students_per_device: int,
    saving: Saving | None,
    on_epochs: Callable[[int, float], None],
) -> Iterator[tuple[int, Trained]]:
    """Trains students; those that have come equally far train side by side.

    What a student becomes depends on its seed, on `students_per_device` and on the task alone:
    not on the number of devices, on its companions, or on where it was interrupted.

    Args:
      task: what they learn.
      students: whose sets have one shape.
      students_per_device: how many train together.
      saving: where and when unfinished students are saved; None saves none, and they begin anew.
      on_epochs: told how many epochs of students are done, and the latest loss.

    Yields:
      The position of a student among those given and its `Trained`, as soon as it is there.

    Raises:
      Stopped: after a signal, at the end of an epoch, once all students are saved.
    """
    restored = [_restored(task.program, student, saving) for student in students]
    for state in restored:
        on_epochs(state.epoch, 0.0)
    for epoch in sorted({state.epoch for state in restored}, reverse=True):
        alike = [i for i, state in enumerate(restored) if state.epoch == epoch]
        layout = student_layout.of(task.program, len(alike), students_per_device)
        for members in devices.device_groups(alike, layout.students):
            with stopping.deferred():  # unfinished students are saved first
                some = [students[i] for i in members]
                group = _Group(task, some, [restored[i] for i in members], layout, saving)
                results = group.finish(on_epochs)
            yield from zip(members, results, strict=True)


def delete(folder: Path, student: Student) -> None:
    """Deletes the checkpoint of a student that is finished."""
    checkpoint.delete(_checkpoint(folder, student))


def _checkpoint(folder: Path, student: Student) -> Path:
    return folder / f"{student.id}.checkpoint"


def _restored(
    program: StudentProgram, student: Student, saving: Saving | None
) -> TrainingCheckpoint:
    """A student as its checkpoint has it, or a fresh one."""
    key = keys.stream(student.seed[0], "student", student.seed[1])
    fresh = student_step.init_student(program, key)
    try:
        if saving is not None:
            return student_checkpoint.restore(_checkpoint(saving.folder, student), fresh)
    except FileNotFoundError:
        pass
    except CorruptCheckpoint as e:
        say(f"  {e.path} is damaged ({e.reason}); its student starts anew")
    return TrainingCheckpoint(0, jax.tree.map(np.asarray, fresh), [], 0.0)


class _Group:
    """Students that train side by side, as far as their last epoch."""

    def __init__(
        self,
        task: StudentTask,
        students: Sequence[Student],
        restored: Sequence[TrainingCheckpoint],
        layout: StudentLayout,
        saving: Saving | None,
    ):
        """Brings students, which have come equally far, to the devices, with sets and teachers."""
        self._task, self._students, self._layout = task, students, layout
        self._saving, self._restored = saving, restored
        self._started = self._saved = time.monotonic()
        self._epoch = restored[0].epoch
        self._histories = [list(one.history) for one in restored]
        self._logits = [np.zeros(0)] * len(restored)
        self._states = layout.states([one.state for one in restored])
        program, jobs = task.program, [(student, 0) for student in students]
        if layout.is_shared:
            jobs = [(students[0], share) for share in range(program.devices)]
        # Of all epochs: on an accelerator nothing of an epoch may wait for the one before.
        self._rates = student_step.rates(program)
        self._own = layout.jobs([_own(student, share) for student, share in jobs])
        self._keys = layout.jobs([_view_key(program, student) for student, _ in jobs])
        self._pixels = layout.jobs([student.images.pixels for student, _ in jobs])
        self._labels = layout.jobs([_label_inputs(program, one.images) for one, _ in jobs])
        self._teachers = devices.replicated(task.teachers, layout.num_devices)

    def finish(self, on_epochs: Callable[[int, float], None]) -> list[Trained]:
        """Trains up to the last epoch."""
        protocol, count = self._task.program.protocol, len(self._students)
        losses_before: list[Any] = []
        if self._epoch == protocol.epochs:  # stopped between the last epoch and the score
            self._logits = [self._evaluate(i)[0] for i in range(count)]
        while self._epoch < protocol.epochs:
            losses = self._train_epoch()
            self._epoch += 1
            # On an accelerator the loss of the epoch before is read, so that nothing waits.
            latest = jax.device_get(losses_before or losses)
            on_epochs(count, float(np.mean(np.concatenate(latest, axis=-1))))
            losses_before = [] if student_layout.on_cpu() else losses
            if self._epoch % protocol.eval_every == 0 or self._epoch == protocol.epochs:
                for i in range(count):
                    self._logits[i], accuracy = self._evaluate(i)
                    self._histories[i].append((self._epoch, accuracy))
            self._save_if_due()
        return [
            Trained(
                self._histories[i],
                student_step.scored_variables(self._layout.to_host(self._states, i)),
                self._logits[i],
                self._seconds(i),
            )
            for i in range(count)
        ]

    def _train_epoch(self) -> list[Any]:
        """Trains all students for an epoch; returns the losses of each call, [..., batches]."""
        program, losses = self._task.program, []
        rates, stored = self._rates[self._epoch], self._stored_labels()
        for span in self._layout.spans:
            for lesson in self._layout.calls(self._lesson(span, stored)):
                count = lesson.images.shape[2]
                batches = -(-count // self._layout.batch)
                pace = student_step.pace(program, rates[:batches])
                rates = rates[batches:]
                learn = self._layout.learn(count)
                self._states, loss = learn(self._states, (self._own, lesson), pace)
                losses.append(loss)
        return losses

    def _lesson(self, span: range, stored: jax.Array | None) -> Lesson:
        """Labelled views of the positions of a span."""
        plan, shape = self._task.program.plan, self._pixels.shape[2:]
        positions = self._layout.positions(span)
        # Views with stored labels come round again after the labelled epochs.
        epoch = np.int32(self._epoch % plan.epochs if plan else self._epoch)
        wanted = Wanted(self._keys, self._pixels, positions)
        drawn = self._layout.draw(shape, positions.shape[-1])((), wanted, epoch)
        label = self._layout.label(shape, positions.shape[-1])
        labels = label((), (drawn, self._labels), (stored, self._teachers))
        return Lesson(drawn.mixed.images, *labels)

    def _stored_labels(self) -> jax.Array | None:
        """Stored labels of the epoch's views, probabilities [N, classes]."""
        plan, read = self._task.program.plan, self._task.stored
        if read is None or plan is None:
            return None
        labels = _expand(read(self._epoch), plan.num_classes, plan.form, plan.temperature)
        return devices.replicated(labels, self._layout.num_devices)

    def _evaluate(self, i: int) -> tuple[np.ndarray, float]:
        """Logits of the test images by student i, and its accuracy."""
        program, test = self._task.program, self._task.test
        model = models.create(program.student)
        variables = student_step.scored_variables(self._layout.to_host(self._states, i))
        images: Iterator[Any] = (pixels for _, pixels in batches(test, prediction.BATCH))
        if self._task.preprocessing is not None:
            images = map(self._task.preprocessing, images)
        logits, _ = prediction.predict(model, variables, program.inputs, images)
        return logits, float((logits.argmax(-1) == test.labels).mean())

    def _seconds(self, i: int) -> float:
        spent = (time.monotonic() - self._started) / len(self._students)
        return self._restored[i].seconds + spent

    def _save_if_due(self) -> None:
        """Saves when it is time or a signal has come, which is then obeyed."""
        if self._saving is None:
            if stopping.requested():
                stopping.leave()
            return
        is_late = time.monotonic() - self._saved > self._saving.seconds
        due = is_late and self._epoch < self._task.program.protocol.epochs
        if not (due or stopping.requested()):
            return
        for i, student in enumerate(self._students):  # also after the last epoch, for the others
            state = self._layout.to_host(self._states, i)
            now = TrainingCheckpoint(self._epoch, state, self._histories[i], self._seconds(i))
            student_checkpoint.save(_checkpoint(self._saving.folder, student), now)
        self._saved = time.monotonic()
        stopping.leave()


def _own(student: Student, share: int) -> Own:
    dropout = keys.stream(student.seed[0], "dropout", student.seed[1])
    return Own(dropout, np.float32(student.learning_rate), np.int32(share))


def _view_key(program: StudentProgram, student: Student) -> jax.Array:
    # Stored labels belong to views that all students see, so the key of those is not a student's.
    return (
        program.plan.view_key
        if program.plan
        else keys.stream(student.seed[0], "views", student.seed[1])
    )


def _label_inputs(program: StudentProgram, images: LabelledImages) -> LabelInputs:
    by_regime = {"fixed": images.targets, "learned": images.learned}
    return LabelInputs(images.labels, by_regime.get(program.regime))


_expand = jax.jit(compact.expand, static_argnums=(1, 2, 3))
