"""Finished scores on disk, one file each, found again by the hash of what they were made from."""

from dataclasses import dataclass, replace
from pathlib import Path

from delt_jax.data import Source
from delt_jax.evaluation import metrics
from delt_jax.evaluation.metrics import Score
from delt_jax.evaluation.rows import EvalRow
from delt_jax.store import files
from delt_jax.training.student_loop import Trained

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
    """A folder of scores. Several runs can share one, and then train equal baselines once."""

    def __init__(self, folder: Path):
        """Makes the folder where it is missing.

        Raises:
          UserError: if the disk does not allow it.
        """
        self._folder = folder
        with files.disk_errors_as_user_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, planned: PlannedScore) -> bool:
        """Whether the score is there."""
        return self._path(planned.id).exists()

    def read(self, planned: PlannedScore) -> Score:
        """A finished score, under the names of the row that asks for it.

        Equal images have equal ids, so the score may have been made for a set of another name.
        """
        row, stored = planned.row, Score.from_dict(files.read_json(self._path(planned.id)))
        return replace(
            stored,
            student=row.student,
            regime=row.regime,
            image_set=row.image_set,
            ipc=row.ipc,
        )

    def write(self, score: Score) -> None:
        """Stores a finished score."""
        files.write_json(self._path(score.id), score.as_dict())

    def _path(self, score_id: str) -> Path:
        return self._folder / f"{score_id}.json"


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
