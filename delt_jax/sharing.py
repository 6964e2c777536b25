"""What several work directories have in common: teachers, rankings and decoded data, made once."""

import shutil
from collections.abc import Sequence

from delt_jax import pipeline
from delt_jax.data import Source
from delt_jax.progress import say
from delt_jax.recipe import Recipe
from delt_jax.store import files, ranking
from delt_jax.store.workdir import WorkDir, as_json

_SHARED = {"squeeze": ("teacher",), "rank": (ranking.TABLE, ranking.MANIFEST)}  # by stage


def adopt(recipe: Recipe, source: Source, workdir: WorkDir, others: Sequence[WorkDir]) -> None:
    """Brings into a work directory what others made from the very inputs that it would use.

    Their files get a second name, so nothing is stored twice and either folder stays whole without
    the other; manifests come along and say how they were made.

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
        for stage in pipeline.STAGES:
            if stage.name not in _SHARED or not pipeline.status(stage, recipe, source, workdir)[0]:
                continue
            wanted = as_json(stage.inputs(recipe, source, workdir))
            lender = next((o for o in others if _inputs(o, stage.manifest) == wanted), None)
            if lender is None:
                return  # later stages start from this one's result
            for name in _SHARED[stage.name]:
                _link(workdir, lender, name)
            shutil.rmtree(workdir.path / f"{_SHARED[stage.name][0]}.partial", ignore_errors=True)
            say(f"{stage.name}: taken from {lender.path.name}, made from the same inputs")
    finally:
        workdir.close()


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
            with files.explained(ours):
                ours.mkdir(exist_ok=True)
            files.link(file, ours / file.name)
