"""How recovery runs: precision, batches per device and iterations per call.

Each of them may change the last bits of the images, so they are settled when a recovery starts,
kept beside its finished parts, and the same wherever it goes on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delt_jax import models
from delt_jax.core.progress import say
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as engine
from delt_jax.recovery.run import memory
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.recovery.types import Job, TeacherVariables
from delt_jax.store import files
from delt_jax.teachers.teacher import Teacher

_FILE = "execution.json"
_CHUNK_STEPS = {"cpu": 1}  # XLA's CPU convolutions are slow inside a loop
_CHUNK_STEPS_ELSEWHERE = 50
_TOLERANCE = 0.05  # of the loss, for bfloat16 against float32


@dataclass(frozen=True)
class ExecutionPlan:
    """What `RecoverRecipe` leaves open, settled.

    Attributes:
      dtype: of the teacher's activations.
      batches_per_device: how many a device works on at once.
      chunk_steps: iterations per compiled call.
    """

    dtype: str
    batches_per_device: int
    chunk_steps: int


def choose(
    recipe: RecoverRecipe,
    teachers: Sequence[Teacher],
    schedule: Sequence[BatchSchedule],
    constants: Sequence[tuple[Any, ...]] = (),
) -> ExecutionPlan:
    """Fills in what the recipe leaves to the machine, if anything is to be optimised.

    Args:
      recipe: of the recovery.
      teachers: that take turns.
      schedule: all batches.
      constants: of further terms, by teacher.
    """
    if not recipe.iterations:
        return ExecutionPlan("float32", 1, 1)
    backend = jax.default_backend()
    stack = recipe.batches_per_device or 1
    if not recipe.batches_per_device and backend != "cpu":
        specs = [replace(teacher.spec, dtype=recipe.dtype) for teacher in teachers]
        stack = max(memory.per_stack(recipe, specs, schedule, constants))
    steps = recipe.chunk_steps or _CHUNK_STEPS.get(backend, 0)
    if not steps:  # whole turns of all teachers, so that calls are alike
        steps = -(-_CHUNK_STEPS_ELSEWHERE // len(teachers)) * len(teachers)
    return ExecutionPlan(recipe.dtype, stack, steps)


def checked(
    execution: ExecutionPlan,
    recipe: RecoverRecipe,
    teacher: Teacher,
    job: Job,
    images: np.ndarray,
    constants: tuple[Any, ...] = (),
    classes: tuple[int, ...] = (),
) -> ExecutionPlan:
    """The same, but in float32 if a bfloat16 step does not do what a float32 one does.

    Args:
      execution: what was chosen.
      recipe: of the recovery.
      teacher: a teacher.
      job, images: of the batch that is tried; normalised float32 [B, S, S, C].
      constants: of each further term with this teacher.
      classes: of each image a number from 0 that its class has in the batch.
    """
    if execution.dtype == "float32":
        return execution
    tried = (recipe, teacher, job, images, constants, classes)
    wide, wide_finite = _one_step("float32", *tried)
    try:
        narrow, finite = _one_step(execution.dtype, *tried)
    except jax.errors.JaxRuntimeError as e:
        first = str(e).splitlines()[0][:200]
        say(f"  {execution.dtype} does not run here ({first}); float32 is used")
        return replace(execution, dtype="float32")
    off = abs(narrow - wide) / max(abs(wide), 1e-6)
    if wide_finite and not (finite and off <= _TOLERANCE):
        say(
            f"  {execution.dtype} gives a first loss of {narrow:.4g} where float32 gives "
            f"{wide:.4g}; float32 is used"
        )
        return replace(execution, dtype="float32")
    return execution


def _one_step(
    dtype: str,
    recipe: RecoverRecipe,
    teacher: Teacher,
    job: Job,
    images: np.ndarray,
    constants: tuple[Any, ...],
    classes: tuple[int, ...],
) -> tuple[float, bool]:
    """First loss with activations of a type, and whether it and the images stay finite."""

    @jax.jit
    def step(state, job, guide):
        model = models.create(replace(teacher.spec, dtype=dtype))
        return engine.run_chunk(
            state,
            job,
            (guide,),
            models=(model,),
            recipe=recipe,
            flip=False,
            active=len(images),
            steps=1,
            classes=classes,
        )

    start = engine.init_state(images, engine.init_term_state(recipe, [constants]))
    state, losses = step(start, job, TeacherVariables(teacher.variables, constants))
    loss = float(losses.loss[0])
    return loss, bool(np.isfinite(loss) and np.isfinite(np.asarray(state.images)).all())


def read(partial: Path) -> ExecutionPlan | None:
    """What was settled for an unfinished recovery, if it has begun."""
    if not (partial / _FILE).exists():
        return None
    return ExecutionPlan(**files.read_json(partial / _FILE))


def write(partial: Path, execution: ExecutionPlan) -> None:
    """Settles it."""
    files.write_json(partial / _FILE, asdict(execution))
