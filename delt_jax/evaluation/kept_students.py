"""Weights of finished students, in folders like a teacher's, so that a run can use one as such."""

from pathlib import Path
from typing import Any

from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.score_store import PlannedScore
from delt_jax.store import files
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

FOLDER = "students"  # in the evaluation's folder


def folder_of(planned: PlannedScore, ipc: int, several_rates: bool) -> Path:
    """Where the weights of a student are, within the evaluation.

    Args:
      planned: the score that the student was trained for.
      ipc: images per class of the whole distilled set, which its name leaves out.
      several_rates: whether the students of a row differ by learning rate, too.
    """
    row = planned.row
    smaller = row.image_set == "recovered" and row.ipc != ipc
    name = f"{row.student}-{row.regime}-{row.image_set}{row.ipc if smaller else ''}-{planned.seed}"
    return Path(FOLDER) / (f"{name}-{planned.learning_rate:g}" if several_rates else name)


def save(folder: Path, student: Teacher, inputs: dict[str, Any], score: Score) -> None:
    """Writes a student as a teacher is written.

    Args:
      folder: is replaced as a whole.
      student: the network, with its accuracy after the last epoch.
      inputs: what the evaluation is made from.
      score: that of the student.
    """
    with files.replacing_folder(folder) as new:
        teacher_lib.save(new, student, {"inputs": inputs, "score": score.as_dict()})
