"""Searches for better settings of recovery on images held out of training, never on test images.

python benchmarks/search.py --workdir=runs/search             everything, one stage after the other
python benchmarks/search.py --workdir=runs/search --dry_run   lists the trials, touches nothing

A trial is a recipe with one thing changed, a work directory below --workdir/trials that the command
in the table makes again. Stages follow each other as successive halving does: `short` gives every
trial one student a row and few epochs, the later ones give those that were best more of both.
`base`, the recipe itself, takes part in all, and its random real images of equal number are what
every gain is over. Teachers, rankings and baselines are made once for all trials that share them;
results are in results.json, and the same command goes on where it was stopped.

--stage=NAME does one stage, --groups some of the trials, --config another recipe; any setting for
all trials follows as --config.NAME=VALUE.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measured
import search_table
from search_trials import TRIALS, Trial

from delt_jax import main as single
from delt_jax.comparison import cells as grid
from delt_jax.comparison import reuse
from delt_jax.config import cli, derive, from_config
from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.recipe import DataRecipe, flatten
from delt_jax.recovery import schedule
from delt_jax.runtime import compile_cache, devices
from delt_jax.stages import checks, recover
from delt_jax.store import files
from delt_jax.store.identity import identity
from delt_jax.store.workdir import WorkDir

BASE = "base"
STAGES_OF_A_TRIAL = ("squeeze", "rank", "recover", "relabel", "evaluate")
# Settings of all trials: how their sets are scored, and cheaply.
COMMON: dict[str, Any] = {
    "data.validation_share": 0.1,
    "evaluate.students": ("conv3",),
    "evaluate.width": 32,
    "evaluate.images": ("recovered", "random", "selected"),
    "evaluate.regimes": ("online", "fixed", "hard"),
}


class Stage(NamedTuple):
    """A stage of the search, a round of successive halving.

    Attributes:
      seeds: students per row.
      epochs: of each student; 0 takes the protocol's.
      trials: how many of the best trials of the stage before, for every kind of labels, take
        part; 0 takes all.
    """

    seeds: int
    epochs: int
    trials: int


STAGES = {"short": Stage(1, 50, 0), "middle": Stage(2, 100, 4), "long": Stage(5, 150, 1)}


class Options(NamedTuple):
    """The command line, parsed."""

    folder: Path
    config: str
    stages: Sequence[str]
    groups: Sequence[str]
    dry_run: bool
    settings: Sequence[str]


def chosen_trials(groups: Sequence[str]) -> dict[str, Trial]:
    """Trials of the groups by name, `base` first."""
    listed = [Trial(BASE, {}), *(trial for group in groups for trial in TRIALS[group])]
    return {trial.name: trial for trial in listed}


def given_settings(options: Options) -> dict[str, str]:
    """Settings of the command line by dotted name; they override stages and COMMON."""
    parts = (f.lstrip("-").removeprefix("config.").partition("=") for f in options.settings)
    return {name: value for name, _, value in parts}


def cell_of(
    trial: Trial, stage: Stage, options: Options, sources: dict[DataRecipe, Source]
) -> grid.Cell:
    """A trial as a run of the command line, checked; writes nothing.

    Args:
      trial: the change.
      stage: its budget.
      options: of the search.
      sources: data that earlier trials have opened, by recipe; extended here.

    Raises:
      UserError: naming the trial, if it cannot work.
    """
    workdir = options.folder / "trials" / trial.name
    colon = ("," if ":" in options.config else ":") if trial.method else ""
    settings = COMMON | {
        "evaluate.seeds": stage.seeds,
        "evaluate.scores_folder": str(options.folder / "scores"),
    }
    if stage.epochs:
        settings |= {"evaluate.epochs": stage.epochs, "evaluate.eval_every": stage.epochs}
    given = given_settings(options)
    kept = {k: v for k, v in settings.items() if k not in given} | trial.settings
    flags = [f"--config={options.config}{colon}{trial.method}", f"--workdir={workdir}"]
    flags += [*options.settings, *(f"--config.{k}={v}" for k, v in kept.items())]
    try:
        arguments = cli.parse(["delt_jax.main", *flags])
        recipe = from_config(arguments.config)
        folder = WorkDir(workdir, arguments.command)
        folder.check()
        if recipe.data not in sources:
            sources[recipe.data] = single.open_data(recipe.data, workdir / "cache", options.dry_run)
        source = sources[recipe.data]
        recipe, _ = derive.complete(recipe, source)
        checks.check(recipe, source)
    except UserError as e:
        raise UserError(f"{trial.name}: {e}") from e
    return grid.Cell(trial.name, arguments, recipe, source, folder)


def check_held_out(cells: Sequence[grid.Cell]) -> None:
    """Checks that trials are scored on images held out of training.

    Raises:
      UserError: for one that would be scored on test images.
    """
    for cell in cells:
        if not cell.recipe.data.validation_share:
            raise UserError(
                f"{cell.name}: data.validation_share is 0, so that test images would choose; leave "
                f"it above 0."
            )


def run_trial(cell: grid.Cell) -> None:
    """Makes teacher, set and scores of a trial, or reuses those of other trials.

    Raises:
      UserError: for whatever cannot work, such as images that diverge.
    """
    beside = cell.folder.path.parent
    paths = sorted(beside.iterdir()) if beside.exists() else []
    others = [WorkDir(path) for path in paths if path != cell.folder.path]
    reuse.link_finished(cell.recipe, cell.source, cell.folder, others)
    a = cell.arguments
    try:
        single.run(a.config, a.workdir, STAGES_OF_A_TRIAL, command=a.command)
    finally:
        compile_cache.free()


def rows_of(cell: grid.Cell, stage: str) -> list[dict[str, Any]]:
    """Results of a finished trial, a row for each kind of labels and image set."""
    path = cell.folder.path
    made = files.read_json(path / "distilled" / "manifest.json")
    scores = files.read_json(path / "evaluation" / "manifest.json")
    return [
        {
            "stage": stage,
            "trial": cell.method,
            "asked": asked(cell),
            "labels": row.regime,
            "images": row.image_set,
            "seeds": row.seeds,
            "last_mean": row.last_mean,
            "last_std": row.last_std,
            "scored_on": scores["scored_on"],
            "seconds": made["cost_seconds"],
            "image_iterations": made["schedule"]["image_iterations"],
            "teacher": scores["teacher"]["hash"],
            "teacher_accuracy": scores["teacher"]["accuracy"],
            "student": row.student,
            "protocol": row.protocol,
            "distilled": scores["distilled"],
            "scores": row.scores,
            "command": cell.arguments.command,
            "machine": devices.describe(),
            "date": date.today().isoformat(),
        }
        for row in (ScoreRow.from_dict(row) for row in scores["rows"])
    ]


def asked(cell: grid.Cell) -> str:
    """Hash of a trial's settings and data, to tell its results from those of other settings."""
    settings = flatten(cell.recipe)
    for name in ("evaluate.scores_folder", "data.workers", "data.memory_mib", "writers"):
        del settings[name]
    return identity({"settings": settings, "data": cell.source.fingerprint})


def run_stage(
    name: str, cells: Sequence[grid.Cell], folder: Path, results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Runs the unfinished trials of a stage; writes results and tables after each.

    Args:
      name: of the stage.
      cells: its trials.
      folder: of the search.
      results: so far.

    Returns:
      All results.
    """
    for number, cell in enumerate(cells, 1):
        head = f"{name}, trial {number} of {len(cells)}, {cell.name}"
        if any(
            (r["stage"], r["trial"], r["asked"]) == (name, cell.name, asked(cell)) for r in results
        ):
            say(f"{head}: finished before")
            continue
        say(f"{head}: {cell.arguments.command}")
        try:
            run_trial(cell)
        except UserError as e:  # one that diverges says no more than that it is no good
            print(f"search: {head}: {e}", file=sys.stderr)
            continue
        results = measured.merge(
            results, rows_of(cell, name), ("stage", "trial", "labels", "images")
        )
        files.write_json(folder / "results.json", results)
        files.write_bytes(folder / "search.md", search_table.page(results, BASE).encode())
        files.write_bytes(folder / "search.csv", search_table.as_csv(results, BASE))
    return results


def promoted(results: Sequence[dict[str, Any]], stage: str, count: int) -> list[str]:
    """Names of the `count` best trials for each kind of labels, after `base`.

    Raises:
      UserError: if the stage has no results.
    """
    found = search_table.gains(results, BASE, stage)
    if not found:
        raise UserError(f"There are no results of --stage={stage}, whose best go on; run it first.")
    names = [BASE]
    for lines in found.values():
        names += [line["trial"] for line in lines if line["trial"] != BASE][:count]
    return list(dict.fromkeys(names))


def describe(options: Options, cells: Sequence[grid.Cell]) -> list[str]:
    """The trials and what they cost, as lines of text."""
    given = given_settings(options)
    lines = [
        f"{name}: {given.get('evaluate.seeds', s.seeds)} student(s) of "
        f"{given.get('evaluate.epochs', s.epochs)} epochs a row, "
        f"{f'the best {s.trials} of each kind of labels' if s.trials else 'all trials'}"
        for name, s in STAGES.items()
        if name in options.stages
    ]
    lines += ["", f"{'trial':<28} {'image-iterations':>16}  recovery"]
    for cell in cells:
        r = cell.recipe
        paid = schedule.cost(
            recover.schedule_of(r, len(cell.source.class_names)), r.recover.iterations
        )
        state = "done" if cell.folder.manifest("distilled/manifest.json") else "not done yet"
        lines.append(f"{cell.name:<28} {paid.image_iterations:>16,}  {state}")
    return lines


def choose(argv: Sequence[str]) -> Options:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--workdir", required=True, help="folder of the search")
    add("--stage", default="", help=f"one of {', '.join(STAGES)}; all by default")
    add("--groups", default="", help=f"some of {','.join(TRIALS)}; all by default")
    add("--config", default="configs/fashion_mnist.py", help="the recipe that is changed")
    add("--dry_run", action="store_true", help="list the trials; touch nothing")
    settings = [a for a in argv if re.match(r"--?config\.", a)]
    chosen = parser.parse_args([a for a in argv if a not in settings])
    stages, groups = _some(parser, chosen.stage, STAGES), _some(parser, chosen.groups, TRIALS)
    return Options(Path(chosen.workdir), chosen.config, stages, groups, chosen.dry_run, settings)


def _some(parser: argparse.ArgumentParser, text: str, known: dict[str, Any]) -> list[str]:
    """Names separated by commas; all known names if the text is empty."""
    names = list(filter(None, text.split(",")))
    for name in names:
        if name not in known:
            parser.error(f"there is no {name!r}, only {', '.join(known)}")
    return names or list(known)


def begin(options: Options) -> list[dict[str, Any]]:
    """Creates the folder of the search, or goes on in it.

    Returns:
      Results so far.

    Raises:
      UserError: if the folder belongs to another recipe or other settings.
    """
    asked_for = {"config": options.config, "settings": list(options.settings)}
    marker, kept = options.folder / "search.json", options.folder / "results.json"
    if marker.exists() and files.read_json(marker) != asked_for:
        raise UserError(
            f"--workdir {options.folder} is a search with another --config or other settings (see "
            f"its search.json); choose another folder."
        )
    with files.disk_errors_as_user_errors(options.folder):
        options.folder.mkdir(parents=True, exist_ok=True)
    files.write_json(marker, asked_for)
    return files.read_json(kept) if kept.exists() else []


def run(argv: Sequence[str]) -> None:
    options = choose(argv)
    trials, sources = chosen_trials(options.groups), dict[DataRecipe, Source]()
    first = STAGES[options.stages[0]]
    cells = [cell_of(trial, first, options, sources) for trial in trials.values()]
    check_held_out(cells)
    if options.dry_run:
        print("\n".join(describe(options, cells)))
        return
    results, order = begin(options), list(STAGES)
    for name in options.stages:
        stage, names = STAGES[name], list(trials)
        if stage.trials:
            before = order[order.index(name) - 1]
            names = [n for n in promoted(results, before, stage.trials) if n in trials]
        cells = [cell_of(trials[n], stage, options, sources) for n in names]
        results = run_stage(name, cells, options.folder, results)
    print(search_table.page(results, BASE))


if __name__ == "__main__":
    measured.as_script("search", run)
