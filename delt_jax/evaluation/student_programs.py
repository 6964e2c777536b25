"""What is compiled for the students of a row; known before any stage has run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from delt_jax.data import Normalisation, Source
from delt_jax.evaluation import execution
from delt_jax.evaluation.execution import EvaluationPlan
from delt_jax.evaluation.rows import EvalRow, resolve, student_spec, trainings
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.runtime import processes as hosts
from delt_jax.training import student_ahead, student_layout
from delt_jax.training.student_program import PLAIN, StudentProgram


@dataclass(frozen=True)
class Classroom:
    """What the programs of all students of an evaluation follow from.

    Attributes:
      recipe: settings of the run.
      source: the real images.
      ipc: images per class of the distilled set.
      teachers: architectures of those that label; the first is the run's own. None where nothing
        asks for a teacher.
      normalisations: of each teacher's inputs.
      labels: which views have stored labels; None where no regime needs them.
      own: normalisation of the students' inputs where it is not that of the first teacher.
      space: hash of the preprocessing whose space all sets are in; empty where they are pixels.
    """

    recipe: Recipe
    source: Source
    ipc: int
    teachers: tuple[ModelSpec, ...]
    normalisations: tuple[Normalisation, ...]
    labels: LabelPlan | None
    own: Normalisation | None = None
    space: str = ""


def student_program(room: Classroom, row: EvalRow) -> StudentProgram:
    """What is compiled for the students of a row, whose batches are not shared."""
    protocol = resolve(room.recipe, room.source, row)
    plan = room.labels if row.regime == "stored" else None
    # Stored labels belong to the whole recovered set; teachers label the views of other sets.
    is_stored = row.image_set == "recovered" and row.ipc == room.ipc
    teachers_label = row.regime == "online" or (row.regime == "stored" and not is_stored)
    if plan is not None:
        protocol = replace(protocol, views=plan.views, temperature=plan.temperature)
    if row.regime == "plain":
        protocol = replace(protocol, views=PLAIN)
    return StudentProgram(
        student=student_spec(room.recipe, row.student, room.source),
        teachers=room.teachers if teachers_label else (),
        protocol=replace(protocol, learning_rate=1.0),  # every student has its own
        regime=row.regime,
        normalisation=room.own or room.normalisations[0],
        teacher_normalisations=room.normalisations,
        count=row.ipc * row.copies * len(room.source.class_names),
        group_size=plan.group_size if plan is not None else protocol.batch_size,
        plan=plan,
        shared_norm=room.recipe.evaluate.batch_norm == "shared",
        space=room.space,
    )


def programs(
    room: Classroom, rows: Sequence[EvalRow], plan: EvaluationPlan
) -> tuple[dict[EvalRow, StudentProgram], Counter[StudentProgram]]:
    """The program of each row, with the devices that share its students' batches.

    Args:
      room: what they follow from.
      rows: of any sets but all real images.
      plan: of the evaluation.

    Returns:
      The programs, and the number of students of each.
    """
    own = {row: student_program(room, row) for row in rows}
    counts: Counter[StudentProgram] = Counter()
    for row in rows:
        counts[own[row]] += len(trainings(room.recipe, room.source, row))
    e = room.recipe.evaluate
    shared = {one: execution.shared(plan, e, one, count) for one, count in counts.items()}
    by_row = {row: shared[own[row]] for row in rows}
    return by_row, Counter({shared[one]: count for one, count in counts.items()})


def prepare(room: Classroom, rows: Sequence[EvalRow], plan: EvaluationPlan) -> None:
    """Begins to compile what the students of some rows need, side by side in threads.

    Students whose batches are shared are left out, and what tests them.
    """
    for program, count in programs(room, rows, plan)[1].items():
        each = execution.students_per_device(plan, room.recipe.evaluate, program, count)
        mine = len(hosts.share(range(count)))
        if program.devices == 1 and mine:
            student_ahead.prepare(student_layout.of(program, mine, each))
