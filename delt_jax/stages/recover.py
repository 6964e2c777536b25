"""Stage 3, recover: optimises the images, in independent batches side by side."""

import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from delt_jax import terms
from delt_jax.augment import crop
from delt_jax.core import stopping
from delt_jax.core.progress import progress, say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation import failed_training
from delt_jax.formats import distilled
from delt_jax.recipe import Recipe, affecting
from delt_jax.recovery import initial_images, optimisers, step
from delt_jax.recovery import ranking as ranking_store
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run import checkpoint, driver, execution, loss_history, salvage
from delt_jax.recovery.run.execution import ExecutionPlan
from delt_jax.recovery.run.task import RecoveryTask
from delt_jax.recovery.schedule import (
    BatchSchedule,
    cost,
    draw_class_iterations,
    make_schedule,
    plainest_layout,
)
from delt_jax.recovery.types import Losses, TeacherVariables
from delt_jax.runtime import devices, environment
from delt_jax.runtime import processes as hosts
from delt_jax.store import artefact, files, part_sources
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

ARTEFACT = "distilled"


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the distilled set."""
    settings = affecting("images", recipe, "recover")
    if not recipe.recover.residual:
        del settings["recover.residual_rounds"]  # nothing reads it
    settings["recover.layout"] = plainest_layout(
        recipe.recover.layout, len(source.class_names), recipe.ipc, recipe.recover.batch_size
    )
    teacher = workdir.needed("teacher/manifest.json", "squeeze")
    asked = [teacher]
    if recipe.recover.round_robin:
        settings["other_teachers"] = [other["hash"] for other in teacher.get("others", [])]
        asked += teacher_lib.manifests_of_others(workdir.path / "teacher")
    if initial_images.reads_training_images(recipe.select.start):
        settings["ranking"] = workdir.needed(ranking_store.MANIFEST, "rank")["hash"]
    settings |= initial_images.settings(recipe, source)
    settings |= versions(_parts(recipe, source) | teacher_lib.parts(asked))
    return settings | {
        "seed": recipe.seed,
        "ipc": recipe.ipc,
        "data": source.fingerprint,
        "data.flip": recipe.data.flip,
        "class_names": source.class_names,
        "teacher": teacher["hash"],
    }


def _parts(recipe: Recipe, source: Source) -> dict[str, int]:
    """Versions of the named parts that make the images, beside the teachers' own."""
    parts = initial_images.parts(recipe, source) | {"augment.crop": crop.VERSION}
    if recipe.recover.iterations:
        parts["recovery.step"] = step.VERSION
        parts |= optimisers.parts(recipe.recover.optimiser)
    for name, _ in terms.asked(recipe.recover.terms):
        parts |= terms.parts(name, recipe)
    return parts


def skipped(recipe: Recipe) -> str:
    """Why nothing is recovered, as a phrase; empty if images are."""
    return "" if recipe.synthesis == "recover" else "synthesis is 'learn'"


def schedule_of(recipe: Recipe, num_classes: int) -> tuple[BatchSchedule, ...]:
    """The run's EarlyLate schedule, batch by batch."""
    r = recipe.recover
    return _schedule(
        num_classes,
        recipe.ipc,
        r.iterations,
        r.round_iterations,
        r.batch_size,
        class_iterations(recipe, num_classes),
        r.layout,
    )


_schedule = functools.lru_cache(maxsize=2)(make_schedule)  # that of a million images takes seconds


def class_iterations(recipe: Recipe, num_classes: int) -> tuple[int, ...]:
    """Class budgets in iterations; () where every class has all of them."""
    r = recipe.recover
    if not r.min_iterations:
        return ()
    return draw_class_iterations(
        num_classes, r.iterations, r.round_iterations, r.min_iterations, recipe.seed
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/distilled, resuming what an interrupted run left in distilled.partial."""
    stage_inputs = inputs(recipe, source, workdir)
    begun = _begin(recipe, source, workdir, stage_inputs) if hosts.is_first() else None
    chosen = hosts.broadcast(asdict(begun[1]) if begun else None)
    plan = ExecutionPlan(**chosen | {"sizes": tuple(chosen["sizes"])})
    # Another process finds what process 0 has prepared.
    partial = workdir.path / f"{ARTEFACT}.partial"
    workdir.refresh()
    task = begun[0] if begun else task_of(recipe, source, workdir, partial)
    finish(task, hosts.share(task.in_device_order()), plan)
    hosts.barrier("its batches")
    if hosts.is_first():
        workdir.refresh()
        _assemble(recipe, source, task, plan, stage_inputs)
        files.delete_folder(task.partial)


def _begin(
    recipe: Recipe, source: Source, workdir: WorkDir, stage_inputs: dict[str, Any]
) -> tuple[RecoveryTask, ExecutionPlan]:
    """Takes over what an interrupted run left, and fixes how the recovery runs."""
    count, start = len(source.class_names) * recipe.ipc, recipe.select.start
    say(f"  making {count:,} images: start {start!r}, {recipe.recover.iterations} iterations")
    partial = workdir.partial(ARTEFACT, stage_inputs)
    intact = salvage.find(workdir, stage_inputs)
    if intact is not None:
        intact.keep_starts(partial)
    task = task_of(recipe, source, workdir, partial)
    if intact is not None:
        intact.keep_batches(task)
    salvage.drop_damaged(task)
    return task, execution.resolve(task)


def task_of(recipe: Recipe, source: Source, workdir: WorkDir, partial: Path) -> RecoveryTask:
    """Loads teachers and ranking, and prepares start images, extra terms and schedule."""
    teacher = teacher_lib.load(workdir.path / "teacher")
    teacher_lib.check_against(teacher, source, say)
    is_ranked = initial_images.reads_training_images(recipe.select.start)
    ranking = ranking_store.read(workdir.path, teacher.hash) if is_ranked else None
    starts = initial_images.prepare(recipe, source, teacher, ranking, partial)
    teachers = (teacher, *_other_teachers(recipe, source, workdir, teacher))
    settings = step_settings(recipe.recover, recipe.data.flip)
    chosen = [terms.find(name) for name, _ in settings.terms]
    # Constants that an edited term has cached are its own, never those of the released one.
    edited = part_sources.changed(f"term.{name}" for name, _ in settings.terms)
    caches = [workdir.path / "cache" / edited.get(f"term.{name}", "") for name, _ in settings.terms]

    def constants(teacher):
        return tuple(
            term.prepare(teacher, source, recipe, cache)
            for term, cache in zip(chosen, caches, strict=True)
        )

    return RecoveryTask(
        recipe=recipe.recover,
        settings=settings,
        seed=recipe.seed,
        ipc=recipe.ipc,
        teachers=teachers,
        variables=tuple(TeacherVariables(t.variables, constants(t)) for t in teachers),
        starts=starts,
        schedule=schedule_of(recipe, len(source.class_names)),
        partial=partial,
        workdir=workdir,
    )


def _other_teachers(
    recipe: Recipe, source: Source, workdir: WorkDir, teacher: Teacher
) -> tuple[Teacher, ...]:
    """The run's other teachers, if recovery uses them in round robin.

    Raises:
      UserError: if they take other images or classes.
    """
    if not recipe.recover.round_robin:
        return ()
    others = teacher_lib.load_others(workdir.path / "teacher")
    for other in others:
        teacher_lib.check_against(other, source, say)
        if other.normalisation != teacher.normalisation:
            raise UserError(
                f"The further teacher {other.spec.name} takes images with mean "
                f"{other.normalisation.mean} and std {other.normalisation.std}, the first one "
                f"with {teacher.normalisation.mean} and {teacher.normalisation.std}; recovery in "
                f"turn needs teachers of one normalisation."
            )
    return others


def _step_of(task: RecoveryTask, index: int) -> int:
    """Iterations of a batch that are saved; 0 if its file is damaged, which is then dropped."""
    try:
        return checkpoint.step_of(task.partial, index)
    except CorruptCheckpoint as e:
        checkpoint.drop(e)
        return 0


def finish(task: RecoveryTask, indices: list[int], plan: ExecutionPlan) -> None:
    """Recovers those of some batches that are not finished, with progress and signals."""
    remaining = [i for i in indices if not checkpoint.finished_batch(task.partial, i).exists()]
    steps = {i: _step_of(task, i) for i in remaining}
    begun = sum(s > 0 for s in steps.values())
    if begun or len(remaining) < len(indices):
        say(
            f"  recover goes on: {len(indices) - len(remaining)} of {len(indices)} batches are "
            f"done, {begun} begun"
        )
    left = sum(task.schedule[i].image_iterations_after(s) for i, s in steps.items())
    with progress(left, "recover", "image-iteration") as bar, stopping.deferred():
        driver.finish(task, remaining, plan, bar)


def _described(teacher: Teacher) -> dict[str, Any]:
    return {"hash": teacher.hash, "accuracy": teacher.accuracy, "spec": teacher.spec.as_dict()}


class _Finished(NamedTuple):
    """The finished batches put together.

    Attributes:
      pixels: uint8 [classes * ipc, S, S, C], in the order of the set.
      losses: float32 [batches, iterations] each, NaN after a batch's last iteration.
      seconds: that batches and start images took.
      batches_per_device: all numbers that were used, ascending.
    """

    pixels: np.ndarray
    losses: Losses
    seconds: float
    batches_per_device: list[int]


def _read_finished(task: RecoveryTask, shape: tuple[int, ...]) -> _Finished:
    """Reads all finished batches; `shape` is that of the whole set's pixels."""
    pixels, seconds = np.zeros(shape, np.uint8), task.starts.seconds
    batches_per_device: set[int] = set()
    terms_asked = [name for name, _ in task.settings.terms]
    curves: list[Losses] = []
    for index, batch in enumerate(task.schedule):
        finished = files.read_npz(checkpoint.finished_batch(task.partial, index), "recover")
        pixels[list(batch.indices)] = finished["images"]
        seconds += float(finished["seconds"])
        # Several of a batch that was kept, as nothing says which of them it had.
        batches_per_device.update(map(int, np.atleast_1d(finished["batches_per_device"])))
        pad = (0, task.recipe.iterations - len(finished["loss"]))
        curves.append(
            jax.tree.map(
                lambda curve, pad=pad: np.pad(curve, pad, constant_values=np.nan),
                loss_history.of_columns(finished, terms_asked),
            )
        )
    losses = jax.tree.map(lambda *parts: np.stack(parts), *curves)
    return _Finished(pixels, losses, seconds, sorted(batches_per_device))


def _assemble(
    recipe: Recipe,
    source: Source,
    task: RecoveryTask,
    plan: ExecutionPlan,
    stage_inputs: dict[str, Any],
) -> None:
    """Writes the distilled set of the finished batches."""
    schedule, (teacher, *others) = task.schedule, task.teachers
    num_images = len(source.class_names) * recipe.ipc
    size, channels = source.image_size, source.channels
    finished = _read_finished(task, (num_images, size, size, channels))
    paid = cost(schedule, recipe.recover.iterations)
    doubts = _doubts(task, finished)
    manifest = {
        "inputs": stage_inputs,
        "warnings": doubts,
        "storage": recipe.recover.storage,
        "class_names": list(source.class_names),
        "ipc": recipe.ipc,
        "image_size": size,
        "channels": channels,
        "normalisation": teacher.normalisation.as_dict(),
        "teacher": _described(teacher),
        "seed": recipe.seed,
        "settings": {"select": asdict(recipe.select), "recover": asdict(recipe.recover)},
        "execution": asdict(plan) | {"batches_per_device": finished.batches_per_device},
        "repeatable": environment.repeats(),
        "schedule": {
            "class_iterations": class_iterations(recipe, len(source.class_names)),
            "joins": [list(b.start_iterations) for b in schedule],
            "images": [list(b.indices) for b in schedule],
            "image_iterations": paid.image_iterations,
            "full_image_iterations": paid.full_image_iterations,
            "fraction": paid.fraction,
        },
        "cost_seconds": round(finished.seconds, 1),
        "made": devices.here_and_now(),
    }
    if others:
        manifest["other_teachers"] = [_described(other) for other in others]
    with artefact.replacing(task.workdir.path / ARTEFACT) as folder:
        manifest["start"] = task.starts.record(folder)
        manifest["hash"] = distilled.write_images(
            folder, finished.pixels, recipe.ipc, recipe.recover.storage
        )
        files.write_npz(folder / "losses.npz", **loss_history.columns(finished.losses))
        artefact.seal(folder / "manifest.json", manifest)
    if not recipe.recover.iterations:
        say(f"  kept {num_images} images as they start: recover.iterations is 0")
        return
    rate = paid.image_iterations / max(finished.seconds, 1e-9)
    say(
        f"  recovered {num_images} images in {finished.seconds:.0f} s: {paid.image_iterations} "
        f"image-iterations ({paid.fraction:.2%} of full optimisation), {rate:.0f} per second"
    )
    failed_training.told(doubts)


def _doubts(task: RecoveryTask, finished: _Finished) -> list[str]:
    """Sentences on losses and pixels of a recovery that failed without an error."""
    if not task.recipe.iterations:
        return []
    ends = [batch.iterations for batch in task.schedule]
    curves = [curve[:end] for curve, end in zip(finished.losses.loss, ends, strict=True)]
    some = failed_training.sampled(len(finished.pixels))
    starts = task.starts.pixels([int(i) for i in some])
    return [
        *failed_training.of_losses(curves),
        *failed_training.of_images(finished.pixels[some], starts),
    ]
