"""Reuses teachers, rankings, experts, sets and cached data of another work directory."""

import shutil
from collections.abc import Sequence
from typing import Any

from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe
from delt_jax.stages import pipeline, squeeze
from delt_jax.store import artefact, files
from delt_jax.store.workdir import WorkDir, changes

_REUSED = ("rank", "recover", "experts", "learn")  # stages, in their order


def link_finished(
    recipe: Recipe, source: Source, workdir: WorkDir, others: Sequence[WorkDir]
) -> None:
    """Links into a work directory what others made from the very inputs that it would use.

    The files get a second name (a hard link): nothing is stored twice, and either folder stays
    whole if the other is deleted. Manifests come along and say how the files were made. Each of
    several teachers comes from wherever it is; the squeeze stage makes the missing ones.

    Args:
      recipe, source: of the work directory.
      workdir: not open elsewhere.
      others: where to look, first choice first.

    Raises:
      UserError: if the folder is foreign, not writable, or in use by another process.
    """
    workdir.open(recipe, logs=False)
    try:
        for other in others:
            _reuse_decoded(source, workdir, other)
        teachers = squeeze.parts(recipe, source) if recipe.needs_teacher else {}
        for folder, inputs in teachers.items():
            ours = squeeze.is_made(workdir, folder, inputs)
            if not (ours and _is_intact(workdir, f"{folder}/manifest.json")):
                _reuse_teacher(recipe, source, workdir, others, folder)
        for name in _REUSED:
            _reuse_stage(name, recipe, source, workdir, others)
    finally:
        workdir.close()


def _reuse_teacher(
    recipe: Recipe, source: Source, workdir: WorkDir, others: Sequence[WorkDir], folder: str
) -> None:
    """Links one teacher; the first teacher preferably with a list of the same other teachers."""
    inputs = squeeze.parts(recipe, source)[folder]
    having = [
        other
        for other in others
        if squeeze.is_made(other, folder, inputs) and _is_intact(other, f"{folder}/manifest.json")
    ]
    if not having:
        return
    first = folder == squeeze.ARTEFACT
    wanted = squeeze.inputs(recipe, source, workdir) if first else inputs
    equal = (o for o in having if _is_made_from(o, f"{folder}/manifest.json", wanted))
    origin = next(equal, having[0])
    with files.disk_errors_as_user_errors(workdir.path / folder):
        (workdir.path / folder).parent.mkdir(exist_ok=True)
    _link(workdir, origin, folder)
    shutil.rmtree(workdir.path / f"{folder}.partial", ignore_errors=True)
    what = "" if first else f"{folder} "
    say(f"squeeze: {what}taken from {origin.path.name}, made from the same inputs")


def _reuse_stage(
    name: str, recipe: Recipe, source: Source, workdir: WorkDir, others: Sequence[WorkDir]
) -> None:
    """Links what a stage makes, if what it needs is there already."""
    stage = next(stage for stage in pipeline.STAGES if stage.name == name)
    if stage.skipped(recipe):
        return
    try:
        wanted = stage.inputs(recipe, source, workdir)
        if not pipeline.status(stage, recipe, source, workdir)[0]:
            return
    except UserError:  # a stage before it has still to run
        return
    having = (o for o in others if _is_made_from(o, stage.manifest, wanted))
    origin = next((o for o in having if _is_intact(o, stage.manifest)), None)
    if origin is not None:
        for part in stage.owns:
            _link(workdir, origin, part)
            shutil.rmtree(workdir.path / f"{part}.partial", ignore_errors=True)
        say(f"{name}: taken from {origin.path.name}, made from the same inputs")


def _is_made_from(workdir: WorkDir, manifest: str, inputs: dict[str, Any]) -> bool:
    """Whether an artefact is there and was made from these inputs."""
    found = _inputs(workdir, manifest)
    return found is not None and not changes(found, inputs)


def _is_intact(workdir: WorkDir, name: str) -> bool:
    """Whether all files of an artefact have the content that was written, as far as is known."""
    manifest = workdir.manifest(name)
    return manifest is not None and not artefact.damage(workdir.path / name, manifest, True)


def _inputs(workdir: WorkDir, manifest: str) -> dict[str, Any] | None:
    """Inputs of an artefact; None if it is not there."""
    found = workdir.manifest(manifest)
    return found["inputs"] if found else None


def _link(workdir: WorkDir, origin: WorkDir, name: str) -> None:
    """Gives a file, or the files of a folder, a second name in `workdir`."""
    theirs, ours = origin.path / name, workdir.path / name
    if theirs.is_file():
        files.link(theirs, ours)
        return
    with files.replacing_folder(ours) as folder:
        for file in sorted(theirs.rglob("*")):
            place = folder / file.relative_to(theirs)
            if file.is_dir():
                place.mkdir()
            else:
                files.link(file, place)


def _reuse_decoded(source: Source, workdir: WorkDir, other: WorkDir) -> None:
    """Links the cache of the same data; its files are named by their content."""
    inputs = _inputs(other, "teacher/manifest.json")
    if not inputs or inputs.get("data") != source.fingerprint:
        return
    theirs, ours = other.path / "cache", workdir.path / "cache"
    for file in theirs.iterdir() if theirs.is_dir() else ():
        if not file.name.startswith(".") and not (ours / file.name).exists():
            with files.disk_errors_as_user_errors(ours):
                ours.mkdir(exist_ok=True)
            files.link(file, ours / file.name)
