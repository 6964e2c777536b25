"""Tables of a run's scores: their contents, and their form as Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from delt_jax.data import TEST_IMAGES
from delt_jax.evaluation.dd_ranking import RankCorrelation, Robustness
from delt_jax.evaluation.metrics import ScoreRow


class Table(NamedTuple):
    """A table of text.

    Attributes:
      head: names of the columns.
      body: rows of cells, one for each column.
    """

    head: tuple[str, ...]
    body: Sequence[tuple[str, ...]]


class Section(NamedTuple):
    """A table with a title and the words around it.

    Attributes:
      title: heading on the page.
      above: lines above the table.
      table: the table.
      below: lines below the table.
    """

    title: str
    above: list[str]
    table: Table
    below: list[str]


def sections(
    rows: Sequence[ScoreRow],
    robust: Sequence[Robustness],
    ranks: Sequence[RankCorrelation],
    ids: bool = False,
    scored: str = TEST_IMAGES,
) -> list[Section]:
    """All tables of a run but those without rows, the scores first.

    DD-Ranking's table has the students for which its LRS or its ARS can be computed.

    Args:
      rows, robust, ranks: contents of the tables.
      ids: whether rows end with the ids of their scores.
      scored: which images the accuracies were measured on, as `Source.scored` says.
    """
    accuracy, ranked = accuracy_on(scored), [r for r in robust if r.is_ranked]
    found = [
        Section(
            "Scores",
            [*protocols(rows), f"{accuracy} in %, mean ± sample standard deviation."],
            scores(rows, ids),
            [],
        ),
        Section(
            "Students side by side",
            [f"{accuracy} after the last epoch in %."],
            across_students(rows),
            [],
        ),
        Section(
            "Robustness",
            ["Scores of DD-Ranking, from accuracies as fractions: lower HLR, higher others."],
            robustness(ranked),
            missing(ranked),
        ),
        Section(
            "Order of architectures",
            ["Rank correlation between training on distilled and on all real images."],
            correlations(ranks),
            [],
        ),
    ]
    return [section for section in found if section.table.body]


def fresh_views(seen: Mapping[str, Any]) -> Section:
    """What networks say of the distilled images in crops that these were not optimised for.

    Args:
      seen: the summary's entry.
    """
    head = ("network", "probability of the class", "views taken for it")
    body = [
        (each["network"], f"{each['probability']:.3f}", f"{100 * each['right']:.1f} %")
        for each in seen["networks"]
    ]
    text = (
        f"Means over {seen['views']} random crops, of {100 * seen['least_area']:.0f} to 100 % of "
        f"the area, of each of {seen['images']} distilled images."
    )
    return Section("Fresh views", [text], Table(head, body), [])


def percent(accuracy: float | None) -> str:
    """A teacher's accuracy; words where there were no test images."""
    return "of unknown accuracy" if accuracy is None else f"{100 * accuracy:.2f} %"


def accuracy_on(scored: str) -> str:
    """What to call an accuracy that was measured on these images."""
    return "Test accuracy" if scored == TEST_IMAGES else f"Accuracy on {scored},"


def protocols(rows: Sequence[ScoreRow]) -> list[str]:
    """A line for each distinct protocol in order of appearance, numbered if there are several."""
    lines = list(dict.fromkeys(r.protocol for r in rows))
    if len(lines) == 1:
        return [f"Protocol {lines[0]}."]
    return [f"Protocol {i}, {line}." for i, line in enumerate(lines, 1)]


def scores(rows: Sequence[ScoreRow], ids: bool = False) -> Table:
    """A line per row of scores, with accuracies and calibration error in %.

    Args:
      rows: one for each configuration.
      ids: whether lines end with the ids of their scores.
    """
    lines = list(dict.fromkeys(r.protocol for r in rows))
    head = ["student", "labels", "images", "IPC", "last epoch", "best epoch", "calibration"]
    head += ["seeds"]
    body = []
    for r in rows:
        cells = [r.student, r.regime, r.image_set, str(r.ipc or "all")]
        cells += [
            _percent(mean, std, r.seeds)
            for mean, std in ((r.last_mean, r.last_std), (r.best_mean, r.best_std))
        ]
        cells += [f"{100 * r.calibration:.2f}", str(r.seeds)]
        if len(lines) > 1:
            cells.append(str(1 + lines.index(r.protocol)))
        if ids:
            cells.append(" ".join(r.scores))
        body.append(tuple(cells))
    if len(lines) > 1:
        head.append("protocol")
    if ids:
        head.append("scores")
    return Table(tuple(head), body)


def last_lines(rows: Sequence[ScoreRow], scored: str = TEST_IMAGES) -> list[str]:
    """What a run prints at its end: the protocols, then the table of scores.

    Only accuracies on other than test images need a word on what they are.
    """
    lines = protocols(rows)
    if scored != TEST_IMAGES:
        lines.append(f"{accuracy_on(scored)} in %.")
    return [*lines, "", *markdown(scores(rows))]


def across_students(rows: Sequence[ScoreRow]) -> Table:
    """Accuracy after the last epoch in %, students side by side; empty for a single student."""
    students = list(dict.fromkeys(r.student for r in rows))
    if len(students) < 2:
        return Table(("labels", "images", "IPC", *students), [])
    cells: dict[tuple[str, str, int], dict[str, str]] = {}
    for r in rows:
        line = cells.setdefault((r.regime, r.image_set, r.ipc), {})
        line[r.student] = _percent(r.last_mean, r.last_std, r.seeds)
    body = [
        (regime, images, str(ipc or "all"), *(line.get(s, "–") for s in students))
        for (regime, images, ipc), line in cells.items()
    ]
    return Table(("labels", "images", "IPC", *students), body)


def robustness(values: Sequence[Robustness]) -> Table:
    """DD-Ranking's scores, as fractions."""
    head = ("student", "epoch", "HLR", "IOR", "IOR's labels", "LRS", "ARS")
    body = [
        (
            v.student,
            v.epoch,
            _number(v.hlr),
            _number(v.ior),
            v.regime or "–",
            _number(v.lrs),
            _number(v.ars),
        )
        for v in values
    ]
    return Table(head, body)


def missing(values: Sequence[Robustness]) -> list[str]:
    """Why scores are missing, a line for each student and score."""
    return [
        f"{v.student} has no {name}: {why}."
        for v in values
        if v.epoch == values[0].epoch  # last and best epoch miss the same scores
        for name, why in v.missing.items()
    ]


def correlations(values: Sequence[RankCorrelation]) -> Table:
    """Rank correlations of architectures."""
    head = ("labels", "epoch", "students", "Spearman", "Kendall")
    body = [
        (v.regime, v.epoch, str(len(v.students)), _number(v.spearman), _number(v.kendall))
        for v in values
    ]
    return Table(head, body)


def markdown(table: Table) -> list[str]:
    """The table as Markdown with aligned columns."""
    lines = [table.head, *table.body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    ruler = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return [line(table.head), ruler, *map(line, table.body)]


def as_text(parts: Sequence[Section]) -> list[str]:
    """Sections as lines of Markdown, without their titles."""
    lines: list[str] = []
    for part in parts:
        # Markdown joins the lines of a paragraph, so every line is a paragraph.
        paragraphs = [[line] for line in part.above]
        paragraphs += [markdown(part.table)]
        paragraphs += [[line] for line in part.below]
        for paragraph in paragraphs:
            lines += ["", *paragraph] if lines else paragraph
    return lines


def as_csv(rows: Sequence[ScoreRow]) -> bytes:
    """All rows as CSV with unrounded fractions; the last column has the ids of the scores."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = ["student", "regime", "images", "ipc", "learning_rate", "seeds", "last_mean"]
    names += ["last_std", "best_mean", "best_std", "calibration", "protocol"]
    lines.writerow([*names, "scores"])
    for r in rows:
        values = r.as_dict()
        lines.writerow([*(values[name] for name in names), " ".join(r.scores)])
    return text.getvalue().encode()


def accuracy(row: ScoreRow) -> str:
    """A row's accuracy after the last epoch in %, with its deviation."""
    return _percent(row.last_mean, row.last_std, row.seeds)


def _percent(mean: float, std: float, seeds: int) -> str:
    """Mean and standard deviation; a single seed has none."""
    spread = f" ± {100 * std:.2f}" if seeds > 1 else " (1 seed)"
    return f"{100 * mean:.2f}{spread}"


def _number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.4f}"
