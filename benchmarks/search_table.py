"""The tables of search.py: gains over random real images, for each kind of labels."""

import csv
import io
from collections.abc import Sequence
from typing import Any

_COLUMNS = (  # of the CSV, after the stage and what was gained
    "trial", "labels", "seeds", "last_mean", "last_std", "gain", "gain_over_selected", "seconds",
    "image_iterations", "student", "teacher", "teacher_accuracy", "scored_on", "protocol",
    "distilled", "machine", "date", "command",
)  # fmt: skip


def gains(
    results: Sequence[dict[str, Any]], base: str, stage: str
) -> dict[str, list[dict[str, Any]]]:
    """Results on recovered images of a stage by kind of labels, the largest gain first.

    Each has "gain", the points in [-1, 1] by which it is above the base's random real images, the
    same for all trials, and "gain_over_selected": above the base's images that were not optimised.
    """
    here = [row for row in results if row["stage"] == stage]
    yardsticks = {(r["labels"], r["images"]): r["last_mean"] for r in here if r["trial"] == base}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in here:
        random = yardsticks.get((row["labels"], "random"))
        if row["images"] != "recovered" or random is None:
            continue
        selected = yardsticks.get((row["labels"], "selected"))
        more = {
            "gain": row["last_mean"] - random,
            "gain_over_selected": None if selected is None else row["last_mean"] - selected,
        }
        found.setdefault(row["labels"], []).append(row | more)
    return {k: sorted(v, key=lambda row: -row["gain"]) for k, v in found.items()}


def stages_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the stages that have results, in order."""
    return list(dict.fromkeys(row["stage"] for row in results))


def page(results: Sequence[dict[str, Any]], base: str) -> str:
    """All tables as Markdown, the last stage first."""
    lines = ["# Search"]
    for stage in reversed(stages_of(results)):
        for labels, rows in gains(results, base, stage).items():
            lines += ["", f"## {stage}, {labels} labels", "", *table(rows)]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown of one stage and kind of labels, and how it was measured."""
    lines = [
        "| trial | accuracy, % | gain over random | over selected | seconds | image-iterations |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ± {100 * row['last_std']:.2f}" if row["seeds"] > 1 else ""
        over = row["gain_over_selected"]
        lines.append(
            f"| {row['trial']} | {100 * row['last_mean']:.2f}{spread} | {100 * row['gain']:+.2f} "
            f"| {'–' if over is None else f'{100 * over:+.2f}'} | {row['seconds']:.0f} "
            f"| {row['image_iterations']:,} |"
        )
    first = rows[0]
    seeds = ", ".join(map(str, sorted({row["seeds"] for row in rows})))
    how = (
        f"Accuracy on {first['scored_on']}, after the last epoch; {seeds} student(s) a row, "
        f"{first['student']}; gains in points over the base's."
    )
    protocols = dict.fromkeys(row["protocol"] for row in rows)
    machines = dict.fromkeys(f"{row['machine']}, {row['date']}" for row in rows)
    return [*lines, "", how, *(f"Protocol {p}." for p in protocols), f"{'; '.join(machines)}."]


def as_csv(results: Sequence[dict[str, Any]], base: str) -> bytes:
    """A line for each stage, kind of labels and trial; accuracies as fractions."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("stage", *_COLUMNS))
    for stage in stages_of(results):
        for rows in gains(results, base, stage).values():
            out.writerows([stage, *(row[name] for name in _COLUMNS)] for row in rows)
    return text.getvalue().encode()
