"""The recorded recoveries and trainings, run through the functions that random draws feed.

In float32, or in float64 to tell rounding from a wrong formula: between two right programs
the first leaves differences that chaos may blow up, the second hardly any.
"""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from seeded import seeded_state

from delt_jax import models
from delt_jax.augment import crop, mix
from delt_jax.core import losses as losses_lib
from delt_jax.data import Normalisation
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views as views_lib
from delt_jax.recovery.active import take
from delt_jax.recovery.program import StepProgram, active_of, step_settings
from delt_jax.recovery.schedule import BatchSchedule, make_schedule
from delt_jax.recovery.types import BatchInputs, Clock, Losses, TeacherVariables
from delt_jax.training import state as state_lib

# The suite compiles without LLVM's optimiser, which is worth its time for loops over float64.
COMPILER = {"float64": {"xla_backend_optimization_level": 3}, "float32": {}}
FLOAT64 = Path(__file__).parent / "float64"  # PyTorch's ends of some recordings in float64


class Recording(NamedTuple):
    """A recorded file and its arrays."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Step(NamedTuple):
    """One iteration of ours beside what was recorded of it."""

    recorded: dict[str, Any]
    active: int
    losses: Losses
    terms: np.ndarray
    rate: np.ndarray
    scale: np.ndarray


class Recovery(NamedTuple):
    """A recovery of ours; images normalised [N, S, S, C] in the recorded order."""

    steps: list[Step]
    images: np.ndarray


class Training(NamedTuple):
    """A training of ours: losses [steps], running variances per layer, eval logits."""

    losses: np.ndarray
    variances: list[np.ndarray]
    logits: np.ndarray


def cases(folder):
    """One test per recorded file."""
    return [
        pytest.param(path, id=path.stem) for path in sorted((golden_dir() / folder).glob("*.json"))
    ]


def float64_file(path):
    """PyTorch's float64 run of the same case; there are few."""
    return FLOAT64 / f"{path.stem}.npz"


def read(path: Path) -> Recording:
    """The recording whose JSON file is `path`."""
    with np.load(path.with_suffix(".npz")) as arrays:
        return Recording(json.loads(path.read_text()), dict(arrays))


def spec_of(name: str, dtype: str = "float32") -> ModelSpec:
    """An architecture of the recordings."""
    return ModelSpec(name, num_classes=10, image_size=32, channels=3, dtype=dtype)


def state_dict(arch: str, seed: int | None = None, checkpoint: str = "") -> dict[str, np.ndarray]:
    """torch's state dict of a recorded network."""
    if checkpoint:
        return torch_files.read(golden_dir() / checkpoint)
    return seeded_state(golden_dir() / "zoo" / f"{arch}.state_dict.json", seed)


def teacher_state(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """torch's state dict of a recovery's teacher."""
    teacher = record["teacher"]
    return state_dict(teacher["arch"], teacher.get("seeded"), teacher.get("checkpoint", ""))


def nhwc(images: np.ndarray) -> np.ndarray:
    """Ours of torch's axes."""
    return np.asarray(images).transpose(0, 2, 3, 1)


def final_images(recording: Recording) -> np.ndarray:
    """The recorded end, which is kept in [0, 1], as normalised [N, S, S, C]."""
    record = recording.record
    return (nhwc(recording.arrays["final"]) - np.array(record["mean"])) / np.array(record["std"])


def schedule_of(recording: Recording) -> BatchSchedule:
    """The schedule of a recovery, which is one batch."""
    record, count = recording.record, len(recording.arrays["labels"])
    (batch,) = make_schedule(
        count // record["ipc"],
        record["ipc"],
        record["iterations"],
        record["round_iterations"],
        count,
        record["class_iterations"],
    )
    return batch


def full_budget(recording: Recording) -> np.ndarray:
    """Whether each image's class has the whole budget, bool [N].

    The released code lets images of a class whose budget is spent drift; ours are frozen.
    """
    record = recording.record
    full = np.array(record["class_iterations"]) == record["iterations"]
    return full[np.arange(len(recording.arrays["labels"])) // record["ipc"]]


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Within it JAX computes in "float32" or "float64"."""
    with jax.enable_x64(dtype == "float64"):
        yield


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def recover(recording: Recording, dtype: str = "float32", steps: int | None = None) -> Recovery:
    """Runs a recorded recovery, or its first steps, through the engine."""
    with precision(dtype):
        return _recover(recording, dtype, steps)


def _recover(recording: Recording, dtype: str, count: int | None) -> Recovery:
    record, arrays = recording
    assert record["steps"][0]["antialias"]  # the only way that recovery resizes
    labels, init = arrays["labels"], nhwc(arrays["init"])
    spec = spec_of(record["teacher"]["arch"], dtype)
    model = models.create(spec)
    teacher = TeacherVariables(_cast(torch_weights.from_torch(teacher_state(record), spec), dtype))
    recipe = RecoverRecipe(
        iterations=record["iterations"],
        round_iterations=record["round_iterations"],
        batch_size=len(labels),
        learning_rate=record["learning_rate"],
        bn_weight=record["bn_weight"],
        first_bn_multiplier=record["first_bn_multiplier"],
        curriculum=record["easy2hard"],
        milestone=float(record["milestone"]),
        jitter=record["jitter"],
    )
    settings = step_settings(recipe, flip=False)
    batch = schedule_of(recording)
    low, high = Normalisation(tuple(record["mean"]), tuple(record["std"])).bounds()
    order = np.array(batch.indices)
    np.testing.assert_array_equal(labels[order], batch.labels)
    inputs = BatchInputs(
        labels=jnp.array(batch.labels),
        ranks=jnp.array(batch.indices) % record["ipc"],
        start_iterations=jnp.array(batch.start_iterations),
        end_iterations=jnp.array(batch.end_iterations),
        iterations=jnp.int32(batch.iterations),
        key=jax.random.key(0),
        low=jnp.asarray(low, dtype),
        high=jnp.asarray(high, dtype),
    )
    options = COMPILER[dtype]
    update = jax.jit(recovery_step.update, static_argnums=0, compiler_options=options)
    state = recovery_step.init_state(jnp.asarray(init[order], dtype))
    active_at = [r.active for r in batch.rounds for _ in range(r.iterations)]
    steps = []
    for recorded, active in list(zip(record["steps"], active_at, strict=True))[:count]:
        program = StepProgram((model,), settings, active_of(active))
        clock = views_lib.clocks(state.step, inputs, settings)
        clock = Clock(*(take(x, program.active) for x in clock))
        scale = views_lib.curriculum(settings, *clock)
        rate = recovery_step.learning_rate(settings.learning_rate, *clock)
        view = crop.View(*(jnp.array(recorded[name]) for name in ("crop", "flip", "roll")))
        state, losses, terms = update(program, state, inputs, view, (teacher,))
        chex.assert_type(state.images, jnp.dtype(dtype))
        ours = jax.tree.map(np.asarray, (losses, terms, rate, scale))
        steps.append(Step(recorded, len(active), *ours))
    images = np.empty(init.shape, dtype)
    images[order] = state.images
    return Recovery(steps, images)


def train(recording: Recording, dtype: str = "float32", steps: int | None = None) -> Training:
    """Runs a recorded student training, or its first steps."""
    with precision(dtype):
        return _train(recording, dtype, steps)


def _train(recording: Recording, dtype: str, count: int | None) -> Training:
    record, arrays = recording
    images = jnp.asarray(nhwc(arrays["images"]), dtype)
    spec = spec_of(record["arch"], dtype)
    model = models.create(spec)
    student, teacher = (
        _cast(torch_weights.from_torch(state_dict(spec.name, record[f"{who}_seed"]), spec), dtype)
        for who in ("student", "teacher")
    )
    schedule = state_lib.half_cosine(record["steps"][0]["learning_rate"], record["epochs"], 1)
    optimiser = state_lib.adamw(schedule, record["weight_decay"])
    state = state_lib.TrainState(
        jnp.int32(0), student["params"], student["batch_stats"], optimiser.init(student["params"])
    )
    temperature = record["temperature"]

    @functools.partial(jax.jit, compiler_options=COMPILER[dtype])
    def step_on(state, teacher, mixed):
        targets = jax.nn.softmax(model.apply(teacher, mixed, train=False) / temperature)

        def loss(logits):
            return losses_lib.kl_divergence(logits, targets, temperature)

        return state_lib.update(state_lib.Trainer(model, optimiser), state, mixed, loss)

    losses = []
    for epoch, step in enumerate(record["steps"][:count]):
        chex.assert_trees_all_close(float(schedule(epoch)), step["learning_rate"], rtol=1e-5)
        permutation = jnp.array(step["permutation"])
        if record["mix"] == "cutmix":
            rows, columns = jnp.array(step["box_rows"]), jnp.array(step["box_columns"])
            mixed, _ = mix.cutmix(images, images[permutation], rows, columns)
        else:
            mixed, _ = mix.mixup(images, images[permutation], step["lambda"])
        state, loss = step_on(state, teacher, mixed)
        losses.append(float(loss))
    logits = jax.jit(functools.partial(model.apply, train=False))(state.variables, images)
    chex.assert_type(logits, jnp.dtype(dtype))
    stats = torch_weights.to_torch(state.variables, spec)
    variances = [array for name, array in stats.items() if name.endswith("running_var")]
    return Training(np.array(losses), variances, np.asarray(logits))
