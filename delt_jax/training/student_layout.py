"""Where students are that train side by side, and the programs that run there."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from delt_jax.augment import drawing
from delt_jax.augment.views import ViewProgram
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program
from delt_jax.teachers import prediction
from delt_jax.teachers.cost import model_cost
from delt_jax.training import student_labels, student_step
from delt_jax.training.state import TrainState
from delt_jax.training.student_labels import LabelProgram
from delt_jax.training.student_program import StudentProgram
from delt_jax.training.student_step import LearnProgram, Lesson

# Operations of a batch, forward, with which a student fills an accelerator. Three of ResNet-18 at
# 224 px took 49 times as long as one, under vmap on an H100.
FILLS = 1e9


def on_cpu() -> bool:
    """Whether students train on CPUs: there batch by batch, elsewhere a whole span at once."""
    return jax.default_backend() == "cpu"


@dataclass(frozen=True)
class StudentLayout:
    """Where the students of a group are: each on one device, or one on several.

    Jobs are students, or the shares of the one student whose batches are shared.

    Attributes:
      program: that of the students.
      num_devices: local devices in use.
      per_device: jobs on each of these.
    """

    program: StudentProgram
    num_devices: int
    per_device: int

    @property
    def is_shared(self) -> bool:
        """Whether there is one student, whose batches are shared."""
        return self.program.devices > 1

    @property
    def students(self) -> int:
        """Number of students in a group."""
        return 1 if self.is_shared else self.num_devices * self.per_device

    @property
    def of_jobs(self) -> drawing.JobLayout:
        """The layout of drawing, labelling and learning."""
        return drawing.JobLayout(self.num_devices, self.per_device, self._lanes)

    @property
    def _lanes(self) -> devices.Lanes:
        """How the jobs of a device are in a program.

        vmap turns convolutions with different weights into grouped ones, which XLA's CPU backend
        is slow at, and cuDNN in the gradients of large maps; and shares must not depend on how
        many of them a device has.
        """
        if self.per_device == 1:
            return "vmap"  # of one, so that all who draw its views share their program
        if on_cpu() or self.is_shared:
            return "unrolled"
        flops = model_cost(self.program.student).forward_flops * self.batch
        return "in_turn" if flops > FILLS else "vmap"

    @property
    def spans(self) -> list[range]:
        """Positions of the epoch that are drawn at once: whole batches, but for the last."""
        count, size = self.program.count, self._span[0]
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    @property
    def _span(self) -> tuple[int, bool]:
        program = self.program
        most = prediction.batch_size(program.student.image_size)
        return drawing.span(program.count, program.batch, program.group_size, most)

    def jobs(self, trees: Sequence[Any]) -> Any:
        """Puts a pytree per job on the devices, with leading axes [num_devices, per_device]."""
        return devices.stack_jobs(trees, self.num_devices, self.per_device)

    def positions(self, span: range) -> np.ndarray:
        """Positions of a span for each job, int32 [num_devices, per_device, n]."""
        every = np.arange(span.start, span.stop, dtype=np.int32)
        if not self.is_shared:
            return np.broadcast_to(every, (self.num_devices, self.per_device, len(every)))
        batches = np.split(every, range(self.program.batch, len(every), self.program.batch))
        shares = [np.split(batch, self.program.devices) for batch in batches]
        by_share = [np.concatenate(parts) for parts in zip(*shares, strict=True)]
        return np.stack(by_share).reshape(self.num_devices, self.per_device, -1)

    def calls(self, lesson: Lesson) -> list[Lesson]:
        """What the calls of `learn` are given of a span's lesson, batch by batch or all at once."""
        if not (on_cpu() or self.is_shared):
            return [lesson]
        if on_cpu():
            lesson = jax.tree.map(np.asarray, lesson)  # whose parts need no copy
        step, count = self.batch, lesson.images.shape[2]
        return [
            jax.tree.map(lambda x, at=at: x[:, :, at : at + step], lesson)
            for at in range(0, count, step)
        ]

    def sizes_of_calls(self, size: int) -> list[int]:
        """Different numbers of views that the calls of `learn` are given of a span of `size`."""
        if not on_cpu():
            return [size]
        return list(dict.fromkeys(min(self.batch, size - at) for at in range(0, size, self.batch)))

    def shapes_of_jobs(self, tree: Any) -> Any:
        """Shapes of a pytree per job on the devices, from the shapes of one."""
        leading = self.num_devices, self.per_device
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype),
            tree,
        )

    @property
    def batch(self) -> int:
        """Views of a batch that a job gets."""
        return self.program.batch // self.program.devices

    def states(self, states: Sequence[TrainState]) -> TrainState:
        """Puts the students on the devices."""
        if self.is_shared:
            return devices.stack_jobs([states[0]] * self.num_devices, self.num_devices)
        return self.jobs(states)

    def to_host(self, states: TrainState, i: int) -> TrainState:
        """Copies the state of student i to the host; a shared one has number 0."""
        return devices.job(states, i)

    def draw(self, shape: tuple[int, ...], count: int) -> Program:
        """Draws `count` views of a set of a shape: ((), Wanted, epoch) to Drawn."""
        spec, group_size = self.program.drawing
        is_aligned = self._span[1] and not self.is_shared
        views = ViewProgram(spec, self.program.inputs, is_aligned)
        return drawing.compiled(views, group_size, shape, count, self.of_jobs)

    def label(self, shape: tuple[int, ...], count: int) -> Program:
        """Labels them: ((), (Drawn, LabelInputs), (teachers, stored labels)) to both labels."""
        program = student_labels.label_program(self.program)
        return _label(program, shape, count, self.of_jobs)

    def learn(self, count: int) -> Callable[..., tuple[TrainState, jax.Array]]:
        """Learns from a lesson of `count` views: (states, (Own, Lesson), Pace)."""
        program = student_step.learn_program(self.program)
        return _learn(program, self.batch, count, self.of_jobs)


def of(program: StudentProgram, num_students: int, students_per_device: int) -> StudentLayout:
    """The layout of so many students, or of one whose batches are shared."""
    if program.devices > 1:
        fitting = [n for n in range(1, program.devices + 1) if program.devices % n == 0]
        num_devices = max(n for n in fitting if n <= devices.device_count())
        return StudentLayout(program, num_devices, program.devices // num_devices)
    num_devices = min(devices.device_count(), -(-num_students // students_per_device))
    return StudentLayout(program, num_devices, students_per_device)


@functools.lru_cache(maxsize=32)
def _label(
    program: LabelProgram, shape: tuple[int, ...], count: int, layout: drawing.JobLayout
) -> Program:
    del shape, count  # they only tell programs apart

    def one(nothing, job, shared):
        del nothing
        return student_labels.label(*job, *shared, program)

    return Program(devices.map_jobs(one, *layout))


@functools.lru_cache(maxsize=32)
def _learn(
    program: LearnProgram, batch: int, count: int, layout: drawing.JobLayout
) -> Callable[..., tuple[TrainState, jax.Array]]:
    del count
    if program.shares > 1:
        return _SharedLearning(program, layout)

    def one(state, job, pace):
        return student_step.learn(state, *job, pace, program, batch)

    return Program(devices.map_jobs(one, *layout))


class _SharedLearning:
    """A gradient step on a batch whose shares are on several devices.

    Its programs know one share, or all of them, but not how many a device has: so a student is bit
    for bit the same on any number of devices.
    """

    def __init__(self, program: LearnProgram, layout: drawing.JobLayout):
        """Takes what is learnt, and where."""
        number = layout.num_devices

        def pass_share(state, job, pace):
            return student_step.gradients(state, *job, pace, program)

        def gather(nothing, lanes, shared):
            del nothing, shared
            stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *lanes)
            return jax.tree.map(lambda x: jax.lax.all_gather(x, devices.AXIS, tiled=True), stacked)

        def learn(state, job, pace):
            own, outcomes = job
            return student_step.learn_mean(state, own, outcomes, pace, program)

        self._pass = Program(devices.map_jobs(pass_share, number, donate=False))
        self._gather = Program(devices.map_jobs(gather, number))
        self._learn = Program(devices.map_jobs(learn, number))

    def __call__(self, state: TrainState, job: Any, pace: Any) -> tuple[TrainState, jax.Array]:
        """As the program of students with batches of their own; jobs are shares."""
        per_device = jax.tree.leaves(job)[0].shape[1]
        lanes = [
            jax.tree.map(lambda x, lane=lane: x[:, lane : lane + 1], job)
            for lane in range(per_device)
        ]
        outcomes = tuple(self._pass(state, lane, pace) for lane in lanes)
        every = self._gather((), outcomes, ())
        return self._learn(state, (lanes[0][0], every), pace)
