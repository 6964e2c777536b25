"""How a recovery runs: precision, batches per device and iterations per call.

Each of them may change the last bits of the images. So they are resolved when a recovery starts,
written beside its finished batches, and read again wherever it resumes.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np

from delt_jax.core.progress import say
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram
from delt_jax.recovery.run import memory
from delt_jax.recovery.run.task import RecoveryTask
from delt_jax.store import files
from delt_jax.store.schema import mismatch

_FILE = "execution.json"
_SHAPE = {"dtype": str, "batches_per_device": int, "chunk_steps": int}
_CHUNK_STEPS = {"cpu": 1}  # XLA's CPU convolutions are slow inside a loop
_CHUNK_STEPS_ELSEWHERE = 50
TOLERANCE = 0.05  # relative, of the first loss in bfloat16 against float32


@dataclass(frozen=True)
class ExecutionPlan:
    """Run-time choices that the recipe leaves to the machine.

    Attributes:
      dtype: of the teachers' activations.
      batches_per_device: how many batches a device works on at once.
      chunk_steps: iterations per compiled call.
    """

    dtype: str
    batches_per_device: int
    chunk_steps: int


def resolve(task: RecoveryTask) -> ExecutionPlan:
    """The plan a recovery began with; a new one, chosen and written, where it has not begun."""
    plan = read(task.partial)
    if plan is None:
        plan = checked(choose(task), task)
        write(task.partial, plan)
    return plan


def choose(task: RecoveryTask) -> ExecutionPlan:
    """Fills in what the recipe leaves to the machine, if anything is to be optimised."""
    recipe, num_teachers = task.recipe, len(task.teachers)
    if not recipe.iterations:
        return ExecutionPlan("float32", 1, 1)
    backend = jax.default_backend()
    batches_per_device = recipe.batches_per_device or 1
    if not recipe.batches_per_device and backend != "cpu":
        specs = [replace(teacher.spec, dtype=recipe.dtype) for teacher in task.teachers]
        peaks = memory.peak_bytes(task.settings, specs, task.schedule, task.variables)
        batches_per_device = max(peaks)
    steps = recipe.chunk_steps or _CHUNK_STEPS.get(backend, 0)
    if not steps:  # whole rounds of the teachers, so that all calls are one program
        steps = -(-_CHUNK_STEPS_ELSEWHERE // num_teachers) * num_teachers
    return ExecutionPlan(recipe.dtype, batches_per_device, steps)


def checked(plan: ExecutionPlan, task: RecoveryTask) -> ExecutionPlan:
    """The plan, but in float32 if with some teacher a bfloat16 step differs too much from it."""
    for turn in range(len(task.teachers)):
        plan = _checked(plan, task, turn)
    return plan


def _checked(plan: ExecutionPlan, task: RecoveryTask, turn: int) -> ExecutionPlan:
    """The same for one teacher, by the first step of the first batch."""
    if plan.dtype == "float32":
        return plan
    wide, wide_finite = _first_loss("float32", task, turn)
    try:
        narrow, finite = _first_loss(plan.dtype, task, turn)
    except jax.errors.JaxRuntimeError as e:
        first = str(e).splitlines()[0][:200]
        say(f"  {plan.dtype} does not run here ({first}); float32 is used")
        return replace(plan, dtype="float32")
    off = abs(narrow - wide) / max(abs(wide), 1e-6)
    if wide_finite and not (finite and off <= TOLERANCE):
        say(
            f"  {plan.dtype} gives a first loss of {narrow:.4g} where float32 gives "
            f"{wide:.4g}; float32 is used"
        )
        return replace(plan, dtype="float32")
    return plan


def _first_loss(dtype: str, task: RecoveryTask, turn: int) -> tuple[float, bool]:
    """First loss with activations of a type, and whether it and the images stay finite.

    All images of the batch are active, as in its last round without class budgets.
    """
    images, teacher = task.start_images(0), task.variables[turn]
    program = task.program(0, dtype)
    program = StepProgram(
        (program.models[turn],), task.settings, active=len(images), classes=program.classes
    )
    state = recovery_step.init_state(
        images, recovery_step.init_term_state(task.settings, [teacher])
    )
    step = jax.jit(recovery_step.run_chunk, static_argnums=0)
    state, losses = step(program, state, task.inputs(0), (teacher,))
    loss = float(losses.loss[0])
    return loss, bool(np.isfinite(loss) and np.isfinite(np.asarray(state.images)).all())


def read(partial: Path) -> ExecutionPlan | None:
    """The plan of an unfinished recovery, if it has begun and the plan can be read."""
    try:
        stored = files.read_object(partial / _FILE)
    except (OSError, ValueError):
        return None
    if mismatch(stored, _SHAPE) or len(stored) != len(_SHAPE):
        return None
    return ExecutionPlan(**stored)


def write(partial: Path, plan: ExecutionPlan) -> None:
    """Writes the plan beside the batches."""
    files.write_json(partial / _FILE, asdict(plan))
