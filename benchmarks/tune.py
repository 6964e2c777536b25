"""Tunes each method on validation images under one budget, so that a comparison is fair to all.

python benchmarks/tune.py --workdir=runs/tune               every method of the study
python benchmarks/tune.py --workdir=runs/tune --dry_run     lists the trials, touches nothing

A method has as many trials as any other: its own settings and seven changes (tune_trials.py), all
with one protocol, two students a row, and 6,000 training images of Fashion-MNIST held out. The best
is the one with the highest accuracy of recovered images, averaged over online and hard labels.
results.json has all results, tune.md the table with CPU minutes; the same command goes on where it
was stopped.

--methods takes some of the methods; any setting for all trials follows as --config.NAME=VALUE.
"""

import argparse
import re
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import measured
import search
import tune_trials

from delt_jax.core.progress import say
from delt_jax.recipe import DataRecipe
from delt_jax.runtime import devices
from delt_jax.store import files

RECIPE, PROTOCOL = "configs/fashion_mnist.py", "common"
STAGE = search.Stage(seeds=2, epochs=0, trials=0)  # the protocol's own epochs
KIND = "tune"  # of results
LABELS = ("online", "hard")
SETTINGS = {
    "teacher.width": 32,
    "teacher.others": "'conv4:32','resnet18_modified:8'",
    "relabel.ensemble": False,
    "evaluate.hard_protocol": "dsa",
    "evaluate.eval_every": 1001,
    "evaluate.images": "recovered,random,selected",
    "evaluate.regimes": ",".join(LABELS),
}


def mean_accuracy(rows: Sequence[dict[str, Any]], images: str = "recovered") -> float:
    """Accuracy of a trial's students in [0, 1], averaged over the kinds of labels."""
    found = [row["last_mean"] for row in rows if row["images"] == images]
    return sum(found) / len(found)


def by_trial(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every trial by its name, in the order in which they were made."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        found.setdefault(row["trial"], []).append(row)
    return found


def best_of(method: str, results: Sequence[dict[str, Any]]) -> str:
    """Name of a method's trial with the highest mean accuracy; "" if it has none."""
    own = {
        name: mean_accuracy(rows)
        for name, rows in by_trial(results).items()
        if name.startswith(f"{method}-")
    }
    return max(own, key=lambda name: own[name], default="")


def page(results: Sequence[dict[str, Any]]) -> str:
    """The trials of every method as Markdown, and what each method's cost."""
    trials = by_trial(results)
    lines = [
        f"| method | trial | {' | '.join(LABELS)} | mean | CPU minutes |",
        "|---|---|---|---|---|---|",
    ]
    for method in tune_trials.CHANGES:
        best = best_of(method, results)
        for name, rows in trials.items():
            if not name.startswith(f"{method}-"):
                continue
            recovered = (row for row in rows if row["images"] == "recovered")
            label = {row["labels"]: row["last_mean"] for row in recovered}
            scores = [*(label[name] for name in LABELS), mean_accuracy(rows)]
            change = name.removeprefix(f"{method}-").replace("_", " ")
            cells = [method, f"**{change}**" if name == best else change]
            cells += [f"{100 * score:.1f}" for score in scores]
            cells.append(f"{rows[0]['cpu_minutes']:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    machines = dict.fromkeys(f"{row['machine']}, {row['date']}" for row in results)
    return "\n".join([*lines, "", "; ".join(machines), ""])


def run_trial(cell: search.grid.Cell, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes a trial and adds its rows, with the CPU time that it took, to the results."""
    before = time.process_time()
    search.run_trial(cell)
    cost = {
        "cpu_minutes": (time.process_time() - before) / 60,
        "machine": devices.describe(),
        "date": date.today().isoformat(),
    }
    rows = [row | cost for row in search.rows_of(cell, KIND)]
    return measured.merge(results, rows, ("trial", "labels", "images"))


def run(argv: Sequence[str]) -> None:
    """Runs the trials that are not finished; writes results and table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="folder of the trials")
    parser.add_argument("--methods", default="", help="some of them; all by default")
    parser.add_argument("--dry_run", action="store_true", help="list the trials; touch nothing")
    given = [a for a in argv if re.match(r"--?config\.", a)]
    asked = parser.parse_args([a for a in argv if a not in given])
    methods = [m for m in asked.methods.split(",") if m] or list(tune_trials.CHANGES)
    for method in methods:
        if method not in tune_trials.CHANGES:
            parser.error(f"there is no {method!r}, only {', '.join(tune_trials.CHANGES)}")
    settings = [f"--config.{name}={value}" for name, value in SETTINGS.items()] + given
    options = search.Options(Path(asked.workdir), RECIPE, (), (), asked.dry_run, settings)
    sources: dict[DataRecipe, Any] = {}
    cells = [
        search.cell_of(trial, STAGE, options, sources)
        for method in methods
        for trial in tune_trials.trials(method, PROTOCOL)
    ]
    if asked.dry_run:
        print("\n".join(search.describe(options, cells)))
        return
    results = search.begin(options)
    for number, cell in enumerate(cells, 1):
        head = f"trial {number} of {len(cells)}, {cell.name}"
        if any((r["trial"], r["asked"]) == (cell.name, search.asked(cell)) for r in results):
            say(f"{head}: finished before")
            continue
        say(f"{head}: {cell.arguments.command}")
        results = run_trial(cell, results)
        files.write_json(options.folder / "results.json", results)
        files.write_bytes(options.folder / "tune.md", page(results).encode())
    print(page(results))


if __name__ == "__main__":
    measured.as_script("tune", run)
