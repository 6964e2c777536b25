"""Puts the scores of comparisons into docs/results.md, beside those of earlier ones.

python -m delt_jax.compare --configs=configs/fashion_mnist.py,configs/fashion_mnist.py:sre2l \\
    --ipc=1,10,50 --workdir=runs/compare
python benchmarks/results_table.py runs/compare            prints the tables
python benchmarks/results_table.py runs/compare --write    also fills docs/results.md

Rows of a comparison.csv are kept in benchmarks/results/, one file for each set of data, and replace
those of the same student, labels, method and images per class.
"""

import argparse
import csv
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measured

from delt_jax.comparison.names import shared_parts
from delt_jax.data import TEST_IMAGES
from delt_jax.errors import UserError
from delt_jax.store import files

PAGE, NAME = "docs/results.md", "results_table"
KEY = ("data", "student", "regime", "images", "ipc")  # of a row
_TABLE, _MARKER = "comparison.csv", "comparison.json"


def read(folder: Path) -> list[dict[str, Any]]:
    """Rows of a comparison's comparison.csv, with the machine and the day of each.

    Raises:
      UserError: if the folder is no comparison's, or its scores are not of test images.
    """
    command = files.read_json(folder / _MARKER).get("command", "")
    try:
        with (folder / _TABLE).open(newline="") as content:
            lines = list(csv.DictReader(content))
        return [_row(line, folder, command) for line in lines]
    except (OSError, KeyError, ValueError, AttributeError) as e:
        raise UserError(
            f"{folder / _TABLE} is no table that delt_jax.compare wrote ({type(e).__name__}: {e}); "
            f"run its command again."
        ) from e


def _row(line: dict[str, str], folder: Path, command: str) -> dict[str, Any]:
    if line["scored_on"] != TEST_IMAGES:
        raise UserError(
            f"{folder / _TABLE} has scores on {line['scored_on']}, but {PAGE} is for test images; "
            f"compare with data.validation_share 0."
        )
    made = files.read_json(folder / "cells" / line["cell"] / "summary.json").get("made", {})
    data, method = data_of(line["command"]), line["images"]
    return {
        "data": data,
        "student": line["student"],
        "regime": line["regime"],
        # "fashion_mnist:sre2l" is "sre2l" among its like; the recipe as it is has its own name.
        "images": method.replace(f"{data}:", ""),
        "ipc": int(line["ipc"]),
        "is_baseline": line["is_baseline"] == "1",
        "seeds": int(line["seeds"]),
        "last_mean": float(line["last_mean"]),
        "last_std": float(line["last_std"]),
        "teacher": line["teacher"],
        "teacher_accuracy": float(line["teacher_accuracy"]),
        "protocol": line["protocol"],
        "scores": line["scores"].split(),
        "command": command,
        "machine": made.get("machine", "an unknown machine"),
        "date": made.get("date", "on an unknown day"),
    }


def data_of(command: str) -> str:
    """Name of the config file of a run's command, e.g. "fashion_mnist"."""
    files_ = [re.match(r"--?config=([^:]*)", part) for part in shlex.split(command)]
    return next(Path(found[1]).stem for found in files_ if found)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: for each set of data, student and kind of labels, methods by images per class."""
    lines: list[str] = []
    for data, student, regime in dict.fromkeys(
        (r["data"], r["student"], r["regime"]) for r in rows
    ):
        here = [
            r for r in rows if (r["data"], r["student"], r["regime"]) == (data, student, regime)
        ]
        lines += [
            f"### {data}: {student}, {regime} labels",
            "",
            *_grid(here),
            "",
            *_notes(here),
            "",
        ]
    return lines or ["Nothing yet."]


def _grid(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Methods by images per class, in %; baselines last, and all images as a column of its own.

    Recipes go without what all their names share.
    """
    ipcs = sorted({r["ipc"] for r in rows}, key=lambda ipc: ipc or float("inf"))
    cells = {(r["images"], r["ipc"]): r for r in rows}
    names = dict.fromkeys(r["images"] for r in sorted(rows, key=lambda r: r["is_baseline"]))
    head = [f"IPC {ipc}" if ipc else "all images" for ipc in ipcs]
    lines = [f"| images | {' | '.join(head)} |", "|---" * (1 + len(ipcs)) + "|"]
    shared = shared_parts([r["images"] for r in rows if not r["is_baseline"]])
    for name in names:
        found = [cells.get((name, ipc)) for ipc in ipcs]
        lines.append(f"| {shared.short(name)} | {' | '.join(_percent(row) for row in found)} |")
    return lines


def _percent(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    mean = f"{100 * row['last_mean']:.2f}"
    return f"{mean} ± {100 * row['last_std']:.2f} ({row['seeds']})" if row["seeds"] > 1 else mean


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How the rows were made: protocols, teachers, machines and commands, each once."""
    teachers = {f"{r['teacher']} ({100 * r['teacher_accuracy']:.2f} %)": 0 for r in rows}
    made = {f"{r['machine']}, {r['date']}": 0 for r in rows}
    return [
        *dict.fromkeys(f"- Protocol {r['protocol']}." for r in rows),
        f"- Teacher {', '.join(teachers)}; {'; '.join(made)}.",
        *dict.fromkeys(f"- `{r['command']}`" for r in rows if r["command"]),
    ]


def run(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="work directories of comparisons")
    parser.add_argument("--write", action="store_true", help=f"keep the rows, fill {PAGE}")
    chosen = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    for folder in chosen.folders:
        rows = measured.merge(rows, read(folder), KEY)
    print("\n".join(table(rows)))
    if chosen.write:
        kept = rows
        for data in dict.fromkeys(row["data"] for row in rows):
            kept = measured.keep(NAME, data, [r for r in rows if r["data"] == data], KEY)
        measured.publish(PAGE, table(kept), NAME)


if __name__ == "__main__":
    try:
        run()
    except UserError as e:
        sys.exit(f"results_table: {e}")
