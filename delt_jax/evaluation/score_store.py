"""Finished scores on disk, one file each, found again by the hash of what they were made from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.evaluation import metrics
from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.rows import EvalRow
from delt_jax.store import artefact, files
from delt_jax.store.schema import mismatch
from delt_jax.store.workdir import WorkDir
from delt_jax.training.student_loop import Trained

LIST = "scores.json"  # of all scores, in the evaluation's folder
_MANY_CLASSES = 100  # confusions of more classes are not stored


@dataclass(frozen=True)
class PlannedScore:
    """A score that is asked for, whether or not it is there already.

    Attributes:
      id: hash of everything that the score depends on.
      row: the row that it belongs to.
      seed: number of the student within the row.
      learning_rate: peak.
      protocol: how the student trains, in a line.
    """

    id: str
    row: EvalRow
    seed: int
    learning_rate: float
    protocol: str


class ScoreStore:
    """A folder of scores. Several runs can share one, and then train equal baselines once.

    Every file has a checksum of its other entries; those of older versions have none and are taken
    as they are. A damaged score counts as missing, so its student is trained again.

    Attributes:
      folder: of the files.
    """

    def __init__(self, folder: Path):
        """Makes the folder where it is missing.

        Raises:
          UserError: if the disk does not allow it.
        """
        self.folder = folder
        with files.disk_errors_as_user_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, planned: PlannedScore) -> bool:
        """Whether the score is there and whole; says so where it is damaged."""
        return self._find(planned.id) is not None

    def holds(self, score: Score) -> bool:
        """Whether a score of the same training is there and whole."""
        return self._find(score.id) is not None

    def read(self, planned: PlannedScore) -> Score:
        """A finished score, under the names of the row that asks for it.

        Equal images have equal ids, so the score may have been made for a set of another name.
        """
        try:
            stored = self._read(planned.id)
        except (OSError, ValueError) as e:
            path = self.path(planned.id)
            raise DamagedArtefact(path, f"{path} is missing or damaged ({e})", "evaluate") from e
        row = planned.row
        return replace(
            stored,
            student=row.student,
            regime=row.regime,
            image_set=row.image_set,
            ipc=row.ipc,
        )

    def write(self, score: Score) -> None:
        """Stores a finished score."""
        files.write_json(self.path(score.id), artefact.with_checksum(score.as_dict()))

    def refresh(self) -> None:
        """Makes NFS forget which scores were not there when this process looked before."""
        files.look_again(self.folder)

    def path(self, score_id: str) -> Path:
        """File of a score."""
        return self.folder / f"{score_id}.json"

    def _find(self, score_id: str) -> Score | None:
        try:
            return self._read(score_id)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            say(f"  {self.path(score_id)} is damaged ({e}) and made again")
            return None

    def _read(self, score_id: str) -> Score:
        """Raises a FileNotFoundError or, if the file is damaged, an OSError or ValueError."""
        content = files.read_object(self.path(score_id))
        if not artefact.has_checksum(content):
            raise ValueError("it was changed since it was written")
        score = parsed(artefact.unsealed(content))
        if score.id != score_id:
            raise ValueError(f"it is the score {score.id}")
        return score


def parsed(stored: Any) -> Score:
    """A score as a file has it; raises a ValueError for anything else."""
    wrong = mismatch(stored, metrics.SCORE)
    if wrong:
        raise ValueError(wrong)
    classes, counts = len(stored["per_class"]), stored["confusion"]
    if counts and [len(row) for row in counts] != [classes] * classes:
        raise ValueError("its confusion is of other classes")
    try:
        return Score.from_dict(stored)
    except TypeError as e:  # further entries
        raise ValueError(str(e)) from e


def read_list(workdir: WorkDir) -> list[Score]:
    """Scores of all students of the finished evaluation.

    Raises:
      DamagedArtefact: if their list is missing or damaged.
    """
    manifest = workdir.needed("evaluation/manifest.json", "evaluate")
    path = artefact.check_file(workdir.path / "evaluation", LIST, manifest, "evaluate")
    try:
        return [parsed(score) for score in files.read_json(path)]
    except (UserError, TypeError, ValueError) as e:
        raise DamagedArtefact(path, f"{path} is damaged ({e})", "evaluate") from e


def make_score(planned: PlannedScore, trained: Trained, source: Source) -> Score:
    """The score of a trained student.

    Args:
      planned: what was asked for.
      trained: the student, with its logits of the test images.
      source: has the test images' classes.
    """
    labels, answers = source.test.labels, trained.logits.argmax(-1)
    confusion = metrics.confusion_matrix(answers, labels, len(source.class_names))
    best_epoch, best = max(trained.history, key=lambda evaluation: evaluation[1])
    return Score(
        id=planned.id,
        student=planned.row.student,
        regime=planned.row.regime,
        image_set=planned.row.image_set,
        ipc=planned.row.ipc,
        seed=planned.seed,
        learning_rate=planned.learning_rate,
        protocol=planned.protocol,
        last=trained.history[-1][1],
        best=best,
        best_epoch=best_epoch,
        history=[list(evaluation) for evaluation in trained.history],
        per_class=metrics.or_none(metrics.class_accuracy(confusion)),
        confusion=confusion.tolist() if len(confusion) <= _MANY_CLASSES else [],
        calibration=metrics.calibration_error(trained.logits, labels),
        seconds=round(trained.seconds, 2),
    )
