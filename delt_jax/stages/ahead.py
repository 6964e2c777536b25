"""Programs that a run is sure to need, compiled in threads while the stages before still run."""

from collections.abc import Collection

from delt_jax.data import Normalisation, Source, measure_normalisation
from delt_jax.evaluation import execution as evaluation_execution
from delt_jax.evaluation import rows, student_programs
from delt_jax.evaluation.student_programs import Classroom
from delt_jax.labels import labelling
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run import ahead, execution
from delt_jax.recovery.run.outline import Outline
from delt_jax.runtime import processes as hosts
from delt_jax.runtime import programs
from delt_jax.stages import evaluate, recover, relabel, squeeze
from delt_jax.store.local_copies import local
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import ensemble, fine_tuning
from delt_jax.teachers import teacher as teacher_lib


def prepare(recipe: Recipe, source: Source, workdir: WorkDir, names: Collection[str]) -> None:
    """Begins to compile what recover and evaluate will call, if their results are not there yet.

    Args:
      recipe: complete.
      source: the data.
      workdir: of the run.
      names: of the stages to run.
    """
    if recipe.synthesis == "learn":  # its students begin after minutes at the least
        return
    if "recover" in names and workdir.manifest("distilled/manifest.json") is None:
        programs.in_background(lambda: _prepare_recovery(recipe, source, workdir))
    # Scores may be found again where several runs share them.
    is_shared = bool(recipe.evaluate.scores_folder)
    is_scored = "evaluate" in names and not rows.skipped(recipe)
    if is_scored and workdir.manifest(evaluate.MANIFEST) is None and not is_shared:
        room = _classroom(recipe, source)  # here, as it may write the data's mean into a cache
        programs.in_background(lambda: _prepare_students(room, workdir))


def _prepare_recovery(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    alone = [recipe, *(ensemble.recipes(recipe).values() if recipe.recover.round_robin else ())]
    outline = Outline(
        step_settings(recipe.recover, recipe.data.flip),
        tuple(squeeze.spec_of(one, source) for one in alone),
        recover.schedule_of(recipe, len(source.class_names)),
    )
    if not outline.settings.terms:  # whose constants are not known yet
        plan = execution.read(workdir.path / f"{recover.ARTEFACT}.partial")
        plan = plan or execution.choose(recipe.recover, outline)
        ahead.prepare(outline, plan, hosts.share(outline.in_device_order()))


def _classroom(recipe: Recipe, source: Source) -> Classroom:
    own = [recipe, *(ensemble.recipes(recipe).values() if recipe.relabel.ensemble else ())]
    teachers = [_described(one, source) for one in own]
    for teacher in labelling.described(recipe.relabel.teachers, source):
        teachers.append((teacher.spec, teacher.normalisation))
    specs, normalisations = zip(*teachers, strict=True)
    plan = relabel.plan_of(recipe, source)
    return Classroom(recipe, source, recipe.ipc, specs, normalisations, plan)


def _prepare_students(room: Classroom, workdir: WorkDir) -> None:
    recipe = room.recipe
    asked = [row for row in rows.rows_of(recipe, recipe.ipc) if row.image_set != "full"]
    partial = workdir.path / f"{evaluate.ARTEFACT}.partial"
    student_programs.prepare(room, asked, evaluation_execution.resolve(partial))


def _described(recipe: Recipe, source: Source) -> tuple[ModelSpec, Normalisation]:
    """Architecture of a teacher of the run and normalisation of its inputs, before it is made."""
    weights = local(recipe.teacher.weights)
    if recipe.teacher.fine_tune:
        return squeeze.spec_of(recipe, source), fine_tuning.normalisation_of(recipe, source)
    if recipe.teacher.weights and weights.is_dir():
        taken = teacher_lib.describe(weights)
        return taken.spec, taken.normalisation
    return squeeze.spec_of(recipe, source), measure_normalisation(recipe.data, source)
