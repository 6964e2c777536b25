"""Stage 5, evaluate: students trained from scratch, scored on the real test set.

Students on small sets are trained by `delt_jax.evaluation.student_jobs`, the ceiling on all real
images by `delt_jax.evaluation.real_ceiling`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delt_jax import models
from delt_jax.core.progress import progress, say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation import (
    coresets,
    execution,
    failed_training,
    kept_students,
    score_store,
    training_sets,
)
from delt_jax.evaluation.execution import EvaluationPlan
from delt_jax.evaluation.metrics import Score, aggregate
from delt_jax.evaluation.real_ceiling import score_ceiling, training_settings
from delt_jax.evaluation.rows import at_rate, learned_rate, resolve, rows_of
from delt_jax.evaluation.score_store import ScoreStore
from delt_jax.evaluation.student_jobs import Evaluation, Jobs
from delt_jax.evaluation.training_sets import TrainingSets
from delt_jax.labels import label_store, labelling, soft_labels
from delt_jax.recipe import Recipe, affecting
from delt_jax.recovery import ranking as ranking_store
from delt_jax.recovery import selection
from delt_jax.runtime import environment
from delt_jax.runtime import processes as hosts
from delt_jax.store import artefact, files
from delt_jax.store.identity import identity, versions
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import state, student_program

ARTEFACT = "evaluation"
MANIFEST = f"{ARTEFACT}/manifest.json"
SCORES = "scores"  # folder of finished scores


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the scores; keep_students counts only while weights are missing.

    So the stage runs again to make missing weights, but never to remove them. A rate that the set
    has learned counts as if it had been asked for.
    """
    stage_inputs = _score_inputs(_at_learned_rate(recipe, workdir), source, workdir)
    students = workdir.path / ARTEFACT / kept_students.FOLDER
    if recipe.evaluate.keep_students and not students.is_dir():
        stage_inputs["evaluate.keep_students"] = True
    return stage_inputs


def _score_inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Settings and hashes that the scores depend on."""
    settings = affecting("scores", recipe, "evaluate") | affecting("scores", recipe, "relabel")
    del settings["relabel.ensemble"]  # the hashes of its teachers count
    if recipe.needs_teacher:
        settings |= labelling.ensemble_inputs(recipe, workdir)
        settings["soft_labels"] = workdir.needed("soft_labels/manifest.json", "relabel")["hash"]
    else:  # whose normalisation would be the students'
        settings |= {"data.mean": recipe.data.mean, "data.std": recipe.data.std}
    if "selected" in recipe.evaluate.images:
        settings["ranking"] = workdir.needed(ranking_store.MANIFEST, "rank")["hash"]
    if "full" in recipe.evaluate.images:
        settings |= training_settings(recipe)
        settings |= {"data.mean": recipe.data.mean, "data.std": recipe.data.std}
    settings |= versions(_parts(recipe, source, workdir))
    return settings | {
        "seed": recipe.seed,
        "select.rule": recipe.select.rule,
        "data": source.fingerprint,
        "data.flip": recipe.data.flip,
        "class_names": source.class_names,
        "distilled": workdir.needed("distilled/manifest.json", "recover")["hash"],
    }


def _at_learned_rate(recipe: Recipe, workdir: WorkDir) -> Recipe:
    """The recipe with the rate that the set has learned for its students, where MTT's do take it.

    Real images beside it are learned at the same rate.

    Raises:
      UserError: if nobody learns at that rate.
    """
    manifest = workdir.needed("distilled/manifest.json", "recover")
    rate = learned_rate(recipe, manifest.get("extra", {}))
    if rate is not None and rate <= 0:
        raise UserError(
            f"The set has learned a rate of {rate:g} for its students, at which nobody learns; "
            f"lower learn.image_rate or the option rate_rate, or give evaluate.learning_rates."
        )
    return at_rate(recipe, rate)


def _parts(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, int]:
    """Versions of the named parts that make sets, labels and students."""
    parts = {}
    if recipe.needs_teacher:
        teachers = [workdir.needed("teacher/manifest.json", "squeeze")]
        if recipe.relabel.ensemble:
            teachers += teacher_lib.manifests_of_others(workdir.path / "teacher")
        parts = teacher_lib.parts(teachers)
    parts |= {f"model.{name}": models.version(name) for name in recipe.evaluate.students}
    if "selected" in recipe.evaluate.images:
        parts |= selection.parts(recipe.select.rule)
    for row in rows_of(recipe, recipe.ipc):
        if row.image_set == "full":
            parts["training.teacher"] = state.VERSION
            continue
        parts |= student_program.parts(resolve(recipe, source, row), row.regime)
        if row.image_set in training_sets.CORESETS:
            parts[f"coreset.{row.image_set}"] = coresets.VERSION
    return parts


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/evaluation.

    Finished scores are in WORKDIR/scores, or in `evaluate.scores_folder`, under the hash of all
    that they depend on; so a run finds baselines again that another run has trained. Unfinished
    students are in evaluation.partial. Every process of a job trains its share of the students;
    process 0 does the rest.
    """
    recipe = _at_learned_rate(recipe, workdir)
    r = recipe.relabel
    teachers: tuple[Teacher, ...] = ()
    if recipe.needs_teacher:
        teachers = labelling.load_teachers(
            workdir.path / "teacher", r.teachers, source, say, r.ensemble
        )
    evaluation = _open(recipe, source, workdir, teachers)
    scores = _score_rows(evaluation)
    if not hosts.is_first():
        return
    workdir.refresh()
    _write(evaluation, workdir, scores)
    files.delete_folder(evaluation.partial)
    rows = aggregate(scores)
    for row in rows:
        say(f"  {row.student}, {row.regime}, {row.image_set} {row.ipc or 'all'}: {row.text()}")
    failed_training.told(failed_training.of_students(teachers, rows, source))


def _open(
    recipe: Recipe, source: Source, workdir: WorkDir, teachers: tuple[Teacher, ...]
) -> Evaluation:
    stage_inputs = _score_inputs(recipe, source, workdir)
    sets = TrainingSets(recipe, source, workdir, teachers)
    labels = None
    if "stored" in recipe.evaluate.regimes:
        folder = workdir.path / soft_labels.FOLDER
        distilled_hash = sets.distilled.manifest["hash"]
        labels = label_store.open_store(folder, distilled_hash, source.class_names)
    begun = _begin(recipe, workdir, stage_inputs) if hosts.is_first() else None
    keep, plan = hosts.broadcast(begun)
    space = sets.distilled.preprocessing
    if keep and space is not None and not space.is_standardising:
        raise UserError(
            f"evaluate.keep_students cannot keep students of a set whose images are in the space "
            f"{space.kind!r}: a teacher's folder has no place for what their images must go "
            f"through; turn it off."
        )
    return Evaluation(
        recipe,
        source,
        teachers,
        sets,
        labels,
        ScoreStore(Path(recipe.evaluate.scores_folder or workdir.path / SCORES)),
        workdir.log,
        workdir.path / f"{ARTEFACT}.partial",
        stage_inputs,
        keep,
        EvaluationPlan(**plan),
    )


def _begin(
    recipe: Recipe, workdir: WorkDir, stage_inputs: dict[str, Any]
) -> tuple[bool, dict[str, Any]]:
    """Whether students are kept, and the plan; takes over what is intact of before."""
    partial = workdir.partial(ARTEFACT, stage_inputs)
    keep = recipe.evaluate.keep_students
    # Students that an earlier command asked for stay where this one makes their evaluation again.
    keep |= kept_students.take_over(workdir.path / ARTEFACT, partial, stage_inputs)
    manifest = workdir.manifest(MANIFEST)
    if manifest is not None and not changes(manifest["inputs"], stage_inputs):
        keep |= (workdir.path / ARTEFACT / kept_students.FOLDER).is_dir()
        scores = ScoreStore(Path(recipe.evaluate.scores_folder or workdir.path / SCORES))
        _restore_scores(workdir, manifest, scores)
    plan = execution.resolve(partial)
    execution.write(partial, plan)
    return keep, asdict(plan)


def _restore_scores(workdir: WorkDir, manifest: dict[str, Any], store: ScoreStore) -> None:
    """Writes scores that are missing or damaged, from a list of them that is whole."""
    if artefact.is_intact(workdir.path / ARTEFACT, score_store.LIST, manifest):
        for score in score_store.read_list(workdir):
            if not store.holds(score):
                store.write(score)


def _score_rows(run: Evaluation) -> list[Score]:
    """All scores of a run: the rows of small sets in order, then those of all real images."""
    rows = rows_of(run.recipe, run.sets.ipc, run.sets.distilled.copies)
    with hosts.first_alone("the sets that its students learn from"):
        jobs = Jobs(run, [row for row in rows if row.image_set != "full"])
    say(f"  training {run.recipe.evaluate.seeds} student(s) for each of {len(rows)} rows")
    with progress(jobs.epochs, "evaluate", "epoch") as bar:
        scores = jobs.scores(bar.update)
    full = [row for row in rows if row.image_set == "full"] if hosts.is_first() else []
    return scores + [score_ceiling(run, row) for row in full]


def _write(run: Evaluation, workdir: WorkDir, scores: Sequence[Score]) -> None:
    """Writes the finished evaluation, with the weights of students where they are kept."""
    rows = aggregate(scores)
    known = [{"hash": t.hash, "accuracy": t.accuracy} for t in run.teachers]
    first, more = known[:1], known[1:]
    manifest = {
        "inputs": run.inputs,
        "warnings": failed_training.of_students(run.teachers, rows, run.source),
        "command": workdir.command,
        "protocols": list(dict.fromkeys(row.protocol for row in rows)),
        **({"teacher": first[0]} if first else {}),
        **({"more_teachers": more} if more else {}),
        "distilled": run.inputs["distilled"],
        "execution": asdict(run.plan),
        "class_names": list(run.source.class_names),
        "test_images": len(run.source.test),
        "scored_on": run.source.scored,
        "rows": [row.as_dict() for row in rows],
        "hash": identity([score.outcome() for score in scores]),
        "repeatable": environment.repeats(),
        "seconds": round(sum(score.seconds for score in scores), 1),
    }
    with artefact.replacing(workdir.path / ARTEFACT) as folder:
        if (run.partial / kept_students.FOLDER).is_dir():
            shutil.copytree(run.partial / kept_students.FOLDER, folder / kept_students.FOLDER)
        files.write_json(folder / score_store.LIST, [score.as_dict() for score in scores])
        parts = artefact.below(folder)
        if run.scores.folder == workdir.path / SCORES:  # else other runs may own them, too
            paths = {run.scores.path(score.id) for score in scores}
            parts |= {f"../{SCORES}/{path.name}": path for path in paths}
        artefact.seal(folder / "manifest.json", manifest, parts)
