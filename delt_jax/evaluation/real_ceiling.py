"""The ceiling: a network of the student's kind that trains on all real images, as teachers do."""

import time
from typing import Any

from delt_jax import models
from delt_jax.data import measure_normalisation
from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.rows import EvalRow, student_spec
from delt_jax.evaluation.score_store import PlannedScore, make_score
from delt_jax.evaluation.student_jobs import Evaluation, log_score
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.store.identity import identity, versions
from delt_jax.store.workdir import changes
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import real_images, state
from delt_jax.training.real_images import TrainingOutput
from delt_jax.training.student_loop import Trained

# Of `teacher`, what a training from scratch reads. Its own architecture and weights do not count.
_READ = (
    *("epochs", "batch_size", "learning_rate", "schedule", "weight_decay", "crop_padding"),
    "momentum",
)
_MEASURED = ("data.mean", "data.std")  # in the normalisation, whether set or measured
_PARTS = ("version of ", "source of ")


def score_ceiling(run: Evaluation, row: EvalRow) -> Score:
    """The score of all real images, found again or trained now.

    It is the teacher's own where the run trained the teacher and the student is of its kind.

    Args:
      run: what the rows share.
      row: of all real images.
    """
    t = run.recipe.teacher
    spec = student_spec(run.recipe, row.student, run.source)
    line = (
        f"full: {t.epochs} epochs, batch {t.batch_size}, SGD {t.learning_rate:g} "
        f"{t.schedule}, decay {t.weight_decay:g}"
    )
    planned = PlannedScore(score_id(run, spec), row, 0, t.learning_rate, line)
    if planned not in run.scores:
        trained = _train(run, spec, planned.id)
        run.scores.write(make_score(planned, trained, run.source))
    score = run.scores.read(planned)
    log_score(run.log, score, t.epochs)
    return score


def training_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that a training on all real images reads, by their dotted names."""
    return {f"teacher.{name}": getattr(recipe.teacher, name) for name in _READ}


def made_from(run: Evaluation, spec: ModelSpec) -> dict[str, Any]:
    """What a network depends on besides its architecture, as manifests of teachers name it."""
    data = run.recipe.data
    parts = {f"model.{spec.name}": models.version(spec.name), "training.teacher": state.VERSION}
    return (
        training_settings(run.recipe)
        | versions(parts)
        | {
            "data": run.source.fingerprint,
            "data.mean": data.mean,
            "data.std": data.std,
            "data.flip": data.flip,
            "seed": run.recipe.seed,
        }
    )


def score_id(run: Evaluation, spec: ModelSpec) -> str:
    """Identity of the ceiling of an architecture."""
    normalisation = measure_normalisation(run.recipe.data, run.source).as_dict()
    named = {"ceiling": spec.as_dict(), "normalisation": normalisation}
    read = {k: v for k, v in made_from(run, spec).items() if k not in _MEASURED}
    return identity(named | read)


def is_teacher(run: Evaluation, spec: ModelSpec) -> bool:
    """Whether the run's teacher is that network: of its kind, and trained here, as it would be."""
    t = run.recipe.teacher
    if not run.teachers or t.weights or spec != run.teachers[0].spec:
        return False
    wanted = made_from(run, spec)
    inputs = (run.sets.workdir.manifest("teacher/manifest.json") or {}).get("inputs", {})
    had = {k: v for k, v in inputs.items() if k in wanted or k.startswith(_PARTS)}
    return not changes(had, wanted)


def _train(run: Evaluation, spec: ModelSpec, name: str) -> Trained:
    started = time.perf_counter()
    if is_teacher(run, spec):
        variables = run.teachers[0].variables
    else:
        partial = run.partial / f"full_{name}"
        partial.mkdir(exist_ok=True)
        output = TrainingOutput("full", partial, run.log)
        variables, _ = real_images.train(run.recipe, run.source, spec, output)
    # An imported teacher may have another normalisation than the one that networks train with here.
    normalisation = measure_normalisation(run.recipe.data, run.source)
    model, test = models.create(spec), run.source.test
    logits = teacher_lib.logits_of_examples(model, variables, normalisation, test)
    accuracy = float((logits.argmax(-1) == test.labels).mean())
    history = [(run.recipe.teacher.epochs, accuracy)]
    return Trained(history, variables, logits, time.perf_counter() - started)
