"""How a recovery runs: precision, batches per device, iterations per call and padded sizes.

Each of them may change the last bits of the images. So they are resolved when a recovery starts,
written beside its finished batches, and read again wherever it resumes.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np

from delt_jax import models
from delt_jax.core.progress import say
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram
from delt_jax.recovery.run import memory
from delt_jax.recovery.run import sizes as sizes_lib
from delt_jax.recovery.run.outline import Outline
from delt_jax.recovery.run.plan import ExecutionPlan
from delt_jax.recovery.run.task import RecoveryTask
from delt_jax.recovery.types import TeacherVariables
from delt_jax.recovery.views import draw_views
from delt_jax.store import files
from delt_jax.store.schema import mismatch

_FILE = "execution.json"
# A recovery that an older version began has no sizes, and goes on with exact programs.
_SHAPE = {"dtype": str, "batches_per_device": int, "chunk_steps": int, "sizes?": [int]}
_CHUNK_STEPS = {"cpu": 1}  # XLA's CPU convolutions are slow inside a loop
_CHUNK_STEPS_ELSEWHERE = 50
TOLERANCE = 0.05  # relative, of the first loss in bfloat16 against float32


def resolve(task: RecoveryTask) -> ExecutionPlan:
    """The plan a recovery began with; a new one, chosen and written, where it has not begun."""
    plan = read(task.partial)
    if plan is None:
        plan = checked(choose(task.recipe, task.outline, task.variables), task)
        write(task.partial, plan)
    return plan


def choose(
    recipe: RecoverRecipe, outline: Outline, teachers: Sequence[TeacherVariables] = ()
) -> ExecutionPlan:
    """Fills in what the recipe leaves to the machine, if anything is to be optimised.

    Args:
      recipe: of the recovery.
      outline: settings, networks and schedule.
      teachers: variables and constants of the teachers, for extra terms' memory; may be left out
        where there are no extra terms.
    """
    if not recipe.iterations:
        return ExecutionPlan("float32", 1, 1)
    sizes = padded_sizes(recipe, outline)
    batches_per_device = recipe.batches_per_device or 1
    several = len(outline.schedule) > jax.device_count()  # else there is nothing to choose
    if not recipe.batches_per_device and jax.default_backend() != "cpu" and several:
        specs = [replace(spec, dtype=recipe.dtype) for spec in outline.specs]
        peaks = memory.peak_bytes(outline.settings, specs, outline.schedule, teachers, sizes)
        batches_per_device = max(peaks)
    steps = _chunk_steps(recipe, outline)
    return ExecutionPlan(recipe.dtype, batches_per_device, steps, sizes)


def _chunk_steps(recipe: RecoverRecipe, outline: Outline) -> int:
    """Iterations per compiled call."""
    steps = recipe.chunk_steps or _CHUNK_STEPS.get(jax.default_backend(), 0)
    if steps:
        return steps
    teachers = len(outline.specs)  # whole rounds of them, so that all calls are one program
    return -(-_CHUNK_STEPS_ELSEWHERE // teachers) * teachers


def padded_sizes(recipe: RecoverRecipe, outline: Outline) -> tuple[int, ...]:
    """Sizes of masked programs, where they cost less than exact ones on this kind of backend.

    () with extra terms or perturbation, which read the active images themselves.
    """
    if not recipe.iterations or outline.settings.terms or outline.settings.perturbation:
        return ()
    steps = _chunk_steps(recipe, outline)
    price = sizes_lib.price(outline.specs, steps, jax.default_backend())
    return sizes_lib.choose(outline.schedule, steps, len(outline.specs), price)


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
    model = models.create(replace(task.teachers[turn].spec, dtype=dtype))
    settings, classes = task.settings, task.outline.classes(0)
    program = StepProgram((model,), settings, active=len(images), classes=classes)
    term_state = recovery_step.init_term_state(settings, [teacher])
    state = recovery_step.init_state(images, term_state, settings.optimiser)

    @jax.jit
    def step(state, inputs, teacher):
        views = draw_views(state.step, inputs, settings, images.shape[1], count=1)
        return recovery_step.run_chunk(program, state, inputs, views, (teacher,))

    state, losses = step(state, task.inputs(0), teacher)
    loss = float(losses.loss[0])
    return loss, bool(np.isfinite(loss) and np.isfinite(np.asarray(state.images)).all())


def read(partial: Path) -> ExecutionPlan | None:
    """The plan of an unfinished recovery, if it has begun and the plan can be read."""
    try:
        stored = files.read_object(partial / _FILE)
    except (OSError, ValueError):
        return None
    if mismatch(stored, _SHAPE) or not set(stored) <= set(ExecutionPlan.__annotations__):
        return None
    return ExecutionPlan(**stored | {"sizes": tuple(stored.get("sizes", ()))})


def write(partial: Path, plan: ExecutionPlan) -> None:
    """Writes the plan beside the batches."""
    files.write_json(partial / _FILE, asdict(plan))
