"""Stage 3, recover: optimise the images, wave after wave of independent batches."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax import terms
from delt_jax.augment import crop
from delt_jax.core.progress import progress, say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.recipe import Recipe, affecting
from delt_jax.recovery import initial_images as start
from delt_jax.recovery import ranking as ranking_store
from delt_jax.recovery.run import checkpoint as kept
from delt_jax.recovery.run import driver as waves
from delt_jax.recovery.run import execution
from delt_jax.recovery.run.driver import Work
from delt_jax.recovery.run.execution import ExecutionPlan
from delt_jax.recovery.schedule import BatchSchedule, cost, draw_class_iterations, make_schedule
from delt_jax.recovery.types import Losses
from delt_jax.runtime import processes as hosts
from delt_jax.runtime import signals as interrupts
from delt_jax.store import files
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

ARTEFACT = "distilled"
_SAVES_MISSED = 3  # by a process that is taken for dead


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the distilled set."""
    settings = affecting("images", recipe, "recover")
    if not recipe.recover.residual:
        del settings["recover.residual_rounds"]  # nothing reads it
    ranking = workdir.needed(ranking_store.MANIFEST, "rank")
    settings |= start.settings(recipe) | versions(_parts(recipe))
    teacher = workdir.needed("teacher/manifest.json", "squeeze")
    if recipe.recover.round_robin:
        settings["other_teachers"] = [other["hash"] for other in teacher.get("others", [])]
    return settings | {
        "seed": recipe.seed,
        "ipc": recipe.ipc,
        "data": source.fingerprint,
        "data.flip": recipe.data.flip,
        "class_names": source.class_names,
        "ranking": ranking["hash"],
        "teacher": teacher["hash"],
    }


def _parts(recipe: Recipe) -> dict[str, int]:
    """Versions of the named parts that make the images, beside the teachers' own."""
    chosen = recipe.select.start
    parts = {f"start.{chosen}": start.version(chosen), "augment.crop": crop.VERSION}
    for name, _ in terms.asked(recipe.recover.terms):
        parts[f"term.{name}"] = terms.find(name).version
    return parts


def schedule_of(recipe: Recipe, num_classes: int) -> tuple[BatchSchedule, ...]:
    """The run's EarlyLate schedule."""
    r = recipe.recover
    return make_schedule(
        num_classes,
        recipe.ipc,
        r.iterations,
        r.round_iterations,
        r.batch_size,
        class_iterations(recipe, num_classes),
        r.layout,
    )


def class_iterations(recipe: Recipe, num_classes: int) -> tuple[int, ...]:
    """Class budgets; empty where every class has all iterations."""
    r = recipe.recover
    if not r.min_iterations:
        return ()
    return draw_class_iterations(
        num_classes, r.iterations, r.round_iterations, r.min_iterations, recipe.seed
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/distilled; what a kill leaves in distilled.partial is gone on with."""
    made_from = inputs(recipe, source, workdir)
    work = _work(recipe, source, workdir, workdir.partial(ARTEFACT, made_from))
    settled = _settle(work)
    everything = work.in_plan_order()
    _finish(work, hosts.share(everything), settled)
    _wait_for_others(work, everything, settled)
    _assemble(work, settled, made_from)
    shutil.rmtree(work.partial)


def assist(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Recovers this process's share, once the first process has begun."""
    made_from = inputs(recipe, source, workdir)
    partial = workdir.path / f"{ARTEFACT}.partial"
    settled: list[ExecutionPlan] = []

    def is_over_or_begun():
        folder = workdir.path / ARTEFACT
        manifest = workdir.manifest(f"{ARTEFACT}/manifest.json")
        begun = workdir.is_partial(ARTEFACT, made_from) and execution.read(partial)
        if begun:
            settled.append(begun)
        over = manifest and not changes(manifest["inputs"], made_from)
        return begun or (over and distilled.is_whole(folder, manifest))

    hosts.wait_until(is_over_or_begun)
    if settled:
        work = _work(recipe, source, workdir, partial)
        _finish(work, hosts.share(work.in_plan_order()), settled[0])


def _wait_for_others(work: Work, indices: list[int], settled: ExecutionPlan) -> None:
    """Until all batches are done; those of a process that has fallen silent are finished here."""
    silence = _SAVES_MISSED * 60 * work.recipe.recover.save_minutes

    def missing():
        return [i for i in indices if not kept.part(work.partial, i).exists()]

    while left := missing():
        seen = kept.signs_of_life(work.partial)
        say(f"  waiting for {len(left)} batches of other processes")

        def stirs(seen=seen):
            return kept.signs_of_life(work.partial) != seen

        if not hosts.wait_until(stirs, silence):
            say(
                f"  no sign of the others for {silence / 60:g} minutes; their batches are done here"
            )
            _finish(work, missing(), settled)


def _work(recipe: Recipe, source: Source, workdir: WorkDir, partial: Path) -> Work:
    teacher = teacher_lib.load(workdir.path / "teacher")
    teacher_lib.check_against(teacher, source, say)
    ranking = ranking_store.read(workdir.path, teacher.hash)
    starts = start.prepare(recipe, source, teacher, ranking, partial)
    schedule = schedule_of(recipe, len(source.class_names))
    teachers = (teacher, *_others(recipe, source, workdir, teacher))
    finds = [terms.find(name) for name, _ in terms.asked(recipe.recover.terms)]
    cache = workdir.path / "cache"
    constants = tuple(
        tuple(term.prepare(each, source, recipe, cache) for term in finds) for each in teachers
    )
    return Work(recipe, source, workdir, teachers, constants, starts, schedule, partial)


def _others(
    recipe: Recipe, source: Source, workdir: WorkDir, teacher: Teacher
) -> tuple[Teacher, ...]:
    """The run's further teachers, where they take turns with the first.

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


def _settle(work: Work) -> ExecutionPlan:
    """How this recovery runs: as it began, or as suits this machine."""
    settled = execution.read(work.partial)
    if settled is None:
        recover = work.recipe.recover
        settled = execution.choose(recover, work.teachers, work.schedule, work.constants)
        for teacher, constants in zip(work.teachers, work.constants, strict=True):
            settled = execution.checked(
                settled, recover, teacher, work.job(0), work.start(0), constants, work.classes(0)
            )
        execution.write(work.partial, settled)
    return settled


def _step_of(work: Work, index: int) -> int:
    """Where a batch goes on; a damaged one starts anew."""
    try:
        return kept.step_of(work.partial, index)
    except kept.CorruptCheckpoint as e:
        e.drop()
        return 0


def _finish(work: Work, indices: list[int], settled: ExecutionPlan) -> None:
    """Recovers the batches of these indices that are not done."""
    remaining = [i for i in indices if not kept.part(work.partial, i).exists()]
    steps = {i: _step_of(work, i) for i in remaining}
    begun = sum(s > 0 for s in steps.values())
    if begun or len(remaining) < len(indices):
        say(
            f"  recover goes on: {len(indices) - len(remaining)} of {len(indices)} batches are "
            f"done, {begun} begun"
        )
    left = sum(work.schedule[i].image_iterations_after(s) for i, s in steps.items())
    with (
        progress(left, "recover", "image-iteration") as bar,
        interrupts.deferred() as deferred_signal,
    ):
        waves.finish(work, remaining, settled, bar, deferred_signal)


def _described(teacher: Teacher) -> dict[str, Any]:
    return {"hash": teacher.hash, "accuracy": teacher.accuracy, "spec": teacher.spec.as_dict()}


def _assemble(work: Work, settled: ExecutionPlan, made_from: dict[str, Any]) -> None:
    recipe, source, schedule = work.recipe, work.source, work.schedule
    teacher, *others = work.teachers
    size, channels = source.image_size, source.channels
    count = len(source.class_names) * recipe.ipc
    images = np.zeros((count, size, size, channels), np.uint8)
    curves: dict[str, list[np.ndarray]] = {name: [] for name in Losses._fields}
    seconds, stacks = work.starts.seconds, set()
    for index, batch in enumerate(schedule):
        part = files.read_npz(kept.part(work.partial, index), "recover")
        images[list(batch.images)] = part["images"]
        seconds += float(part["seconds"])
        stacks.add(int(part["batches_per_device"]))
        for name, curve in Losses.stored(part)._asdict().items():
            pad = recipe.recover.iterations - len(curve)
            curves[name].append(np.pad(curve, (0, pad), constant_values=np.nan))
    paid = cost(schedule, recipe.recover.iterations)
    manifest = {
        "inputs": made_from,
        "storage": recipe.recover.storage,
        "class_names": list(source.class_names),
        "ipc": recipe.ipc,
        "image_size": size,
        "channels": channels,
        "normalisation": teacher.normalisation.as_dict(),
        "teacher": _described(teacher),
        "seed": recipe.seed,
        "settings": {"select": asdict(recipe.select), "recover": asdict(recipe.recover)},
        "execution": asdict(settled) | {"batches_per_device": sorted(stacks)},
        "schedule": {
            "class_iterations": class_iterations(recipe, len(source.class_names)),
            "joins": [list(b.joins) for b in schedule],
            "images": [list(b.images) for b in schedule],
            "image_iterations": paid.image_iterations,
            "full_image_iterations": paid.full_image_iterations,
            "fraction": paid.fraction,
        },
        "cost_seconds": round(seconds, 1),
    }
    if others:
        manifest["other_teachers"] = [_described(other) for other in others]
    with files.replacing_folder(work.workdir.path / ARTEFACT) as folder:
        manifest["start"] = work.starts.record(folder)
        manifest["hash"] = distilled.write_images(
            folder, images, recipe.ipc, recipe.recover.storage
        )
        files.write_npz(folder / "losses.npz", **{k: np.stack(v) for k, v in curves.items()})
        files.write_json(folder / "manifest.json", manifest)
    if not recipe.recover.iterations:
        say(f"  kept {count} images as they start: recover.iterations is 0")
        return
    rate = paid.image_iterations / max(seconds, 1e-9)
    say(
        f"  recovered {count} images in {seconds:.0f} s: {paid.image_iterations} image-iterations"
        f" ({paid.fraction:.2%} of full optimisation), {rate:.0f} per second"
    )
