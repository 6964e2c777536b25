"""Whether a run fits on disk and into memory: estimates, and what the machine has."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax

from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation import rows
from delt_jax.labels import label_store
from delt_jax.learned import methods
from delt_jax.learned.expert_store import DELTAS, FLOAT32, stored_bytes
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.runtime import devices, host_memory
from delt_jax.stages import experts, learn, recover, relabel, squeeze
from delt_jax.stages.costs import amount
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import ensemble
from delt_jax.teachers import teacher as teacher_lib

_ENOUGH = 2.0  # times the estimated bytes on disk; with less the user is told
_TOO_LITTLE = 0.5  # times the estimate; with less nothing is begun
_TEACHER_COPIES = 3  # of a teacher's parameters in SGD: themselves, gradient, momentum
_STUDENT_COPIES = 4  # of a student's parameters in AdamW


def parameters(spec: ModelSpec) -> int:
    """Number of a model's weights, by their shapes alone."""
    shapes = teacher_lib.init_shapes(spec)["params"]
    return sum(math.prod(p.shape) for p in jax.tree.leaves(shapes))


def teachers(recipe: Recipe, source: Source) -> list[ModelSpec]:
    """Architectures of the run's teachers, the first one first."""
    if not recipe.needs_teacher:
        return []
    alone = [recipe, *ensemble.recipes(recipe).values()]
    return [squeeze.spec_of(one, source) for one in alone]


def disk(recipe: Recipe, source: Source) -> dict[str, int]:
    """Bytes that each stage writes into the work directory, by its name."""
    num_classes = len(source.class_names)
    num_images = num_classes * recipe.ipc
    learns = recipe.synthesis == "learn"
    stored = relabel.plan_of(recipe, source)
    pixels = source.image_size**2 * source.channels
    e = recipe.evaluate
    asked = _rows(recipe)
    trained = sum(parameters(rows.student_spec(recipe, row.student, source)) for row in asked) * (
        e.seeds * max(1, len(e.learning_rates)) if e.keep_students else 0
    )
    return {
        "squeeze": 4 * sum(map(parameters, teachers(recipe, source))),
        "rank": 60 * len(source.train),  # a line of text each
        "recover": 0 if learns else _recovered(recipe, num_classes, pixels),
        "experts": 0 if experts.skipped(recipe) else _experts(recipe, source),
        "learn": _learned(recipe, source) if learns else 0,
        # Labels of the unchanged images, float32.
        "relabel": 4 * num_images * num_classes
        + (0 if stored is None else label_store.stored_bytes(stored)),
        "evaluate": 4 * trained,
    }


def _recovered(recipe: Recipe, num_classes: int, pixels: int) -> int:
    """Bytes of a recovered set."""
    batches = len(recover.schedule_of(recipe, num_classes))
    # PNGs of optimised pixels hardly compress; four losses and those of the terms, float32.
    curves = 4 * (4 + len(recipe.recover.terms)) * batches * recipe.recover.iterations
    return num_classes * recipe.ipc * (pixels + 500) + curves


def _experts(recipe: Recipe, source: Source) -> int:
    """Bytes of the experts that a set is learned from."""
    setup = learn.setup_of(recipe, source)
    form = DELTAS if setup.option("float16") else FLOAT32
    count, epochs = int(setup.option("experts")), int(setup.option("epochs"))
    return stored_bytes(form, parameters(setup.spec), count, epochs)


def _learned(recipe: Recipe, source: Source) -> int:
    """Bytes of a learned set: its arrays last, at its best, and in a checkpoint with networks."""
    setup = learn.setup_of(recipe, source)
    numbers = source.image_size**2 * source.channels + setup.num_classes
    networks = methods.find(recipe.learn.method).pool.size
    held = 5 * setup.num_classes * setup.ipc * numbers
    return 4 * (held + 3 * networks * parameters(setup.spec) + setup.steps)


def _rows(recipe: Recipe) -> list[rows.EvalRow]:
    """Rows of students on small sets."""
    if rows.skipped(recipe):
        return []
    return [row for row in rows.rows_of(recipe, recipe.ipc) if row.image_set != "full"]


def memory(recipe: Recipe, source: Source) -> dict[str, int]:
    """Least bytes of this machine's memory that parts of a run need, by what they are."""
    num_classes = len(source.class_names)
    num_images = num_classes * recipe.ipc
    pixels = source.image_size**2 * source.channels
    what = f"the {num_images:,} distilled images (ipc {recipe.ipc})"
    if recipe.synthesis == "learn":
        needs = {what: 3 * 4 * num_images * (pixels + num_classes)}
    else:
        batch = min(recipe.recover.batch_size, num_images)
        num_batches = -(-num_images // recipe.recover.batch_size)
        needs = {
            what: num_images * pixels
            + 4 * 4 * batch * pixels  # a batch with Adam's moments and the gradient
            + 16 * num_batches * recipe.recover.iterations
            + 4 * num_images * num_classes,
        }
    if devices.memory_limit() is None:  # models lie in the host's memory
        for spec in teachers(recipe, source):
            needs[f"the teacher {spec.name}"] = 4 * _TEACHER_COPIES * parameters(spec)
        for name in () if rows.skipped(recipe) else recipe.evaluate.students:
            spec = rows.student_spec(recipe, name, source)
            needs[f"a student {name}"] = 4 * _STUDENT_COPIES * parameters(spec)
    return needs


def check(recipe: Recipe, source: Source, workdir: WorkDir, names: Sequence[str] = ()) -> list[str]:
    """Compares what a run needs with what the machine has.

    Args:
      recipe: complete.
      source: the data. Where they are only described, the plan may be for another machine, so
        nothing is refused.
      workdir: may not exist yet.
      names: of the stages that will run; all if empty.

    Returns:
      Sentences for the user about what may become scarce.

    Raises:
      UserError: if disk or memory is clearly too small.
    """
    problems = [*_memory_problems(recipe, source), *_disk_problems(recipe, source, workdir, names)]
    described = not source.fingerprint
    for sentence, is_clear in problems:
        if is_clear and not described:
            raise UserError(sentence)
    return [sentence for sentence, _ in problems]


def _memory_problems(recipe: Recipe, source: Source) -> list[tuple[str, bool]]:
    total = host_memory.total()
    what, needed = max(memory(recipe, source).items(), key=lambda need: need[1])
    if total is None or needed <= total:
        return []
    sentence = (
        f"There are {amount(total, 'B')} of memory, but {what} need at least "
        f"{amount(needed, 'B')}; make the run smaller or use a larger machine."
    )
    return [(sentence, True)]


def _disk_problems(
    recipe: Recipe, source: Source, workdir: WorkDir, names: Sequence[str]
) -> list[tuple[str, bool]]:
    by_stage = disk(recipe, source)
    needed = sum(size for stage, size in by_stage.items() if not names or stage in names)
    existing = next(p for p in (workdir.path, *workdir.path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free >= _ENOUGH * needed:
        return []
    needed -= _held(workdir.path)  # what is finished is not written again
    if free >= _ENOUGH * needed:
        return []
    sentence = (
        f"The run needs about {amount(needed, 'B')} on disk, and {existing} has "
        f"{amount(free, 'B')} free; free the disk or choose another --workdir."
    )
    return [(sentence, free < _TOO_LITTLE * needed)]


def _held(folder: Path) -> int:
    """Bytes of all files in a folder."""
    sizes = 0
    for where, _, files in os.walk(folder):
        for file in files:
            try:
                sizes += os.lstat(os.path.join(where, file)).st_size
            except OSError:  # gone since it was listed
                continue
    return sizes


def plan_line(recipe: Recipe, source: Source) -> str:
    """A line of the plan: bytes of everything in the work directory."""
    return f"disk: about {amount(sum(disk(recipe, source).values()), 'B')}"
