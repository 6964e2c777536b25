"""Tunes each method on validation images under one budget, so that a comparison is fair to all.

python benchmarks/tune.py --workdir=runs/tune               every method of the study
python benchmarks/tune.py --workdir=runs/tune --dry_run     lists the trials, touches nothing
python benchmarks/tune.py --workdir=runs/tune --test        the best trials on the test images

A method has as many trials as any other: its own settings and seven changes (tune_trials.py), all
with one protocol, one student a row of 400 epochs, and 6,000 training images of Fashion-MNIST held
out. The best is the one with the highest accuracy of recovered images, averaged over online and
hard labels. results.json has all results, tune.md the table with CPU minutes; the same command goes
on where it was stopped.

--test makes the sets of the best trials anew from all training images and scores them once on the
test images, with three students a row and real images beside them, in --workdir/test: results.json
and test.md.

--methods takes some of the methods; any setting for all trials follows as --config.NAME=VALUE.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import measured
import search
import tune_trials
from search_trials import Trial

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.runtime import devices
from delt_jax.store import files

RECIPE, PROTOCOL = "configs/fashion_mnist.py", "common"
STAGE = search.Stage(seeds=1, epochs=400, trials=0)
KIND = "tune"  # of results
LABELS = ("online", "hard")
SETTINGS = {
    "teacher.width": 32,
    "teacher.others": "'conv4:32','resnet18_modified:8'",
    "relabel.ensemble": False,
    "evaluate.hard_protocol": "dsa",
    "evaluate.images": "recovered",
    "evaluate.regimes": ",".join(LABELS),
}
# What is other on the test images.
TEST, TEST_STAGE = "test", search.Stage(seeds=3, epochs=0, trials=0)  # the protocols' own epochs
TEST_SETTINGS = SETTINGS | {
    "data.validation_share": 0.0,
    "evaluate.images": "recovered,random",
    "evaluate.eval_every": 1000,
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


def test_page(results: Sequence[dict[str, Any]]) -> str:
    """The best trials and real images on the test images, as Markdown, the best online first."""
    lines = [f"| images | trial | {' | '.join(LABELS)} |", "|---|---|---|---|"]
    by_set: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in results:
        method, _, change = row["trial"].partition("-")
        real = row["images"] != "recovered"
        # Real images are alike for all methods but for those that a rule selects.
        of = f"selected for {method}" if row["images"] == "selected" else row["images"]
        key = (f"real, {of}", "") if real else (method, change.replace("_", " "))
        by_set.setdefault(key, {})[row["labels"]] = row
    for (images, change), rows in sorted(
        by_set.items(), key=lambda item: -item[1][LABELS[0]]["last_mean"]
    ):
        scores = [
            f"{100 * (r := rows[name])['last_mean']:.1f} ± {100 * r['last_std']:.1f}"
            for name in LABELS
        ]
        lines.append(f"| {images} | {change} | {' | '.join(scores)} |")
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


def run_all(
    cells: Sequence[search.grid.Cell],
    options: search.Options,
    page_of: Callable[[Sequence[dict[str, Any]]], str],
    name: str,
) -> None:
    """Runs the trials that are not finished; writes results and table after each.

    Args:
      cells: the trials.
      options: whose folder the files go to.
      page_of: the table of results.
      name: of the table's file.
    """
    results = search.begin(options)
    for number, cell in enumerate(cells, 1):
        head = f"trial {number} of {len(cells)}, {cell.name}"
        if any((r["trial"], r["asked"]) == (cell.name, search.asked(cell)) for r in results):
            say(f"{head}: finished before")
            continue
        say(f"{head}: {cell.arguments.command}")
        results = run_trial(cell, results)
        files.write_json(options.folder / "results.json", results)
        files.write_bytes(options.folder / name, page_of(results).encode())
    print(page_of(results))


def best_trials(methods: Sequence[str], folder: Path) -> list[Trial]:
    """The best trial of every method by the results in a folder.

    Raises:
      UserError: if a method has unfinished trials.
    """
    kept = folder / "results.json"
    results = files.read_json(kept) if kept.exists() else []
    done = by_trial(results)
    found = []
    for method in methods:
        listed = {trial.name: trial for trial in tune_trials.trials(method, PROTOCOL)}
        if missing := [name for name in listed if name not in done]:
            raise UserError(
                f"{method} has {len(missing)} trial(s) to run in {folder}, {missing[0]} first; run "
                f"without --{TEST}, or name finished --methods."
            )
        found.append(listed[best_of(method, results)])
    return found


def choose(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the flags; settings for all trials apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="folder of the trials")
    add("--methods", default="", help="some of them; all by default")
    add("--dry_run", action="store_true", help="list the trials; touch nothing")
    add(f"--{TEST}", action="store_true", help="score the best trials on the test images")
    given = [a for a in argv if re.match(r"--?config\.", a)]
    asked = parser.parse_args([a for a in argv if a not in given])
    asked.methods = [m for m in asked.methods.split(",") if m] or list(tune_trials.CHANGES)
    for method in asked.methods:
        if method not in tune_trials.CHANGES:
            parser.error(f"there is no {method!r}, only {', '.join(tune_trials.CHANGES)}")
    return asked, given


def run(argv: Sequence[str]) -> None:
    asked, given = choose(argv)
    folder, stage, settings = asked.workdir, STAGE, SETTINGS
    if asked.test:
        listed = best_trials(asked.methods, folder)
        folder, stage, settings = folder / TEST, TEST_STAGE, TEST_SETTINGS
    else:
        listed = [t for m in asked.methods for t in tune_trials.trials(m, PROTOCOL)]
    options = search.Options(folder, RECIPE, (), (), asked.dry_run, given)
    named = search.given_settings(options)
    flags = [f"--config.{name}={value}" for name, value in settings.items() if name not in named]
    options = options._replace(settings=[*flags, *given])
    sources: dict[DataRecipe, Any] = {}
    cells = [search.cell_of(trial, stage, options, sources) for trial in listed]
    if not asked.test:
        search.check_held_out(cells)
    if asked.dry_run:
        print("\n".join(search.describe(options, cells)))
    elif asked.test:
        run_all(cells, options, test_page, "test.md")
    else:
        run_all(cells, options, page, "tune.md")


if __name__ == "__main__":
    measured.as_script("tune", run)
