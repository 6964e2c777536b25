"""Runs the stages in order over a work directory: skips what is done, redoes what changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from delt_jax.config import nearest
from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.recipe import Recipe
from delt_jax.recovery import ranking
from delt_jax.runtime import processes as hosts
from delt_jax.stages import evaluate, rank, recover, relabel, report, squeeze
from delt_jax.store.workdir import WorkDir, changes


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
