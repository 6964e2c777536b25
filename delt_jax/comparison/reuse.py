"""What several work directories have in common: teachers, rankings and decoded data, made once."""

import shutil
from collections.abc import Sequence
from typing import Any

from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.recipe import Recipe
from delt_jax.recovery import ranking
from delt_jax.stages import pipeline, squeeze
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir, changes


def adopt(recipe: Recipe, source: Source, workdir: WorkDir, others: Sequence[WorkDir]) -> None:
    """Brings into a work directory what others made from the very inputs that it would use.

    Their files get a second name, so nothing is stored twice and either folder stays whole without
    the other; manifests come along and say how they were made. Of several teachers each is taken
    from wherever it is; where not all of them are, the squeeze stage makes the rest.

    Args:
      recipe, source: of the work directory.
      workdir: not open elsewhere.
      others: where to look, first choice first.

    Raises:
      UserError: if the folder is foreign, not writable, or in use by another process.
    """
    workdir.open(recipe)
    try:
        for other in others:
            _adopt_decoded(source, workdir, other)
        for folder, made_from in squeeze.parts(recipe, source).items():
            _adopt_teacher(recipe, source, workdir, others, folder, made_from)
        _adopt_ranking(recipe, source, workdir, others)
    finally:
        workdir.close()


def _adopt_teacher(
    recipe: Recipe,
    source: Source,
    workdir: WorkDir,
    others: Sequence[WorkDir],
    folder: str,
    made_from: dict[str, Any],
) -> None:
    """One teacher, unless it is there; the first one rather with the list of the same others."""
    if squeeze.is_made(workdir, folder, made_from):
        return
    lenders = [other for other in others if squeeze.is_made(other, folder, made_from)]
    if not lenders:
        return
    first = folder == squeeze.ARTEFACT
    wanted = squeeze.inputs(recipe, source, workdir) if first else made_from
    alike = (o for o in lenders if _is_made_from(o, f"{folder}/manifest.json", wanted))
    lender = next(alike, lenders[0])
    with files.disk_errors_as_user_errors(workdir.path / folder):
        (workdir.path / folder).parent.mkdir(exist_ok=True)
    _link(workdir, lender, folder)
    shutil.rmtree(workdir.path / f"{folder}.partial", ignore_errors=True)
    what = "" if first else f"{folder} "
    say(f"squeeze: {what}taken from {lender.path.name}, made from the same inputs")


def _adopt_ranking(
    recipe: Recipe, source: Source, workdir: WorkDir, others: Sequence[WorkDir]
) -> None:
    """The ranking by the first teacher, once that is there."""
    stage = next(stage for stage in pipeline.STAGES if stage.name == "rank")
    made_from = squeeze.parts(recipe, source)[squeeze.ARTEFACT]
    if not squeeze.is_made(workdir, squeeze.ARTEFACT, made_from):
        return
    if not pipeline.status(stage, recipe, source, workdir)[0]:
        return
    wanted = stage.inputs(recipe, source, workdir)
    lender = next((o for o in others if _is_made_from(o, stage.manifest, wanted)), None)
    if lender is not None:
        for name in (ranking.TABLE, ranking.MANIFEST):
            _link(workdir, lender, name)
        say(f"rank: taken from {lender.path.name}, made from the same inputs")


def _is_made_from(workdir: WorkDir, manifest: str, inputs: dict[str, Any]) -> bool:
    """Whether an artefact is there and was made from these inputs."""
    found = _inputs(workdir, manifest)
    return found is not None and not changes(found, inputs)


def _inputs(workdir: WorkDir, manifest: str) -> dict | None:
    """What an artefact was made from; None where there is none."""
    found = workdir.manifest(manifest)
    return found["inputs"] if found else None


def _link(workdir: WorkDir, lender: WorkDir, name: str) -> None:
    theirs, ours = lender.path / name, workdir.path / name
    if theirs.is_file():
        files.link(theirs, ours)
        return
    with files.replacing_folder(ours) as folder:
        for file in theirs.iterdir():
            files.link(file, folder / file.name)


def _adopt_decoded(source: Source, workdir: WorkDir, other: WorkDir) -> None:
    """Files of the same data's cache, which are named after what they hold."""
    made_from = _inputs(other, "teacher/manifest.json")
    if not made_from or made_from.get("data") != source.fingerprint:
        return
    theirs, ours = other.path / "cache", workdir.path / "cache"
    for file in theirs.iterdir() if theirs.is_dir() else ():
        if not file.name.startswith(".") and not (ours / file.name).exists():
            with files.disk_errors_as_user_errors(ours):
                ours.mkdir(exist_ok=True)
            files.link(file, ours / file.name)
