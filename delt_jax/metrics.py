"""Figures of merit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """One trained student.

    Attributes:
      student: architecture.
      regime: where its labels came from.
      images: the set it was trained on.
      seed: of its initialisation, order and views.
      last, best: test accuracy in [0, 1] after the last epoch, and at the best look.
      best_epoch: epoch of the best look.
      history: [epoch, accuracy] of every look.
      seconds: wall time of the training.
    """

    student: str
    regime: str
    images: str
    seed: int
    last: float
    best: float
    best_epoch: int
    history: list[list[float]]
    seconds: float


@dataclass(frozen=True)
class Row:
    """Scores of one configuration over its seeds: means and sample standard deviations."""

    student: str
    regime: str
    images: str
    seeds: int
    last_mean: float
    last_std: float
    best_mean: float
    best_std: float

    def text(self) -> str:
        """E.g. "last 84.1 ± 0.3 %, best 84.4 ± 0.2 %"."""
        return (
            f"last {100 * self.last_mean:.1f} ± {100 * self.last_std:.1f} %, "
            f"best {100 * self.best_mean:.1f} ± {100 * self.best_std:.1f} %"
        )


def aggregate(scores: Sequence[Score]) -> list[Row]:
    """Groups scores by (student, regime, images), in order of first appearance.

    The spread is the sample standard deviation over seeds (0 for a single one).
    """
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.student, score.regime, score.images), []).append(score)
    rows = []
    for key, members in groups.items():
        last = np.array([m.last for m in members])
        best = np.array([m.best for m in members])
        ddof = min(1, len(members) - 1)
        rows.append(
            Row(
                *key,
                len(members),
                float(last.mean()),
                float(last.std(ddof=ddof)),
                float(best.mean()),
                float(best.std(ddof=ddof)),
            )
        )
    return rows


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
