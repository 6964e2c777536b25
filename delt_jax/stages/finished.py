"""What a work directory has of a run's settings: the stages that need not run."""

from typing import Any

from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe
from delt_jax.stages import pipeline
from delt_jax.stages.pipeline import Stage
from delt_jax.store.workdir import WorkDir


def done(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, dict[str, Any]]:
    """Manifests of the stages that need not run, by name, up to the first one that must.

    An imported set counts as that of the stage that would have made it.
    """
    manifests = {}
    imported = pipeline.is_imported(workdir)
    for stage in pipeline.of_recipe(recipe):
        if stage.skipped(recipe) or (imported and _serves_the_maker(stage, recipe)):
            continue
        try:
            must_run = _must_run(stage, recipe, source, workdir, imported)
        except UserError:  # it reads what is missing or damaged
            break
        if must_run:  # later stages cannot be judged before this one has run
            break
        manifest = workdir.manifest(stage.manifest)
        if manifest is not None:
            manifests[stage.name] = manifest
    return manifests


def _serves_the_maker(stage: Stage, recipe: Recipe) -> bool:
    """Whether only the stage that makes a set would read what this one makes."""
    ranks = stage.name == "rank" and "selected" not in recipe.evaluate.images
    return ranks or stage.name == "experts"


def _must_run(
    stage: Stage, recipe: Recipe, source: Source, workdir: WorkDir, imported: bool
) -> bool:
    if imported and stage.name in pipeline.MAKERS:
        return bool(pipeline.damage(stage, workdir, contents=False))
    return pipeline.status(stage, recipe, source, workdir)[0]
