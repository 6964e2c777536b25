"""How recovery runs: precision, batches per device and iterations per call.

Each of them may change the last bits of the images, so they are settled when a recovery starts,
kept beside its finished parts, and the same wherever it goes on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np

from delt_jax import engine, memory, models
from delt_jax.engine import Job
from delt_jax.progress import say
from delt_jax.recipe import RecoverRecipe
from delt_jax.schedule import BatchSchedule
from delt_jax.store import files
from delt_jax.teacher import Teacher

_FILE = "execution.json"
_CHUNK_STEPS = {"cpu": 1}  # XLA's CPU convolutions are slow inside a loop
_CHUNK_STEPS_ELSEWHERE = 50
_TOLERANCE = 0.05  # of the loss, for bfloat16 against float32


@dataclass(frozen=True)
class Execution:
    """What `RecoverRecipe` leaves open, settled.

    Attributes:
      dtype: of the teacher's activations.
      batches_per_device: how many a device works on at once.
      chunk_steps: iterations per compiled call.
    """

    dtype: str
    batches_per_device: int
    chunk_steps: int


def choose(recipe: RecoverRecipe, judge: Teacher, schedule: Sequence[BatchSchedule]) -> Execution:
    """Fills in what the recipe leaves to the machine, if anything is to be optimised."""
    if not recipe.iterations:
        return Execution("float32", 1, 1)
    backend = jax.default_backend()
    stack = recipe.batches_per_device or 1
    if not recipe.batches_per_device and backend != "cpu":
        stack = max(memory.per_stack(recipe, replace(judge.spec, dtype=recipe.dtype), schedule))
    steps = recipe.chunk_steps or _CHUNK_STEPS.get(backend, _CHUNK_STEPS_ELSEWHERE)
    return Execution(recipe.dtype, stack, steps)


def checked(
    execution: Execution, recipe: RecoverRecipe, judge: Teacher, job: Job, images: np.ndarray
) -> Execution:
    """The same, but in float32 if a bfloat16 step does not do what a float32 one does.

    Args:
      execution: what was chosen.
      recipe: of the recovery.
      judge: the teacher.
      job, images: of the batch that is tried; normalised float32 [B, S, S, C].
    """
    if execution.dtype == "float32":
        return execution
    wide, wide_finite = _one_step("float32", recipe, judge, job, images)
    try:
        narrow, finite = _one_step(execution.dtype, recipe, judge, job, images)
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
    dtype: str, recipe: RecoverRecipe, judge: Teacher, job: Job, images: np.ndarray
) -> tuple[float, bool]:
    """First loss with activations of a type, and whether it and the images stay finite."""

    @jax.jit
    def step(state, job, variables):
        model = models.create(replace(judge.spec, dtype=dtype))
        return engine.run_chunk(
            state,
            job,
            variables,
            model=model,
            recipe=recipe,
            flip=False,
            active=len(images),
            steps=1,
        )

    state, losses = step(engine.init_state(images), job, judge.variables)
    loss = float(losses.loss[0])
    return loss, bool(np.isfinite(loss) and np.isfinite(np.asarray(state.images)).all())


def read(partial: Path) -> Execution | None:
    """What was settled for an unfinished recovery, if it has begun."""
    if not (partial / _FILE).exists():
        return None
    return Execution(**files.read_json(partial / _FILE))


def write(partial: Path, execution: Execution) -> None:
    """Settles it."""
    files.write_json(partial / _FILE, asdict(execution))
