"""Trains the students of a row of the table, as far as their scores are missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delt_jax.data import Source
from delt_jax.evaluation import kept_students
from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.rows import EvalRow, resolve, student_spec
from delt_jax.evaluation.score_store import PlannedScore, ScoreStore, make_score
from delt_jax.evaluation.training_sets import TrainingSets
from delt_jax.labels.label_store import LabelStore
from delt_jax.recipe import Recipe
from delt_jax.store.identity import identity, versions
from delt_jax.store.log import MetricsLog
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import student_loop
from delt_jax.training.student_loop import Saving, Student, StudentTask
from delt_jax.training.student_step import PLAIN, StudentProgram


@dataclass(frozen=True)
class Evaluation:
    """What all rows of an evaluation share.

    Attributes:
      recipe: settings of the run.
      source: the real images.
      teachers: those that label; the first is the run's own.
      sets: the sets that students train on.
      labels: stored labels of views, or None where no regime needs them.
      scores: finished scores.
      log: gets a line per score.
      partial: existing folder of unfinished students, and of finished ones that are to be kept.
      inputs: what the evaluation is made from; goes into the manifests of kept students.
      keep_students: whether finished students are kept.
    """

    recipe: Recipe
    source: Source
    teachers: tuple[Teacher, ...]
    sets: TrainingSets
    labels: LabelStore | None
    scores: ScoreStore
    log: MetricsLog
    partial: Path
    inputs: dict[str, Any]
    keep_students: bool


def score_row(
    run: Evaluation,
    row: EvalRow,
    on_epochs: Callable[..., None],
) -> list[Score]:
    """The scores of a row of small sets: those that are there, and those that are trained now.

    Args:
      run: what the rows share.
      row: of any set but all real images.
      on_epochs: told how many epochs of students are done, with figures to show as keywords.
    """
    planned = plan_scores(run, row)
    missing = [one for one in planned if not _is_finished(run, one)]
    epochs = resolve(run.recipe, run.source, row).epochs
    on_epochs(epochs * (len(planned) - len(missing)))
    if missing:
        _train(run, missing, len(planned), on_epochs)
    scores = [run.scores.read(one) for one in planned]
    for score in scores:
        run.log.write("evaluate", epochs, **score.as_dict())
    return scores


def plan_scores(run: Evaluation, row: EvalRow) -> list[PlannedScore]:
    """What a row asks for: every seed at every learning rate."""
    e = run.recipe.evaluate
    rates = e.learning_rates or (resolve(run.recipe, run.source, row).learning_rate,)
    return [_plan(run, row, seed, rate) for rate in rates for seed in range(e.seeds)]


def _plan(run: Evaluation, row: EvalRow, seed: int, rate: float) -> PlannedScore:
    recipe = run.recipe
    data = run.sets.get(row.image_set, row.ipc, seed)
    program = student_program(run, row, len(data.images.labels))
    # Devices share BatchNorm's statistics only where several share a batch.
    norm = recipe.evaluate.batch_norm if recipe.evaluate.devices_per_student > 1 else "own"
    # These names and values are hashed into ids on disk, so they must not change.
    depends_on = {
        "course": replace(program, devices=1).as_dict(),
        "rate": rate,
        "seeds": (recipe.seed, seed),
        "data": data.hash,
        "teachers": [teacher.hash for teacher in run.teachers],
        "test": run.source.fingerprint,
        "devices": (recipe.evaluate.devices_per_student, norm),
    }
    return PlannedScore(
        identity(depends_on | versions(program.versions())),
        row,
        seed,
        rate,
        resolve(recipe, run.source, row, rate).text(),
    )


def student_program(run: Evaluation, row: EvalRow, num_images: int) -> StudentProgram:
    """What is compiled for the students of a row, on a set of `num_images`."""
    e = run.recipe.evaluate
    protocol = resolve(run.recipe, run.source, row)
    plan = run.labels.plan if run.labels is not None and row.regime == "stored" else None
    # Stored labels belong to the whole recovered set; teachers label the views of other sets.
    is_stored = row.image_set == "recovered" and row.ipc == run.sets.ipc
    teachers_label = row.regime == "online" or (row.regime == "stored" and not is_stored)
    if plan is not None:
        protocol = replace(protocol, views=plan.views, temperature=plan.temperature)
    if row.regime == "plain":
        protocol = replace(protocol, views=PLAIN)
    return StudentProgram(
        student=student_spec(run.recipe, row.student, run.source),
        teachers=tuple(teacher.spec for teacher in run.teachers) if teachers_label else (),
        protocol=replace(protocol, learning_rate=1.0),  # students scale it, see `StudentInputs`
        regime=row.regime,
        normalisation=run.teachers[0].normalisation,
        teacher_normalisations=tuple(teacher.normalisation for teacher in run.teachers),
        count=num_images,
        group_size=plan.group_size if plan is not None else protocol.batch_size,
        plan=plan,
        devices=e.devices_per_student,
        shared_norm=e.batch_norm == "shared",
    )


def _is_finished(run: Evaluation, planned: PlannedScore) -> bool:
    has_weights = not run.keep_students or kept_students.is_kept(
        _weights_folder(run, planned), planned
    )
    return has_weights and planned in run.scores


def _train(
    run: Evaluation,
    missing: Sequence[PlannedScore],
    num_students: int,
    on_epochs: Callable[..., None],
) -> None:
    """Trains the missing students of a row of `num_students`, and stores their scores."""
    e, row = run.recipe.evaluate, missing[0].row
    images = [run.sets.get(row.image_set, row.ipc, one.seed).images for one in missing]
    own_images = run.sets.is_drawn_per_student(row.image_set)
    program = student_program(run, row, len(images[0].labels))
    student_loop.check(program)
    task = StudentTask(
        program,
        tuple(teacher.variables for teacher in run.teachers) if program.teachers else (),
        None if own_images else images[0],
        run.labels.read if run.labels is not None and _reads_labels(program) else None,
        run.source.test,
    )
    students = [
        Student(
            one.id,
            (run.recipe.seed, one.seed),
            one.learning_rate,
            own if own_images else None,
        )
        for one, own in zip(missing, images, strict=True)
    ]
    label = f"{row.student} {row.regime} {row.image_set}"
    results = student_loop.train(
        task,
        students,
        student_loop.resolve_students_per_device(program, e.seeds_at_once, num_students),
        Saving(run.partial, 60 * e.save_minutes),
        lambda epochs, loss: on_epochs(epochs, training=label, loss=loss),
    )
    for one, student, trained in zip(missing, students, results, strict=True):
        score = make_score(one, trained, run.source)
        if run.keep_students:
            network = Teacher(
                program.student,
                trained.variables,
                run.teachers[0].normalisation,
                run.source.class_names,
                score.last,
            )
            kept_students.save(_weights_folder(run, one), network, run.inputs, score)
        run.scores.write(score)
        student_loop.delete(run.partial, student)


def _reads_labels(program: StudentProgram) -> bool:
    """Whether labels come from the store, and not from teachers in its place."""
    return program.plan is not None and not program.teachers


def _weights_folder(run: Evaluation, planned: PlannedScore) -> Path:
    several_rates = len(run.recipe.evaluate.learning_rates) > 1
    return run.partial / kept_students.folder_of(planned, run.sets.ipc, several_rates)
