"""Scores of students, their aggregates over seeds, and the figures of merit in them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

RECOVERED = "recovered"  # in all files the name of the distilled set, however it was made
DISTILLED = (RECOVERED, "learned", "distilled")  # what it is called in words
_ACCURACIES = [(float, type(None))]
_IN_FILES = {"student": str, "regime": str, "images": str, "ipc": int, "protocol": str}
# Shapes of a score and of a row in files, for `delt_jax.store.schema`.
SCORE = _IN_FILES | {
    "id": str,
    "seed": int,
    "learning_rate": float,
    "last": float,
    "best": float,
    "best_epoch": int,
    "history": [[float]],
    "per_class": _ACCURACIES,
    "confusion": [[int]],
    "calibration": float,
    "seconds": float,
}
ROW = _IN_FILES | {
    "learning_rate": float,
    "seeds": int,
    "last_mean": float,
    "last_std": float,
    "best_mean": float,
    "best_std": float,
    "per_class": _ACCURACIES,
    "calibration": float,
    "scores": [str],
}


@dataclass(frozen=True)
class Score:
    """What came of one training of a student.

    Attributes:
      id: hash of everything that the score was made from; metrics.jsonl has it, too.
      student: architecture.
      regime: where labels came from: "online" (teachers label every view), "stored" (labels of
        views from the relabel stage), "fixed" (one soft label per image), "learned" (labels that
        were learned with the images), "hard" (the classes), or "plain" (the classes, without
        augmentation).
      image_set: name of the set that was trained on; "images" in files.
      ipc: images per class that were trained on; 0 for all real images.
      seed: of initialisation, order and views.
      learning_rate: peak.
      protocol: how the student was trained, in a line.
      last, best: test accuracy in [0, 1] after the last epoch, and the best of all evaluations.
      best_epoch: epoch of the best evaluation.
      history: [epoch, accuracy] of every evaluation.
      per_class: accuracy of each class after the last epoch; None for a class without test images.
      confusion: counts [class][answer] after the last epoch; empty above 100 classes.
      calibration: expected calibration error after the last epoch.
      seconds: wall time of the training; its share where several students trained at once.
    """

    id: str
    student: str
    regime: str
    image_set: str
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

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that files have."""
        return _in_files(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Score":
        """Reads what `as_dict` gave."""
        return cls(**_from_files(stored))

    def outcome(self) -> dict[str, Any]:
        """The result and what it was made from, without the time that it took."""
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
class ScoreRow:
    """Scores of one configuration over its seeds: means and sample standard deviations.

    Attributes:
      student, regime, image_set, ipc, protocol: those of its scores.
      learning_rate: that of its scores. Where several were tried, the one with the best mean
        accuracy after the last epoch.
      seeds: number of scores.
      last_mean, last_std, best_mean, best_std: of their accuracies, in [0, 1].
      per_class: mean accuracy of each class after the last epoch; None for a class without test
        images.
      calibration: mean expected calibration error after the last epoch.
      scores: ids of the scores.
    """

    student: str
    regime: str
    image_set: str
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

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that files have."""
        return _in_files(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "ScoreRow":
        """Reads what `as_dict` gave."""
        return cls(**_from_files(stored))

    @property
    def is_distilled(self) -> bool:
        """Whether its students saw the distilled set, or the first of its images."""
        return self.image_set in DISTILLED

    def text(self) -> str:
        """E.g. "last 84.1 ± 0.3 %, best 84.4 ± 0.2 %"; a single seed has no deviation."""
        if self.seeds == 1:
            return f"last {100 * self.last_mean:.1f} %, best {100 * self.best_mean:.1f} % (1 seed)"
        return (
            f"last {100 * self.last_mean:.1f} ± {100 * self.last_std:.1f} %, "
            f"best {100 * self.best_mean:.1f} ± {100 * self.best_std:.1f} %"
        )


def _in_files(value: Score | ScoreRow) -> dict[str, Any]:
    """The fields in order; the set's name is called "images" in all files of all versions."""
    return {("images" if k == "image_set" else k): v for k, v in asdict(value).items()}


def _from_files(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {("image_set" if k == "images" else k): v for k, v in stored.items()}


def aggregate(scores: Sequence[Score]) -> list[ScoreRow]:
    """Groups scores by student, regime, set and IPC, in order of first appearance.

    Spreads are sample standard deviations over seeds, 0 for a single one. Of several learning
    rates the one with the highest mean accuracy after the last epoch counts.
    """
    groups: dict[tuple[str, str, str, int], dict[float, list[Score]]] = {}
    for score in scores:
        key = (score.student, score.regime, score.image_set, score.ipc)
        groups.setdefault(key, {}).setdefault(score.learning_rate, []).append(score)
    rows = []
    for key, by_rate in groups.items():
        members = max(by_rate.values(), key=lambda group: np.mean([m.last for m in group]))
        last = np.array([m.last for m in members])
        best = np.array([m.best for m in members])
        ddof = min(1, len(members) - 1)  # of a single score the deviation is 0, not NaN
        rows.append(
            ScoreRow(
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


def in_words(rows: Sequence[ScoreRow], word: str) -> list[ScoreRow]:
    """Rows whose distilled set has another name, one of `DISTILLED`."""
    return [replace(row, image_set=word) if row.is_distilled else row for row in rows]


def confusion_matrix(answers: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts how often images of each class got each answer.

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
    """Numbers for a JSON file, which knows no NaN and gets None instead."""
    return [None if np.isnan(value) else float(value) for value in values]


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in [0, 1] (arXiv 1706.04599); 0 is perfectly calibrated.

    Confidence is the probability of the most probable class. Images are sorted into bins of equal
    width by confidence; the error is the mean over images of |accuracy - mean confidence| of their
    bin.

    Args:
      logits: float [N, C], N above 0.
      labels: int [N].
      bins: number of bins, each open below and closed above.

    Returns:
      The error; NaN if an output is not finite.
    """
    if not np.isfinite(logits).all():  # of a student that diverged
        return float("nan")
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # In each bin |sum of hits - sum of confidences| is count x |accuracy - mean confidence|.
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
