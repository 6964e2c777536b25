"""Robustness scores of DD-Ranking (arXiv 2505.13300), and the order of architectures.

All accuracies are fractions in [0, 1]; in percent the exponentials of the scores would saturate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

from delt_jax.evaluation.metrics import Row

_WEIGHT = 0.5  # w and gamma of DD-Ranking's board
_OWN_REGIMES = ("online", "stored", "fixed")  # that use the teacher's labels, first choice first
_EPOCHS = ("last", "best")
_FEWEST_STUDENTS = 3  # whose order means anything


def hard_label_recovery(full: float, hard: float) -> float:
    """HLR = accuracy of all real images - accuracy of distilled ones, both with hard labels.

    Lower is better: what is lost without the teacher's labels.
    """
    return full - hard


def improvement_over_random(own: float, random: float) -> float:
    """IOR = accuracy of distilled images - accuracy of random real ones.

    Both at equal images per class in the method's own evaluation; higher is better.
    """
    return own - random


def label_robust_score(ior: float, hlr: float, weight: float = _WEIGHT) -> float:
    """LRS = (e^a - e^-1) / (e - e^-1) with a = w IOR - (1 - w) HLR.

    0.2689 where distilled images equal random ones and hard labels lose nothing; with w = 0.5 at
    most 0.545 (IOR 1, HLR 0).
    """
    return _from_zero_to_one(weight * ior - (1 - weight) * hlr)


def augmentation_robust_score(
    augmented: float,
    random_augmented: float,
    plain: float,
    random_plain: float,
    weight: float = _WEIGHT,
) -> float:
    """ARS = (e^b - e^-1) / (e - e^-1), b = g (syn - rnd, augmented) + (1 - g) (syn - rnd, plain).

    Args:
      augmented, random_augmented: accuracies of distilled and of random real images, trained on
        with augmentation.
      plain, random_plain: the same without.
      weight: g.
    """
    gains = (augmented - random_augmented, plain - random_plain)
    return _from_zero_to_one(weight * gains[0] + (1 - weight) * gains[1])


def _from_zero_to_one(x: float) -> float:
    """(e^x - e^-1) / (e - e^-1): rises from 0 at -1 to 1 at 1."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class Robustness:
    """What can be said of one student.

    Attributes:
      student: architecture.
      epoch: whose accuracies were taken, "last" or "best".
      regime: of IOR; empty where there is none.
      hlr, ior, lrs, ars: fractions; None where a row is missing.
      missing: why, a phrase by the name of the score.
      scores: ids of all trainings that went into them.
    """

    student: str
    epoch: str
    regime: str
    hlr: float | None
    ior: float | None
    lrs: float | None
    ars: float | None
    missing: dict[str, str]
    scores: list[str]


@dataclass(frozen=True)
class RankCorrelation:
    """How alike distilled and real images order the architectures.

    Attributes:
      regime: in which the distilled images were trained on.
      epoch: whose accuracies were taken, "last" or "best".
      students: that ran both.
      spearman, kendall: rho and tau-b in [-1, 1]; None where all students are equal.
      scores: ids of the trainings.
    """

    regime: str
    epoch: str
    students: list[str]
    spearman: float | None
    kendall: float | None
    scores: list[str]


def robustness_scores(rows: Sequence[Row]) -> list[Robustness]:
    """DD-Ranking's scores of every student that was trained on the whole recovered set.

    HLR compares full and recovered images in the "hard" regime; IOR recovered and random ones in
    the first of the regimes "online", "stored" and "fixed" that both have; ARS recovered and random
    ones in the regimes "hard" (augmented) and "plain".

    Returns:
      Two for each student, in order of appearance: of the last epoch and of the best.
    """
    students = dict.fromkeys(r.student for r in rows if r.images == "recovered")
    return [_robustness(rows, student, epoch) for student in students for epoch in _EPOCHS]


def rank_correlations(rows: Sequence[Row]) -> list[RankCorrelation]:
    """For every regime and epoch in which at least three students ran distilled and real images.

    Compares accuracies of the whole recovered set with those of all real images.
    """
    found = []
    for regime in dict.fromkeys(r.regime for r in rows if r.images == "recovered"):
        pairs = {}
        for student in dict.fromkeys(r.student for r in rows):
            distilled = _find(rows, student, "recovered", regime)
            real = _find(rows, student, "full", "hard")
            if distilled and real:
                pairs[student] = (distilled, real)
        if len(pairs) < _FEWEST_STUDENTS:
            continue
        ids = [i for pair in pairs.values() for row in pair for i in row.scores]
        for epoch in _EPOCHS:
            ours, theirs = (
                [_accuracy(row, epoch) for row in side]
                for side in zip(*pairs.values(), strict=True)
            )
            rho = tau = None
            if len(set(ours)) > 1 and len(set(theirs)) > 1:
                rho = float(stats.spearmanr(ours, theirs).statistic)
                tau = float(stats.kendalltau(ours, theirs).statistic)
            found.append(RankCorrelation(regime, epoch, list(pairs), rho, tau, ids))
    return found


def whole_ipc(rows: Sequence[Row]) -> int:
    """Images per class of the whole recovered set; 0 where none was trained on."""
    return max((r.ipc for r in rows if r.images == "recovered"), default=0)


def _find(rows: Sequence[Row], student: str, images: str, regime: str) -> Row | None:
    """The row of a set at the recovered set's budget, or of all real images."""
    ipc = 0 if images == "full" else whole_ipc(rows)
    wanted = (student, images, regime, ipc)
    return next((r for r in rows if (r.student, r.images, r.regime, r.ipc) == wanted), None)


def _accuracy(row: Row, epoch: str) -> float:
    return row.last_mean if epoch == "last" else row.best_mean


def _robustness(rows: Sequence[Row], student: str, epoch: str) -> Robustness:
    own = next(
        (
            regime
            for regime in _OWN_REGIMES
            if all(_find(rows, student, images, regime) for images in ("recovered", "random"))
        ),
        "",
    )
    four = [(images, regime) for regime in ("hard", "plain") for images in ("recovered", "random")]
    scores: dict[str, tuple[Callable[..., float], list[tuple[str, str]]]] = {
        "HLR": (hard_label_recovery, [("full", "hard"), ("recovered", "hard")]),
        "IOR": (improvement_over_random, [("recovered", own), ("random", own)]),
        "ARS": (augmentation_robust_score, four),
    }
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    used: dict[str, None] = {}  # ids in order, each once
    for name, (formula, needs) in scores.items():
        found = [_find(rows, student, *need) for need in needs]
        there = [row for row in found if row is not None]
        if len(there) == len(needs):
            values[name] = formula(*(_accuracy(row, epoch) for row in there))
            used.update(dict.fromkeys(i for row in there for i in row.scores))
        elif name == "IOR":
            missing[name] = "not trained on recovered and random images with the same soft labels"
        else:
            absent = [n for n, row in zip(needs, found, strict=True) if row is None]
            listed = ", ".join(f"{images} images ({regime})" for images, regime in absent)
            missing[name] = f"not trained on {listed}"
    if "HLR" in values and "IOR" in values:
        values["LRS"] = label_robust_score(values["IOR"], values["HLR"])
    else:
        missing["LRS"] = "it needs " + " and ".join(n for n in ("HLR", "IOR") if n in missing)
    return Robustness(
        student,
        epoch,
        own,
        values.get("HLR"),
        values.get("IOR"),
        values.get("LRS"),
        values.get("ARS"),
        missing,
        list(used),
    )
