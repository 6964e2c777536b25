"""The table of docs/families.md: sets of both families by protocol, each beside random images.

python benchmarks/families_table.py runs/fashion_small runs/fashion_delt    of comparisons
python benchmarks/families_table.py                                         of what is kept

Rows of the comparison.csv of each folder go to benchmarks/results/families_fashion-mnist.csv, where
they replace those of the same cell and images; the table is printed.
"""

import argparse
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import measured

from delt_jax.errors import UserError

KEPT = Path("benchmarks/results/families_fashion-mnist.csv")
COLUMNS = (
    *("images", "cell", "is_baseline", "student", "regime", "ipc", "seeds", "last_mean"),
    *("last_std", "protocol", "recover_seconds", "image_bytes", "label_bytes", "teacher_accuracy"),
    "scores",
)
PROTOCOLS = ("", "dsa", "delt")  # its own first
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Rows of a table, with the columns that are kept.

    Raises:
      UserError: if it is no table of a comparison.
    """
    try:
        with path.open(newline="") as f:
            rows = [{name: row[name] for name in COLUMNS} for row in csv.DictReader(f)]
    except (OSError, KeyError) as e:
        raise UserError(f"{path} is no table of a comparison: {e}.") from e
    return [row for row in rows if row["cell"]]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows that are kept."""
    with path.open("w", newline="") as f:
        out = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def key(row: Row) -> tuple[str, ...]:
    """What a row replaces."""
    return tuple(row[name] for name in ("cell", "is_baseline", "student", "regime"))


def set_of(row: Row) -> tuple[str, str]:
    """Method and protocol of a set's row, the latter empty where it is the method's own."""
    parts = row["images"].partition(":")[2].split(",")
    protocol = next((p.partition("=")[2] for p in parts if p.startswith("protocol=")), "")
    return next(p for p in parts if p != "small" and "=" not in p), protocol


def score(row: Row | None) -> str:
    """Mean and spread in %; a dash without a row."""
    if row is None:
        return "–"
    return f"{100 * float(row['last_mean']):.1f} ± {100 * float(row['last_std']):.1f}"


def table(rows: Sequence[Row], ipc: str) -> list[str]:
    """A line for each set, the best under DSA's protocol first."""
    baselines = {
        (row["cell"], row["student"], row["regime"]): row
        for row in rows
        if row["is_baseline"] == "1"
    }
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["is_baseline"] == "0" and row["ipc"] == ipc:
            method, protocol = set_of(row)
            cells.setdefault((method, row["regime"]), {})[protocol] = row
    lines = ["| set | labels | its own | `dsa` | `delt` | seconds | kB |", "|---" * 7 + "|"]

    def rank(item: tuple[tuple[str, str], dict[str, Row]]) -> float:
        return -float(item[1]["dsa"]["last_mean"]) if "dsa" in item[1] else 0.0

    for (method, regime), found in sorted(cells.items(), key=rank):
        shown = []
        for protocol in PROTOCOLS:
            mine = found.get(protocol)
            if mine is None:
                shown.append("–")
                continue
            beside = baselines.get((mine["cell"], mine["student"], mine["regime"]))
            shown.append(f"{score(mine)} / {score(beside)}")
        any_row = next(iter(found.values()))
        size = (int(any_row["image_bytes"]) + int(any_row["label_bytes"])) / 1000
        seconds = float(any_row["recover_seconds"])
        lines.append(f"| {method} | {regime} | {' | '.join(shown)} | {seconds:.0f} | {size:.0f} |")
    return lines


def run(argv: Sequence[str]) -> None:
    """Adds the comparisons to what is kept, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folders", nargs="*", help="work directories of comparisons")
    asked = parser.parse_args(argv)
    kept = read(KEPT) if KEPT.exists() else []
    for folder in asked.folders:
        new = read(Path(folder) / "comparison.csv")
        replaced = {key(row) for row in new}
        kept = [row for row in kept if key(row) not in replaced] + new
    kept.sort(key=lambda row: (int(row["ipc"]), re.sub(r"[^a-z]", " ", row["cell"]), key(row)))
    if asked.folders:
        write(KEPT, kept)
    for ipc in sorted({row["ipc"] for row in kept}, key=int):
        print(f"\nIPC {ipc}\n", *table(kept, ipc), sep="\n")


if __name__ == "__main__":
    measured.as_script("families_table", run)
