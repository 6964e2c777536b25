"""Recorded recoveries and trainings, run through the functions that random draws feed.

In float32, or in float64 to tell rounding from a wrong formula (see judging.py). The recordings of
DELT are read here; those of other methods in method_files.py.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import golden_dir, golden_file
from seeded import seeded_state

from delt_jax import models
from delt_jax.augment import crop, mix
from delt_jax.core import losses as losses_lib
from delt_jax.data import Normalisation
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import schedule as schedule_lib
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views as views_lib
from delt_jax.recovery.active import take
from delt_jax.recovery.program import StepProgram, active_of, step_settings
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.recovery.types import BatchInputs, Clock, Losses, TeacherVariables
from delt_jax.training import state as state_lib

# The suite compiles without LLVM's optimiser, which is worth its time for loops over float64.
COMPILER = {"float64": {"xla_backend_optimization_level": 3}, "float32": {}}


class Recording(NamedTuple):
    """A recorded file and its arrays."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Network(NamedTuple):
    """A recorded network: its architecture, and torch's state dict."""

    spec: ModelSpec
    state: Mapping[str, np.ndarray]

    def variables(self, dtype: str = "float32") -> dict[str, Any]:
        """Ours of it."""
        return _cast(torch_weights.from_torch(self.state, self.spec), dtype)

    def model(self, dtype: str = "float32") -> Any:
        """The module, whose activations have this type."""
        return models.create(self.spec.__class__(**{**vars(self.spec), "dtype": dtype}))


class Case(NamedTuple):
    """A recovery to be replayed.

    Attributes:
      teacher: guides it.
      recipe: its settings.
      normalisation: of its images.
      starts: normalised [N, S, S, C], in the recorded order.
      labels: int [N], in the same order.
      batch: the schedule; its indices are positions in that order.
      steps: what was recorded of each, with its crop, flip and roll.
    """

    teacher: Network
    recipe: RecoverRecipe
    normalisation: Normalisation
    starts: np.ndarray
    labels: np.ndarray
    batch: BatchSchedule
    steps: Sequence[dict[str, Any]]


class Step(NamedTuple):
    """One iteration of ours beside what was recorded of it.

    Attributes:
      recorded: as in the file.
      active: number of images that took part.
      losses, terms: before the step.
      rate, scale: learning rate and smallest crop.
      grad_norm: of the loss, over the active images.
      images: after the step, normalised [N, S, S, C] in the recorded order.
    """

    recorded: dict[str, Any]
    active: int
    losses: Losses
    terms: np.ndarray
    rate: np.ndarray
    scale: np.ndarray
    grad_norm: float
    images: np.ndarray


class Training(NamedTuple):
    """A training: losses [steps], eval logits, and running variances by the recordings' names."""

    losses: np.ndarray
    logits: np.ndarray
    variances: dict[str, np.ndarray]


def cases(folder):
    """One test per recorded file."""
    return [
        pytest.param(path, id=path.stem) for path in sorted((golden_dir() / folder).glob("*.json"))
    ]


def read(path: Path) -> Recording:
    """The recording whose JSON file is `path`."""
    with np.load(path.with_suffix(".npz")) as arrays:
        return Recording(json.loads(path.read_text()), dict(arrays))


def network(arch: str, state: Mapping[str, np.ndarray], images: Any, width: int = 0) -> Network:
    """A network with its own number of classes, for images [N, C, S, S] of their own size."""
    classes = torch_weights.outputs(state, arch)
    spec = ModelSpec(arch, classes, images.shape[-1], images.shape[1], width)
    return Network(spec, state)


def state_dict(arch: str, seed: int | None = None, checkpoint: str = "") -> dict[str, np.ndarray]:
    """torch's state dict of a recorded network."""
    if checkpoint:
        return torch_files.read(golden_file(checkpoint))
    return seeded_state(golden_file(f"zoo/{arch}.state_dict.json"), seed)


def nhwc(images: np.ndarray) -> np.ndarray:
    """Ours of torch's axes."""
    return np.asarray(images).transpose(0, 2, 3, 1)


def final_images(recording: Recording) -> np.ndarray:
    """The recorded end, which is kept in [0, 1], as normalised [N, S, S, C]."""
    record = recording.record
    return (nhwc(recording.arrays["final"]) - np.array(record["mean"])) / np.array(record["std"])


def budgets(recording: Recording) -> np.ndarray:
    """Iterations of each image's class, int [N].

    Budgets are listed by class; or, where labels are beyond the list, in the order of the batch.
    """
    listed, labels = recording.record["class_iterations"], recording.arrays["labels"]
    if labels.max() >= len(listed):
        labels = schedule_lib.relabel_from_zero(labels.tolist())
    return np.array(listed)[np.array(labels)]


def schedule_of(recording: Recording) -> BatchSchedule:
    """The schedule of a recovery, which is one batch; its indices are positions in the batch.

    A class of which the batch has but a part has its last images where it comes first, for the
    batch before has the others, and else its first ones.
    """
    record, labels = recording.record, recording.arrays["labels"]
    ipc, own = record["ipc"], np.array(schedule_lib.relabel_from_zero(labels.tolist()))
    counts = np.bincount(own)
    ranks = np.array([(own[:i] == c).sum() for i, c in enumerate(own)])
    if len(counts) > 1:
        ranks += np.where(own == 0, ipc - counts[0], 0)
    members = (own * ipc + ranks).tolist()
    by_class = [int(budgets(recording)[own == c][0]) for c in range(len(counts))]
    layout = {"recorded": lambda *numbers: [sorted(members)]}
    with mock.patch.dict(schedule_lib.LAYOUTS, layout):
        (batch,) = schedule_lib.make_schedule(
            len(counts),
            ipc,
            record["iterations"],
            record["round_iterations"] if record.get("early_late", True) else 0,
            len(members),
            by_class,
            "recorded",
        )
    places = tuple(members.index(i) for i in batch.indices)
    return batch.__class__(**{**vars(batch), "indices": places})


def case_of(recording: Recording) -> Case:
    """A recovery of DELT's released code."""
    record, arrays = recording
    teacher = record["teacher"]
    state = state_dict(teacher["arch"], teacher.get("seeded"), teacher.get("checkpoint", ""))
    recipe = RecoverRecipe(
        iterations=record["iterations"],
        round_iterations=record["round_iterations"],
        learning_rate=record["learning_rate"],
        bn_weight=record["bn_weight"],
        first_bn_multiplier=record["first_bn_multiplier"],
        curriculum=record["easy2hard"],
        milestone=float(record["milestone"]),
        jitter=record["jitter"],
    )
    return Case(
        network(teacher["arch"], state, arrays["init"]),
        recipe,
        Normalisation(tuple(record["mean"]), tuple(record["std"])),
        nhwc(arrays["init"]),
        arrays["labels"],
        schedule_of(recording),
        record["steps"],
    )


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Within it JAX computes in "float32" or "float64"."""
    with jax.enable_x64(dtype == "float64"):
        yield


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def rounded(images: np.ndarray, seed: int) -> np.ndarray:
    """The same images; with a seed above 0 they differ by the rounding of float32.

    By that of convolutions, which sum many products: they are off by 2^-21 of their spread.
    """
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    return images * (1 + 2.0**-21 * noise) if seed else images


def recover(case: Case, dtype: str = "float32", seed: int = 0) -> list[Step]:
    """Replays a recovery; see `rounded` for the seed."""
    (antialias,) = {step.get("antialias", True) for step in case.steps}
    view_images = functools.partial(crop.view_images, antialias=antialias)
    with precision(dtype), mock.patch.object(crop, "view_images", view_images):
        return _recover(case, dtype, seed, _compiled(dtype, antialias))


@functools.cache
def _compiled(dtype: str, antialias: bool) -> Callable[..., Any]:
    """An iteration of recovery in a type, with views resized as it is traced with."""
    del antialias

    def update(program, state, inputs, view, teacher):
        return recovery_step.update(program, state, inputs, view, (teacher,))

    return jax.jit(update, static_argnums=0, compiler_options=COMPILER[dtype])


def _recover(case: Case, dtype: str, seed: int, update: Callable[..., Any]) -> list[Step]:
    starts = rounded(case.starts, seed)
    batch, order = case.batch, np.array(case.batch.indices)
    settings = step_settings(case.recipe, flip=False)
    low, high = case.normalisation.bounds()
    ordered = jnp.asarray(starts[order], dtype)
    inputs = BatchInputs(
        labels=jnp.array(case.labels[order]),
        ranks=jnp.zeros(len(order), jnp.int32),  # read by terms alone
        start_iterations=jnp.array(batch.start_iterations),
        end_iterations=jnp.array(batch.end_iterations),
        iterations=jnp.int32(batch.iterations),
        key=jax.random.key(0),
        low=jnp.asarray(low, dtype),
        high=jnp.asarray(high, dtype),
        starts=ordered if settings.residual else None,
    )
    teacher = TeacherVariables(case.teacher.variables(dtype))
    model = case.teacher.model(dtype)
    state = recovery_step.init_state(ordered)
    active_at = [r.active for r in batch.rounds for _ in range(r.iterations)]
    assert len(case.steps) <= len(active_at)
    steps = []
    for recorded, active in zip(case.steps, active_at, strict=False):
        program, before = StepProgram((model,), settings, active_of(active)), state
        if dtype == "float64":  # which compiles slowly: one masked program for all rounds
            program = StepProgram((model,), settings, len(order), masked=True)
        clock = views_lib.clocks(state.step, inputs, settings)
        clock = Clock(*(take(x, active_of(active)) for x in clock))
        scale = views_lib.curriculum(settings, *clock)
        rate = recovery_step.learning_rate(settings.learning_rate, *clock)
        view = crop.View(*(jnp.array(recorded[name]) for name in ("crop", "flip", "roll")))
        state, losses, terms = update(program, state, inputs, view, teacher)
        chex.assert_type(state.images, jnp.dtype(dtype))
        images = np.empty(starts.shape, dtype)
        images[order] = state.images
        # Adam's first moment is half the last and half the gradient.
        gradient = 2 * np.asarray(state.mu)[list(active)] - np.asarray(before.mu)[list(active)]
        ours = jax.tree.map(np.asarray, (losses, terms, rate, scale))
        norm = float(np.linalg.norm(gradient))
        steps.append(Step(recorded, len(active), *ours, norm, images))
    return steps


@functools.cache
def _adamw(rates: tuple[float, ...], weight_decay: float) -> optax.GradientTransformation:
    """AdamW at the recorded rates."""
    return state_lib.adamw(lambda step: jnp.array(rates)[step], weight_decay)


@functools.cache
def _compiled_step(
    trainer: state_lib.Trainer, temperature: float, dtype: str
) -> Callable[..., Any]:
    """A step of a student: (state, the teacher's variables, views) to the next state and loss."""

    def step_on(state, teacher, mixed):
        logits = trainer.model.apply(teacher, mixed, train=False)
        targets = jax.nn.softmax(logits / temperature)

        def loss(logits):
            return losses_lib.kl_divergence(logits, targets, temperature)

        return state_lib.update(trainer, state, mixed, loss)

    return jax.jit(step_on, compiler_options=COMPILER[dtype])


def train(
    recording: Recording, networks: tuple[Network, Network], dtype: str = "float32", seed: int = 0
) -> Training:
    """Replays a student training.

    Args:
      recording: of the training.
      networks: its student and teacher, as `student_and_teacher` has them.
      dtype: to compute in.
      seed: see `rounded`.
    """
    with precision(dtype):
        return _train(recording, networks, dtype, seed)


def student_and_teacher(recording: Recording) -> tuple[Network, Network]:
    """The networks of a training."""
    record, arrays = recording
    arch = record["arch"]
    student, teacher = (
        network(arch, state_dict(arch, record[f"{who}_seed"]), arrays["images"])
        for who in ("student", "teacher")
    )
    return student, teacher


@functools.cache
def _compiled_logits(model: Any, dtype: str) -> Callable[..., Any]:
    """Logits in eval mode of (variables, images)."""
    logits = functools.partial(model.apply, train=False)
    return jax.jit(logits, compiler_options=COMPILER[dtype])


def _train(
    recording: Recording, networks: tuple[Network, Network], dtype: str, seed: int
) -> Training:
    record, arrays = recording
    images = jnp.asarray(nhwc(rounded(arrays["images"], seed)), dtype)
    student, teacher = networks
    model, variables = student.model(dtype), student.variables(dtype)
    taught = teacher.variables(dtype)
    rates = tuple(step["learning_rate"] for step in record["steps"])
    optimiser = _adamw(rates, record["weight_decay"])
    params = variables["params"]
    state = state_lib.TrainState(
        jnp.int32(0), params, variables.get("batch_stats", {}), optimiser.init(params)
    )
    step_on = _compiled_step(state_lib.Trainer(model, optimiser), record["temperature"], dtype)
    losses = []
    for step in record["steps"]:
        partners = images[jnp.array(step["permutation"])]
        if record["mix"] == "cutmix":
            rows, columns = jnp.array(step["box_rows"]), jnp.array(step["box_columns"])
            mixed, _ = mix.cutmix(images, partners, rows, columns)
        else:
            mixed, _ = mix.mixup(images, partners, step["lambda"])
        state, loss = step_on(state, taught, mixed)
        losses.append(float(loss))
    logits = _compiled_logits(model, dtype)(state.variables, images)
    chex.assert_type(logits, jnp.dtype(dtype))
    stats = torch_weights.to_torch(state.variables, student.spec)
    found = [array for name, array in stats.items() if name.endswith("running_var")]
    ends = {"first_running_var": found[0], "last_running_var": found[-1]} if found else {}
    return Training(np.array(losses), np.asarray(logits), ends)
