"""The sides that train_eval_speed.py times: the same weights, images and recipe for each."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_models
import torch_recovery
import torch_training
import torch_views

from delt_jax import models
from delt_jax.augment.drawing import Wanted
from delt_jax.core import keys
from delt_jax.core import losses as losses_lib
from delt_jax.data import Normalisation
from delt_jax.data.source import ArrayExamples
from delt_jax.models import ModelSpec, torch_weights
from delt_jax.recipe import EvaluateRecipe, Recipe
from delt_jax.runtime import counting
from delt_jax.training import protocols, student_layout, student_loop, student_step
from delt_jax.training.protocols import EvalSetting
from delt_jax.training.student_loop import Saving, Student, StudentTask
from delt_jax.training.student_program import LabelledImages, StudentProgram

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TESTED = 20  # images that our side is scored on after the last epoch, which is not timed


class Problem(NamedTuple):
    """Input of all sides.

    Attributes:
      program: of a student, as the evaluate stage makes it for DELT's protocol, online.
      learning_rate: its peak.
      teacher: variables of the teacher, random.
      images: random pixels in class order.
    """

    program: StudentProgram
    learning_rate: float
    teacher: dict[str, Any]
    images: LabelledImages


def make_problem(spec: ModelSpec, ipc: int, epochs: int) -> Problem:
    """Random weights and images, the same in every run.

    Args:
      spec: of the student; the teacher's activations are float32.
      ipc: images per class.
      epochs: of a training.
    """
    recipe = Recipe(ipc=ipc, evaluate=EvaluateRecipe(epochs=epochs, eval_every=epochs))
    protocol = protocols.resolve(
        recipe, EvalSetting(spec.name, spec.num_classes, ipc, spec.image_size)
    )
    normalisation = Normalisation(_MEAN[: spec.channels], _STD[: spec.channels])
    count, teacher = spec.num_classes * ipc, replace(spec, dtype="float32")
    program = StudentProgram(
        student=spec,
        teachers=(teacher,),
        protocol=protocol,
        regime="online",
        normalisation=normalisation,
        teacher_normalisations=(normalisation,),
        count=count,
        group_size=protocol.batch_size,
    )
    shape = (count, spec.image_size, spec.image_size, spec.channels)
    pixels = jax.random.randint(keys.stream(0, "images"), shape, 0, 256).astype(jnp.uint8)
    labels = np.repeat(np.arange(spec.num_classes, dtype=np.int32), ipc)
    images = LabelledImages(np.asarray(pixels), labels, None)
    variables = student_step.init_student(program, keys.stream(0, "weights")).variables
    return Problem(program, protocol.learning_rate, jax.device_get(variables), images)


def rate(problem: Problem, seconds: float, epochs: int, students: int = 1) -> float:
    """Images per second."""
    return students * epochs * problem.program.count / seconds


class Ours:
    """Our train loop as the evaluate stage runs it, with so many students at once on a device."""

    def __init__(self, problem: Problem, students: int):
        self._problem = problem
        program, images = problem.program, problem.images
        test = ArrayExamples(images.pixels[:_TESTED], images.labels[:_TESTED], [""] * _TESTED)
        self._task = StudentTask(program, (problem.teacher,), None, test)
        self._students = [
            Student(f"student{seed}", (0, seed), problem.learning_rate, images)
            for seed in range(students)
        ]

    def run(self) -> float:
        """Images per second of a training, from the end of its first epoch on."""
        ends: list[float] = []

        def on_epochs(count: int, _: float) -> None:
            if count:
                ends.append(time.perf_counter())

        students = self._students
        saving = Saving(Path("never_written"), float("inf"))
        list(student_loop.train(self._task, students, len(students), saving, on_epochs))
        # A call comes at the end of its epoch on a CPU; elsewhere, from the second on, at the end
        # of the epoch before it.
        epochs = len(ends) - (1 if jax.default_backend() == "cpu" else 2)
        return rate(self._problem, ends[-1] - ends[0], epochs, len(students))

    def view_seconds(self) -> float:
        """Seconds that the views of an epoch take alone, over the epochs of a training."""
        epochs = self._problem.program.protocol.epochs

        def draw() -> None:
            for number in range(epochs):
                self._draw(number)

        self._draw(epochs)
        return _timed(draw) / epochs

    def _draw(self, epoch: int) -> None:
        program, key = self._problem.program, keys.stream(0, "views")
        layout = student_layout.of(program, 1, 1)
        wanted = Wanted(layout.jobs([key]), layout.jobs([self._problem.images.pixels]), None)
        for span in layout.spans:
            asked = wanted._replace(positions=layout.positions(span))
            draw = layout.draw(wanted.pixels.shape[2:], len(span))
            jax.block_until_ready(draw((), asked, np.int32(epoch)))

    def loss(self, views: np.ndarray) -> float:
        """KL of the first student, as it begins, on normalised views [B, S, S, C]."""
        program, teacher = self._problem.program, self._problem.teacher
        state, temperature = _fresh(self._problem), program.protocol.temperature
        taught = jnp.asarray(models.create(program.teachers[0]).apply(teacher, views, train=False))
        student = models.create(program.student)
        logits, _ = student.apply(state.variables, views, train=True, mutable=["batch_stats"])
        return float(
            losses_lib.kl_divergence(logits, jax.nn.softmax(taught / temperature), temperature)
        )


def _fresh(problem: Problem):
    """The state from which our first student begins."""
    return student_step.init_student(problem.program, keys.stream(0, "student", 0))


def cost(problem: Problem) -> tuple[float, float]:
    """Operations and bytes of an image of an epoch, as XLA counts them: the networks alone."""
    program = problem.program
    student, teacher = models.create(program.student), models.create(program.teachers[0])
    variables, spec = _fresh(problem).variables, program.student
    shape = (program.batch, spec.image_size, spec.image_size, spec.channels)

    def loss(params, views):
        logits, updated = student.apply(
            {**variables, "params": params}, views, train=True, mutable=["batch_stats"]
        )
        targets = jax.nn.softmax(teacher.apply(problem.teacher, views, train=False))
        return losses_lib.kl_divergence(logits, targets, program.protocol.temperature), updated

    gradient = jax.grad(loss, has_aux=True)
    given = variables["params"], jax.ShapeDtypeStruct(shape, jnp.float32)
    compiled = jax.jit(gradient).lower(*given).compile().cost_analysis()
    assert compiled is not None
    flops = counting.flops(gradient, *given)
    return flops / program.batch, compiled["bytes accessed"] / program.batch


class Rival:
    """PyTorch in the memory layout in which eager PyTorch is faster here.

    Args:
      problem: what is trained.
      kind: "PIL", with views from worker processes, "tensor", with views on the device, or
        "compiled": so, and the networks through `torch.compile`.
      workers: processes.
      device: torch's.
      layout: a name of `torch_recovery.LAYOUTS`.
    """

    def __init__(
        self, problem: Problem, kind: str, workers: int, device: torch.device, layout: str
    ):
        self._problem, self._device = problem, device
        program, pixels = problem.program, problem.images.pixels
        if program.protocol.views.rand_augment not in ("", torch_views.POLICY):
            raise ValueError(f"the rival has no {program.protocol.views.rand_augment}")
        spec, own = program.protocol.views, program.normalisation
        if kind == "PIL":
            batches = torch_training.worker_batches(
                torch_views.PilViews(pixels, spec, own), program.batch, workers, device
            )
        else:
            placed = torch.tensor(pixels.transpose(0, 3, 1, 2)).contiguous().to(device)
            views = torch_views.TensorViews(placed, spec, own)
            batches = torch_training.device_batches(views, program.count, program.batch, device)
        student = self._network(jax.device_get(_fresh(problem).variables), program.student)
        teacher = self._network(problem.teacher, program.teachers[0])
        self._training = torch_training.Training(
            torch.compile(student) if kind == "compiled" else student,
            torch.compile(teacher) if kind == "compiled" else teacher,
            program.protocol,
            batches,
            torch_recovery.LAYOUTS[layout],
            program.student.dtype == "bfloat16",
        )

    def _network(self, variables: dict[str, Any], spec: ModelSpec) -> torch.nn.Module:
        network = torch_models.create(spec.name, spec.num_classes, spec.image_size, spec.channels)
        return torch_models.load(network, torch_weights.to_torch(variables, spec)).to(self._device)

    def loss(self, views: np.ndarray) -> float:
        """KL of the untrained student on normalised views [B, S, S, C]."""
        with torch.no_grad():
            placed = torch.tensor(views.transpose(0, 3, 1, 2)).to(self._device)
            return self._training.loss(placed).item()

    def run(self, epochs: int) -> float:
        """Images per second of so many epochs after a first one."""

        def train() -> None:
            for number in range(1, 1 + epochs):
                self._training.epoch(number)
            torch_recovery.wait(self._device)

        self._training.epoch(0)
        torch_recovery.wait(self._device)
        return rate(self._problem, _timed(train), epochs)


def faster_layout(problem: Problem, device: torch.device) -> str:
    """The memory layout in which the rival's training goes faster, without workers."""

    def speed(layout: str) -> float:
        side = Rival(problem, "tensor", 0, device, layout)
        return max(side.run(1) for _ in range(2))

    return max(torch_recovery.LAYOUTS, key=speed)


def _timed(run: Callable[..., None], *arguments: Any) -> float:
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started
