"""Runs the stages in order over a work directory: skips what is done, redoes what changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delt_jax import models
from delt_jax.config import nearest
from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation import rows
from delt_jax.formats import distilled
from delt_jax.labels import labelling
from delt_jax.models import torch_files
from delt_jax.recipe import Recipe
from delt_jax.recovery import initial_images, ranking
from delt_jax.recovery.selection import check_class_sizes
from delt_jax.runtime import processes as hosts
from delt_jax.stages import evaluate, rank, recover, relabel, report, squeeze
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
      name: a verb, as --stages has it.
      manifest: path below the work directory of the file whose presence means that it is done.
      needs: names of the stages whose artefacts it reads.
      inputs: everything that its artefact depends on, by name; recorded in the manifest.
      run: makes the artefact.
    """

    name: str
    manifest: str
    needs: tuple[str, ...]
    inputs: Callable[[Recipe, Source, WorkDir], dict[str, Any]]
    run: Callable[[Recipe, Source, WorkDir], None]


STAGES = (
    Stage("squeeze", "teacher/manifest.json", (), squeeze.inputs, squeeze.run),
    Stage("rank", ranking.MANIFEST, ("squeeze",), rank.inputs, rank.run),
    Stage("recover", "distilled/manifest.json", ("squeeze", "rank"), recover.inputs, recover.run),
    Stage(
        "relabel", "soft_labels/manifest.json", ("squeeze", "recover"), relabel.inputs, relabel.run
    ),
    Stage(
        "evaluate",
        "evaluation/manifest.json",
        ("squeeze", "rank", "recover", "relabel"),
        evaluate.inputs,
        evaluate.run,
    ),
    Stage(
        "report",
        "report/manifest.json",
        ("squeeze", "recover", "evaluate"),
        report.inputs,
        report.run,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


def chosen(names: Sequence[str], recipe: Recipe, workdir: WorkDir) -> tuple[Stage, ...]:
    """The named stages in pipeline order; all if none is named.

    Raises:
      UserError: for an unknown name, or a stage whose needs are neither there nor named.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"There is no stage {name!r}{nearest(name, list(NAMES))} --stages takes some of "
                f"{','.join(NAMES)}."
            )
    stages = tuple(s for s in STAGES if not names or s.name in names)
    manifests = {s.name: s.manifest for s in STAGES}
    coming = {s.name for s in stages}
    # Of the sets that students train on, only this one is chosen by the ranking.
    ranked = "selected" in recipe.evaluate.images
    for stage in stages:
        for need in stage.needs:
            if (stage.name, need) == ("evaluate", "rank") and not ranked:
                continue
            if need not in coming and workdir.manifest(manifests[need]) is None:
                raise UserError(
                    f"The {stage.name} stage needs what {need} makes, and {workdir.path} has no "
                    f"{manifests[need]}; add {need} to --stages."
                )
    return stages


def check(recipe: Recipe, source: Source) -> None:
    """Checks the recipe against the data before anything runs.

    Raises:
      UserError: naming what cannot work.
    """
    weights = recipe.teacher.weights
    if weights and not weights.startswith(torch_files.HUB) and not Path(weights).exists():
        raise UserError(
            f"teacher.weights {weights} does not exist; name a teacher's folder, a file of "
            f"weights, or hf:owner/name."
        )
    squeeze.check_head_classes(recipe, source)
    squeeze.check_others(recipe, source)
    labelling.described(recipe.relabel.teachers, source)
    check_class_sizes(source.train.labels, recipe.ipc, source.class_names)
    if len(source.test) == 0:
        raise UserError(f"{source.name} has no test images, so nothing could be scored.")
    initial_images.check(recipe, source)
    recover.schedule_of(recipe, len(source.class_names))
    squeeze.check_norm(squeeze.spec_of(recipe, source))
    _check_students(recipe, source)


def _check_students(recipe: Recipe, source: Source) -> None:
    """Raises a UserError for a student that takes no such images or batches."""
    for name in recipe.evaluate.students:
        models.create(rows.student_spec(recipe, name, source))
    for row in rows.rows_of(recipe, recipe.ipc):
        num_images = len(source.class_names) * row.ipc
        batch = rows.resolve(recipe, source, row).batch_size
        if num_images > batch and num_images % batch == 1:
            raise UserError(
                f"Batches of {batch} leave a last one of a single image of the {num_images}, on "
                f"which BatchNorm cannot train; set evaluate.batch_size to {batch - 1} or "
                f"{batch + 1}."
            )


def check_imported(names: Sequence[str], recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Checks a set that was brought into the work directory against recipe and data.

    Raises:
      UserError: if the chosen stages would replace it, or it does not fit.
    """
    manifest = workdir.manifest("distilled/manifest.json")
    if manifest is None or "imported" not in manifest:
        return
    folder = workdir.path / "distilled"
    if not names or "recover" in names:
        raise UserError(
            f"{folder} was imported and the recover stage would replace it; name other stages, "
            f"such as --stages=squeeze,relabel,evaluate,report, or choose another --workdir."
        )
    shape = (manifest["image_size"], manifest["channels"])
    if shape != (source.image_size, source.channels):
        raise UserError(
            f"The images in {folder} are {shape[0]} px of {shape[1]} channels, but the data are "
            f"{source.image_size} px of {source.channels}; set data.image_size and data.channels."
        )
    if manifest["ipc"] != recipe.ipc:
        raise UserError(
            f"{folder} has {manifest['ipc']} images per class, but ipc is {recipe.ipc}; add "
            f"--config.ipc={manifest['ipc']}."
        )
    class_names = tuple(manifest["class_names"])
    numbers = tuple(map(str, range(len(source.class_names))))
    if class_names == numbers != source.class_names:
        raise UserError(
            f"The classes in {folder} are only numbered; import it again with --class_names=FILE, "
            f"which lists their names in the order of its labels, one a line."
        )
    teacher_lib.check_class_names("The distilled set", class_names, source)


def status(stage: Stage, recipe: Recipe, source: Source, workdir: WorkDir) -> tuple[bool, str]:
    """Whether a stage must run, and why, as a phrase for the user."""
    manifest = workdir.manifest(stage.manifest)
    if manifest is None:
        return True, "not done yet"
    differ = changes(manifest.get("inputs", {}), stage.inputs(recipe, source, workdir))
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        return True, f"redone because {'; '.join(differ[:3])}{more}"
    if stage.name == "recover" and not distilled.is_whole(workdir.path / "distilled", manifest):
        return True, "redone because images are missing"
    gone = squeeze.missing(workdir) if stage.name == "squeeze" else None
    if gone:
        return True, f"redone because {gone} is missing"
    return False, "done, nothing changed"


def run(recipe: Recipe, source: Source, workdir: WorkDir, names: Sequence[str] = ()) -> None:
    """Runs the chosen stages, each only if its artefact is missing or out of date."""
    for stage in chosen(names, recipe, workdir):
        needed, why = status(stage, recipe, source, workdir)
        say(f"{stage.name}: {why}")
        if needed:
            stage.run(recipe, source, workdir)


def assist(recipe: Recipe, source: Source, workdir: WorkDir, names: Sequence[str] = ()) -> None:
    """Runs this process's share of recover, once that can start; not for the first process.

    The first process alone runs the other stages.
    """
    who = f"process {hosts.index()} of {hosts.count()}"
    for stage in chosen(names, recipe, workdir):
        if stage.name == "recover":
            say(f"{who}: takes part in recover")
            recover.assist(recipe, source, workdir)
            return

        def is_done(stage=stage):
            return not status(stage, recipe, source, workdir)[0]

        hosts.wait_until(is_done)
    say(f"{who}: nothing to do, as only recover is shared")
