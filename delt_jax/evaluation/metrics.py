"""Figures of merit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax


@dataclass(frozen=True)
class Score:
    """One trained student.

    Attributes:
      id: hash of all that it was made from; also in metrics.jsonl.
      student: architecture.
      regime: where its labels came from: "online", "stored", "fixed", "hard", or "plain" (hard
        labels on images as they are).
      images: the set it was trained on.
      ipc: images per class that it was trained on; 0 for all real images.
      seed: of its initialisation, order and views.
      learning_rate: peak.
      protocol: how it was trained, in a line.
      last, best: test accuracy in [0, 1] after the last epoch, and at the best look.
      best_epoch: epoch of the best look.
      history: [epoch, accuracy] of every look.
      per_class: accuracy of each class after the last epoch; None without test images of it.
      confusion: counts [class][answer] after the last epoch; empty above 100 classes.
      calibration: expected calibration error after the last epoch.
      seconds: wall time of the training, its share where several were trained at once.
    """

    id: str
    student: str
    regime: str
    images: str
    ipc: int
    seed: int
    learning_rate: float
    protocol: str
    last: float
    best: float
    best_epoch: int
    history: list[list[float]]
    per_class: list[float | None]
    confusion: list[list[int]]
    calibration: float
    seconds: float

    def outcome(self) -> dict[str, Any]:
        """What the training led to and from what, without the time that it took."""
        return {
            "id": self.id,
            "last": self.last,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "per_class": self.per_class,
            "confusion": self.confusion,
            "calibration": self.calibration,
        }


@dataclass(frozen=True)
class Row:
    """Scores of one configuration over its seeds: means and sample standard deviations.

    Attributes:
      student, regime, images, ipc, protocol: as of its scores.
      learning_rate: of its scores; where several were tried, the one that is best at last.
      seeds: how many scores.
      last_mean, last_std, best_mean, best_std: of their accuracies, in [0, 1].
      per_class: mean accuracy of each class after the last epoch; None without test images of it.
      calibration: mean expected calibration error after the last epoch.
      scores: their ids.
    """

    student: str
    regime: str
    images: str
    ipc: int
    learning_rate: float
    protocol: str
    seeds: int
    last_mean: float
    last_std: float
    best_mean: float
    best_std: float
    per_class: list[float | None]
    calibration: float
    scores: list[str]

    def text(self) -> str:
        """E.g. "last 84.1 ± 0.3 %, best 84.4 ± 0.2 %"."""
        return (
            f"last {100 * self.last_mean:.1f} ± {100 * self.last_std:.1f} %, "
            f"best {100 * self.best_mean:.1f} ± {100 * self.best_std:.1f} %"
        )


def aggregate(scores: Sequence[Score]) -> list[Row]:
    """Groups scores by (student, regime, images, ipc), in order of first appearance.

    The spread is the sample standard deviation over seeds (0 for a single one). Of several
    learning rates the one with the highest mean after the last epoch counts.
    """
    groups: dict[tuple[str, str, str, int], dict[float, list[Score]]] = {}
    for score in scores:
        by_rate = groups.setdefault((score.student, score.regime, score.images, score.ipc), {})
        by_rate.setdefault(score.learning_rate, []).append(score)
    rows = []
    for key, by_rate in groups.items():
        members = max(by_rate.values(), key=lambda group: np.mean([m.last for m in group]))
        last = np.array([m.last for m in members])
        best = np.array([m.best for m in members])
        ddof = min(1, len(members) - 1)
        rows.append(
            Row(
                *key,
                members[0].learning_rate,
                members[0].protocol,
                len(members),
                float(last.mean()),
                float(last.std(ddof=ddof)),
                float(best.mean()),
                float(best.std(ddof=ddof)),
                or_none(np.mean([np.array(m.per_class, float) for m in members], axis=0)),
                float(np.mean([m.calibration for m in members])),
                [m.id for m in members],
            )
        )
    return rows


def confusion_matrix(answers: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often images of each class got each answer.

    Args:
      answers: int [N], in [0, classes).
      labels: int [N], likewise.
      classes: C.

    Returns:
      int64 [C, C], counts [class][answer].
    """
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(answers, np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Accuracy of each class, float64 [C] in [0, 1]; NaN for a class without images.

    Args:
      confusion: int [C, C], of `confusion_matrix`.
    """
    counts = confusion.sum(axis=1)
    return np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)


def or_none(values: np.ndarray) -> list[float | None]:
    """Numbers for a JSON file, which has no NaN: None in its place."""
    return [None if np.isnan(value) else float(value) for value in values]


def score_of(stored: dict[str, Any]) -> Score:
    """A score as it lies in a file; older files have NaN where there are no test images."""
    accuracies = or_none(np.array(stored["per_class"], float))
    return Score(**(stored | {"per_class": accuracies}))


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in [0, 1] (arXiv 1706.04599); 0 is perfectly calibrated.

    Answers are sorted into equal bins of confidence, the probability of the most probable class;
    the error is the mean over images of |accuracy - mean confidence| of their bin.

    Args:
      logits: float [N, C], N above 0.
      labels: int [N].
      bins: of confidence, open below and closed above.
    """
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # Of a bin, |sum of hits - sum of confidences| is count x |accuracy - mean confidence|.
    gaps = np.bincount(places, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def within_class_similarity(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean cosine similarity between the images of each class; lower is more diverse.

    DELT's measure of diversity (arXiv 2411.19946): teacher features, pairs of different images.

    Args:
      features: float [N, D].
      labels: int [N].

    Returns:
      float64 [classes present], NaN for a class with a single image, classes ascending.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    values = []
    for c in np.unique(labels):
        rows = unit[labels == c].astype(np.float64)
        n = len(rows)
        # Sum over ordered pairs i != j, without forming the n x n matrix.
        pairs = (rows.sum(0) ** 2).sum() - (rows**2).sum()
        values.append(pairs / (n * (n - 1)) if n > 1 else np.nan)
    return np.array(values)
