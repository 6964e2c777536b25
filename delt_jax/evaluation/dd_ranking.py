"""Robustness scores of DD-Ranking (arXiv 2505.13300), and the order of architectures.

All accuracies are fractions in [0, 1]; in percent the exponentials of the scores would saturate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delt_jax.evaluation.metrics import RECOVERED, ScoreRow

_WEIGHT = 0.5  # w and gamma of DD-Ranking's board
_OWN_REGIMES = ("online", "stored", "fixed", "learned")  # not the classes, first choice first
_EPOCHS = ("last", "best")
_FEWEST_STUDENTS = 3  # fewer have no order worth a correlation


def hard_label_recovery(full: float, hard: float) -> float:
    """HLR = accuracy of all real images - accuracy of distilled ones, both with hard labels.

    Lower is better. It is what distilled images lose without the teacher's labels.
    """
    return full - hard


def improvement_over_random(own: float, random: float) -> float:
    """IOR = accuracy of distilled images - accuracy of random real ones.

    Both at equal images per class in the method's own evaluation; higher is better.
    """
    return own - random


def label_robust_score(ior: float, hlr: float, weight: float = _WEIGHT) -> float:
    """LRS = (e^a - e^-1) / (e - e^-1) with a = w IOR - (1 - w) HLR.

    It is 0.2689 where distilled images equal random ones and hard labels lose nothing. With
    w = 0.5 it is at most 0.545 (IOR 1, HLR 0) unless hard labels beat all real images.
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
      augmented, random_augmented: accuracy of students trained with augmentation, on distilled
        and on random real images.
      plain, random_plain: the same without augmentation.
      weight: g.
    """
    gains = (augmented - random_augmented, plain - random_plain)
    return _from_zero_to_one(weight * gains[0] + (1 - weight) * gains[1])


def _from_zero_to_one(x: float) -> float:
    """(e^x - e^-1) / (e - e^-1), which rises from 0 at x = -1 to 1 at x = 1."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


@dataclass(frozen=True)
class Robustness:
    """DD-Ranking's scores of one student.

    Attributes:
      student: architecture.
      epoch: which accuracies were taken, those of the "last" or of the "best" epoch.
      regime: regime of IOR; empty where there is no IOR.
      hlr, ior, lrs, ars: fractions; None where a row that the score needs was not trained.
      missing: by the name of each score that is None, a phrase on why.
      scores: ids of all trainings that went into the scores.
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

    @property
    def is_ranked(self) -> bool:
        """Whether one of the scores by which DD-Ranking orders methods, LRS and ARS, is known."""
        return self.lrs is not None or self.ars is not None


@dataclass(frozen=True)
class RankCorrelation:
    """How similarly distilled and real images order the architectures.

    Attributes:
      regime: regime of the trainings on distilled images.
      epoch: which accuracies were taken, those of the "last" or of the "best" epoch.
      students: architectures that trained on both.
      spearman, kendall: rho and tau-b in [-1, 1]; None where all students are equal.
      scores: ids of the trainings.
    """

    regime: str
    epoch: str
    students: list[str]
    spearman: float | None
    kendall: float | None
    scores: list[str]


def robustness_scores(rows: Sequence[ScoreRow]) -> list[Robustness]:
    """DD-Ranking's scores of every student that was trained on the whole distilled set.

    HLR compares full and distilled images in the "hard" regime; IOR distilled and random ones in
    the first of the regimes "online", "stored", "fixed" and "learned" that both have; ARS distilled
    and random ones in the regimes "hard" (augmented) and "plain".

    Returns:
      Two for each student, in order of appearance: one of the last epoch and one of the best.
    """
    students = dict.fromkeys(r.student for r in rows if r.is_distilled)
    return [_robustness(rows, student, epoch) for student in students for epoch in _EPOCHS]


def rank_correlations(rows: Sequence[ScoreRow]) -> list[RankCorrelation]:
    """Correlates accuracies of the whole distilled set with those of all real images.

    Returns:
      Two for each regime with at least three students that trained on both: one of the last
      epoch and one of the best.
    """
    from scipy import stats  # takes half a second to import

    found = []
    for regime in dict.fromkeys(r.regime for r in rows if r.is_distilled):
        pairs = {}
        for student in dict.fromkeys(r.student for r in rows):
            distilled = _find(rows, student, RECOVERED, regime)
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


def whole_ipc(rows: Sequence[ScoreRow]) -> int:
    """Images per class of the whole distilled set; 0 where no student trained on it."""
    return max((r.ipc for r in rows if r.is_distilled), default=0)


def _find(rows: Sequence[ScoreRow], student: str, image_set: str, regime: str) -> ScoreRow | None:
    """The row of all real images, or of a set with as many per class as the distilled one."""
    ipc = 0 if image_set == "full" else whole_ipc(rows)
    wanted = (student, image_set, regime, ipc)
    return next((r for r in rows if (r.student, r.image_set, r.regime, r.ipc) == wanted), None)


def _accuracy(row: ScoreRow, epoch: str) -> float:
    return row.last_mean if epoch == "last" else row.best_mean


def _robustness(rows: Sequence[ScoreRow], student: str, epoch: str) -> Robustness:
    own = next(
        (
            regime
            for regime in _OWN_REGIMES
            if all(_find(rows, student, image_set, regime) for image_set in (RECOVERED, "random"))
        ),
        "",
    )
    four = [
        (image_set, regime) for regime in ("hard", "plain") for image_set in (RECOVERED, "random")
    ]
    scores: dict[str, tuple[Callable[..., float], list[tuple[str, str]]]] = {
        "HLR": (hard_label_recovery, [("full", "hard"), (RECOVERED, "hard")]),
        "IOR": (improvement_over_random, [(RECOVERED, own), ("random", own)]),
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
            missing[name] = "not trained on distilled and random images with the same soft labels"
        else:
            absent = [n for n, row in zip(needs, found, strict=True) if row is None]
            named = [(n.replace(RECOVERED, "distilled"), regime) for n, regime in absent]
            listed = ", ".join(f"{image_set} images ({regime})" for image_set, regime in named)
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
