"""Weights of finished students, in folders like a teacher's, so that a run can use one as such."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.score_store import PlannedScore
from delt_jax.store import files
from delt_jax.store.workdir import changes
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


def take_over(evaluation: Path, partial: Path, inputs: Mapping[str, Any]) -> bool:
    """Copies the whole students of an evaluation that is made again from the same inputs.

    Args:
      evaluation: folder of the finished evaluation; may be missing.
      partial: folder of the one that is made, which keeps the students that it has.
      inputs: what the students must have been made from.

    Returns:
      Whether there is such a student.
    """
    taken = False
    for kept in sorted((evaluation / FOLDER).glob("*")):
        try:
            made_from = teacher_lib.read_manifest(kept).get("inputs")
            if not isinstance(made_from, dict) or changes(made_from, dict(inputs)):
                continue
            teacher_lib.load(kept)
        except UserError as e:
            say(f"  {kept.name} is damaged: {e}")
            continue
        taken = True
        if not (partial / FOLDER / kept.name).exists():
            with files.replacing_folder(partial / FOLDER / kept.name) as new:
                shutil.copytree(kept, new, dirs_exist_ok=True)
    return taken


def is_kept(folder: Path, planned: PlannedScore) -> bool:
    """Whether a folder has the weights of the student of a score, as they were written."""
    try:
        score = teacher_lib.read_manifest(folder).get("score")
        teacher_lib.load(folder)
    except UserError:
        return False
    return isinstance(score, dict) and score.get("id") == planned.id
