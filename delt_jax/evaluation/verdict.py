"""What a run's scores say, in two sentences: what a set gained, and where it is weak."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from delt_jax.evaluation.metrics import ScoreRow

_LEVEL = 0.05  # of Welch's t test, on two sides
_LOW = 0.15  # by which a weak class is below the mean of all
_MOST = 3  # weak classes that are named
_TEACHES = {
    "recovered": "recovery teaches",
    "learned": "learned images teach",
    "distilled": "distilled images teach",
}
_IN_WORDS = {"online": "labels for every view", "stored": "stored labels"}


@dataclass(frozen=True)
class Gain:
    """How far a row of scores is above another one, for one kind of labels.

    Attributes:
      student: architecture.
      regime: kind of labels.
      points: difference of the mean accuracies after the last epoch, in percentage points.
      error: its standard error in points; None with a single seed.
      judged: "more" or "fewer" where chance rarely gives such a difference, "level" where it does,
        "unknown" with a single seed.
      seeds: students of each row, the fewer of the two.
    """

    student: str
    regime: str
    points: float
    error: float | None
    judged: str
    seeds: int

    def text(self) -> str:
        """E.g. "+3.5 ± 1.0 points with hard labels"."""
        spread = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.points:+.1f}{spread} points with {labels(self.regime)}"


def gains(rows: Sequence[ScoreRow]) -> list[Gain]:
    """The gain of each student and kind of labels that has both rows, at the set's full size."""
    distilled = [row for row in rows if row.is_distilled]
    whole = max((row.ipc for row in distilled), default=0)
    random = {
        (row.student, row.regime): row
        for row in rows
        if (row.image_set, row.ipc) == ("random", whole)
    }
    return [
        gain(row, random[row.student, row.regime])
        for row in distilled
        if row.ipc == whole and (row.student, row.regime) in random
    ]


def gain(ours: ScoreRow, theirs: ScoreRow) -> Gain:
    """How far a row is above another one of the same student and labels."""
    seeds = min(ours.seeds, theirs.seeds)
    points = 100 * (ours.last_mean - theirs.last_mean)
    if seeds < 2:
        return Gain(ours.student, ours.regime, points, None, "unknown", seeds)
    error = 100 * float(np.hypot(*(row.last_std / row.seeds**0.5 for row in (ours, theirs))))
    if error:
        from scipy import stats  # takes half a second to import, and most runs end before

        found = stats.ttest_ind_from_stats(
            *(ours.last_mean, ours.last_std, ours.seeds),
            *(theirs.last_mean, theirs.last_std, theirs.seeds),
            equal_var=False,
        )
        is_chance = found.pvalue > _LEVEL
    else:
        is_chance = points == 0
    judged = "level" if is_chance else "more" if points > 0 else "fewer"
    return Gain(ours.student, ours.regime, points, error, judged, seeds)


def sentences(rows: Sequence[ScoreRow], class_names: Sequence[str]) -> list[str]:
    """The verdict on the first student: a sentence on gains, and one on weak classes.

    The first sentence names the student where there are several.

    Args:
      rows: of the evaluation.
      class_names: in label order, as printed.

    Returns:
      At most two sentences; none where distilled images were not trained on.
    """
    first = next((row for row in rows if row.is_distilled), None)
    if first is None:
        return []
    found = [each for each in gains(rows) if each.student == first.student]
    which = of_first(first.student, {row.student for row in rows})
    said = [_of_gains(found, first.image_set, which)] if found else []
    return [*said, _of_classes(first, class_names)]


def of_first(student: str, students: Collection[str]) -> str:
    """Which of several students is spoken of, in words; empty for a single one."""
    count = len(students)
    return f"for {student}, the first of {count} students" if count > 1 else ""


def _of_gains(found: Sequence[Gain], word: str, which: str) -> str:
    """What distilled images, called by a word, gained over random ones, and how sure that is.

    Args:
      found: of one student.
      word: of the images.
      which: of several students, in words, or empty.
    """
    ours = _TEACHES[word]
    more, fewer = (
        [each for each in found if each.judged == judged] for judged in ("more", "fewer")
    )
    listed = " and ".join(", ".join(each.text() for each in found).rsplit(", ", 1))
    seeds, against = found[0].seeds, f"{word.capitalize()} against random real images"
    against += f", {which}" if which else ""
    if seeds < 2:
        return f"{against}: {listed}; one seed cannot tell chance."
    head = f"{against}: {listed} ({seeds} seeds)"
    if more and not fewer:
        which = "" if len(more) == len(found) else f" with {_listed(more)}"
        return f"{head}; {ours} more{which}, beyond chance."
    if fewer and not more:
        which = "" if len(fewer) == len(found) else f" with {_listed(fewer)}"
        return f"{head}; {ours} less{which}, beyond chance."
    if more and fewer:
        return (
            f"{head}; {ours} more with {_listed(more)} and less with {_listed(fewer)}, beyond "
            f"chance."
        )
    return f"{head}; that is within chance, so {word} images are no better than random ones."


def _listed(found: Sequence[Gain]) -> str:
    return " and ".join(labels(each.regime) for each in found)


def labels(regime: str) -> str:
    """Kinds of labels in words, e.g. "hard labels"."""
    return _IN_WORDS.get(regime, f"{regime} labels")


def _of_classes(row: ScoreRow, class_names: Sequence[str]) -> str:
    """Which classes students of distilled images know least."""
    known = [(a, c) for a, c in zip(row.per_class, class_names, strict=True) if a is not None]
    known.sort(key=lambda pair: pair[0])
    mean = float(np.mean([accuracy for accuracy, _ in known]))
    weak = [(a, c) for a, c in known if a < mean - _LOW][:_MOST]
    with_labels = f"with {labels(row.regime)}"
    if not weak:
        accuracy, name = known[0]
        return f"No class is far below the others; lowest {with_labels} is {name} ({accuracy:.0%})."
    listed = ", ".join(f"{name} ({accuracy:.0%})" for accuracy, name in weak)
    return f"Weakest {with_labels}, where the mean of the classes is {mean:.0%}: {listed}."
