"""The students of an evaluation as one list of jobs, trained as far as their scores are missing.

Students of all rows that are compiled alike train side by side, on all devices of all hosts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from delt_jax.data import Source, measure_normalisation
from delt_jax.evaluation import execution, kept_students, student_programs
from delt_jax.evaluation.execution import EvaluationPlan
from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.rows import EvalRow, resolve, trainings
from delt_jax.evaluation.score_store import PlannedScore, ScoreStore, make_score
from delt_jax.evaluation.student_programs import Classroom
from delt_jax.evaluation.training_sets import TrainingSets
from delt_jax.labels.label_store import LabelStore
from delt_jax.recipe import Recipe
from delt_jax.runtime import processes as hosts
from delt_jax.store.identity import identity, versions
from delt_jax.store.log import MetricsLog
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import student_loop
from delt_jax.training.student_loop import Saving, Student, StudentTask, Trained
from delt_jax.training.student_program import StudentProgram

# What tells the curves of an evaluation apart.
_WHOSE = ("student", "regime", "images", "ipc", "learning_rate", "seed")


@dataclass(frozen=True)
class Evaluation:
    """What all rows of an evaluation share.

    Attributes:
      recipe: settings of the run.
      source: the real images.
      teachers: those that label; the first is the run's own. None where nothing asks for one.
      sets: the sets that students train on.
      labels: stored labels of views, or None where no regime needs them.
      scores: finished scores.
      log: gets a line per score.
      partial: existing folder of unfinished students, and of finished ones that are to be kept.
      inputs: what the evaluation is made from; goes into the manifests of kept students.
      keep_students: whether finished students are kept.
      plan: the devices that it was planned for.
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
    plan: EvaluationPlan


class _Training(NamedTuple):
    """A student to be trained.

    Attributes:
      program: what is compiled for it.
      planned: the scores that it gives, one in each row that asks for these images.
    """

    program: StudentProgram
    planned: tuple[PlannedScore, ...]


class Jobs:
    """The students of some rows, of any sets but all real images."""

    def __init__(self, run: Evaluation, rows: Sequence[EvalRow]):
        """Lists the students, each once: equal images have equal scores, whatever their names."""
        self._run = run
        programs, self._counts = student_programs.programs(_classroom(run), rows, run.plan)
        self._planned = {row: _plan_row(run, row, programs[row]) for row in rows}
        alike: dict[StudentProgram, dict[str, list[PlannedScore]]] = {}
        for row, planned in self._planned.items():
            for one in planned:
                alike.setdefault(programs[row], {}).setdefault(one.id, []).append(one)
        self._jobs = {
            program: [_Training(program, tuple(planned)) for planned in by_id.values()]
            for program, by_id in alike.items()
        }
        every = [job for jobs in self._jobs.values() for job in jobs]
        self._mine = hosts.share(every)

    @property
    def epochs(self) -> int:
        """Epochs of the students that this process trains, finished ones included."""
        return sum(job.program.protocol.epochs for job in self._mine)

    def scores(self, on_epochs: Callable[..., None]) -> list[Score]:
        """Trains the students that are missing, and reads the scores of all, row by row.

        Processes of a job train a share each; process 0 reads, the others return nothing.

        Args:
          on_epochs: told how many epochs of students are done, with figures to show as keywords.
        """
        for program in self._jobs:
            mine = [job for job in self._mine if job.program == program]
            missing = [job for job in mine if not _is_finished(self._run, job)]
            on_epochs(program.protocol.epochs * (len(mine) - len(missing)))
            if missing:
                _train(self._run, missing, self._counts[program], on_epochs)
        hosts.barrier("its students")
        run = self._run
        scores: list[Score] = []
        if not hosts.is_first():
            return scores
        run.scores.refresh()
        for row, planned in self._planned.items():
            epochs = resolve(run.recipe, run.source, row).epochs
            for one in planned:
                scores.append(run.scores.read(one))
                log_score(run.log, scores[-1], epochs)
        return scores


def _classroom(run: Evaluation) -> Classroom:
    space = run.sets.distilled.preprocessing
    own = None if run.teachers else measure_normalisation(run.recipe.data, run.source)
    return Classroom(
        run.recipe,
        run.source,
        run.sets.ipc,
        tuple(teacher.spec for teacher in run.teachers) if space is None else (),
        tuple(teacher.normalisation for teacher in run.teachers) if space is None else (),
        run.labels.plan if run.labels is not None else None,
        own if space is None else space.normalisation,
        "" if space is None else space.space,
    )


def _plan_row(run: Evaluation, row: EvalRow, program: StudentProgram) -> list[PlannedScore]:
    """What a row asks for: every seed at every learning rate."""
    recipe, planned = run.recipe, []
    # Devices share BatchNorm's statistics only where several share a batch.
    norm = recipe.evaluate.batch_norm if program.devices > 1 else "own"
    for rate, seed in trainings(recipe, run.source, row):
        # These names and values are hashed into ids on disk, so they must not change.
        depends_on = {
            "course": replace(program, devices=1).as_dict(),
            "rate": rate,
            "seeds": (recipe.seed, seed),
            "data": run.sets.get(row.image_set, row.ipc, seed).hash,
            "teachers": [teacher.hash for teacher in run.teachers],
            "test": run.source.fingerprint,
            "devices": (program.devices, norm),
        }
        score_id = identity(depends_on | versions(program.versions()))
        line = resolve(recipe, run.source, row, rate).text()
        planned.append(PlannedScore(score_id, row, seed, rate, line))
    return planned


def _is_finished(run: Evaluation, job: _Training) -> bool:
    has_weights = not run.keep_students or all(
        kept_students.is_kept(_weights_folder(run, one), one) for one in job.planned
    )
    return has_weights and job.planned[0] in run.scores


def _train(
    run: Evaluation, jobs: Sequence[_Training], num_students: int, on_epochs: Callable[..., None]
) -> None:
    """Trains students of one program, of which there are `num_students`; stores their scores."""
    e, program = run.recipe.evaluate, jobs[0].program
    student_loop.check(program)
    task = StudentTask(
        program,
        tuple(teacher.variables for teacher in run.teachers) if program.teachers else (),
        run.labels.read if run.labels is not None and _reads_labels(program) else None,
        run.source.test,
        run.sets.distilled.preprocessing,
    )
    students = []
    for job in jobs:
        one = job.planned[0]
        images = run.sets.get(one.row.image_set, one.row.ipc, one.seed).images
        students.append(Student(one.id, (run.recipe.seed, one.seed), one.learning_rate, images))
    sets = ",".join(dict.fromkeys(one.row.image_set for job in jobs for one in job.planned))
    label = f"{program.student.name} {program.regime} {sets}"
    results = student_loop.train(
        task,
        students,
        execution.students_per_device(run.plan, e, program, num_students),
        Saving(run.partial, 60 * e.save_minutes),
        lambda epochs, loss: on_epochs(epochs, training=label, loss=loss),
    )
    for position, trained in results:
        store(run, jobs[position], trained)
        student_loop.delete(run.partial, students[position])


def store(run: Evaluation, job: _Training, trained: Trained) -> None:
    """Stores the score of a student, and its weights where they are kept."""
    for one in job.planned if run.keep_students else ():
        score = make_score(one, trained, run.source)
        network = Teacher(
            job.program.student,
            trained.variables,
            job.program.normalisation,
            run.source.class_names,
            score.last,
        )
        kept_students.save(_weights_folder(run, one), network, run.inputs, score)
    score = make_score(job.planned[0], trained, run.source)
    run.scores.write(score)
    log_score(run.log, score, job.program.protocol.epochs)


def log_score(log: MetricsLog, score: Score, epochs: int) -> None:
    """Logs a student's curve and its score, once however often it is asked."""
    values = score.as_dict()
    whose = {name: values[name] for name in _WHOSE}
    for epoch, accuracy in score.history:
        log.write("evaluate", int(epoch), **whose, accuracy=accuracy)
    log.write("evaluate", epochs, **values)


def _reads_labels(program: StudentProgram) -> bool:
    """Whether labels come from the store, and not from teachers in its place."""
    return program.plan is not None and not program.teachers


def _weights_folder(run: Evaluation, planned: PlannedScore) -> Path:
    several_rates = len(run.recipe.evaluate.learning_rates) > 1
    return run.partial / kept_students.folder_of(planned, run.sets.ipc, several_rates)
