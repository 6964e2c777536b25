"""Chooses rates of learned sets on validation images, with as many trials for every method.

python benchmarks/learned_tune.py --workdir=runs/tune_digits             digits, IPC 1 and 10
python benchmarks/learned_tune.py --workdir=runs/tune_digits --dry_run   lists the trials
F=configs/fashion_mnist.py:small
python benchmarks/learned_tune.py --workdir=runs/tune_small --config=$F --ipc=1

A trial is a run of `learn` and `evaluate` with the rates of images and labels multiplied by one of
--factors, a tenth of the training images held out, and two students under the method's own
protocol; random real images train beside. results.json has all, learned_tune.md the table. The same
command goes on where it was stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measured

from delt_jax import main as single
from delt_jax.comparison import reuse
from delt_jax.config import cli, derive, from_config
from delt_jax.core.progress import say
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.learned import methods
from delt_jax.recipe import Recipe
from delt_jax.runtime import compile_cache, devices
from delt_jax.stages import run as run_lib
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir

FACTORS = "1,3,10"
SETTINGS = {"data.validation_share": 0.1, "evaluate.seeds": 2}
STAGES = ("experts", "learn", "evaluate")


class Trial(NamedTuple):
    """A method's rates, multiplied.

    Attributes:
      method: a value of `learn.method`.
      ipc: images per class.
      factor: of the rates.
    """

    method: str
    ipc: int
    factor: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-ipc{self.ipc}-rate{self.factor:g}"


def command_of(trial: Trial, config: str, folder: Path) -> cli.Arguments:
    """The trial as a command line of `delt_jax run`.

    Raises:
      UserError: if it cannot work.
    """
    joined = f"{config}{',' if ':' in config else ':'}{trial.method},ipc{trial.ipc}"
    flags = [f"--config={joined}", f"--workdir={folder / 'trials' / trial.name}"]
    flags += [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    if trial.factor == 1:
        return cli.parse(["delt_jax.main", *flags])
    learn = opened(cli.parse(["delt_jax.main", *flags]), folder)[0].learn
    assert learn.image_rate is not None
    assert learn.label_rate is not None
    flags.append(f"--config.learn.image_rate={trial.factor * learn.image_rate}")
    flags.append(f"--config.learn.label_rate={trial.factor * learn.label_rate}")
    return cli.parse(["delt_jax.main", *flags])


def opened(arguments: cli.Arguments, folder: Path) -> tuple[Recipe, Source]:
    """The complete recipe of a command line, and its data."""
    recipe = from_config(arguments.config)
    source = run_lib.open_data(recipe.data, folder / "cache", dry_run=False)
    return derive.complete(recipe, source)[0], source


def run_trial(trial: Trial, arguments: cli.Arguments, folder: Path) -> dict[str, Any]:
    """Learns a set and trains students on it; what came of it, as a result."""
    before = time.process_time()
    own = WorkDir(arguments.workdir, arguments.command)
    others = [WorkDir(path) for path in sorted(own.path.parent.glob("*")) if path != own.path]
    reuse.link_finished(*opened(arguments, folder), own, others)  # experts
    try:
        single.run(arguments.config, arguments.workdir, STAGES, command=arguments.command)
    finally:
        compile_cache.free()
    made = WorkDir(arguments.workdir).needed("evaluation/manifest.json", "evaluate")
    score = {row["images"]: row for row in made["rows"]}
    return {
        **trial._asdict(),
        "learned": score["recovered"]["last_mean"],
        "random": score["random"]["last_mean"],
        "labels": score["recovered"]["regime"],
        "scored_on": made["scored_on"],
        "cpu_minutes": (time.process_time() - before) / 60,
        "command": arguments.command,
        "machine": devices.describe(),
        "date": date.today().isoformat(),
    }


def page(results: Sequence[dict[str, Any]]) -> str:
    """A line per method and IPC, the best of its trials in bold."""
    factors = sorted({row["factor"] for row in results})
    head = ["method", "IPC", "random", *(f"rate x {f:g}" for f in factors), "CPU minutes"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    groups: dict[tuple[str, int], dict[float, dict[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["method"], row["ipc"]), {})[row["factor"]] = row
    for (method, ipc), trials in groups.items():
        best = max(row["learned"] for row in trials.values())
        cells = [method, str(ipc), f"{100 * next(iter(trials.values()))['random']:.1f}"]
        for factor in factors:
            score = trials[factor]["learned"] if factor in trials else None
            text = "–" if score is None else f"{100 * score:.1f}"
            cells.append(f"**{text}**" if score == best else text)
        cells.append(f"{sum(row['cpu_minutes'] for row in trials.values()):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    machines = dict.fromkeys(f"{row['machine']}, {row['date']}" for row in results)
    return "\n".join([*lines, "", "; ".join(machines), ""])


def run(argv: Sequence[str]) -> None:
    """Runs the trials that are not finished; writes results and table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="folder of the trials")
    parser.add_argument("--config", default="configs/digits.py", help="a recipe, without method")
    parser.add_argument("--methods", default=",".join(methods.names()), help="some of them")
    parser.add_argument("--ipc", default="1,10", help="images per class")
    parser.add_argument("--factors", default=FACTORS, help="of the recipe's rates")
    parser.add_argument("--dry_run", action="store_true", help="list the trials; touch nothing")
    asked = parser.parse_args(argv)
    folder = Path(asked.workdir)
    trials = [
        Trial(method, int(ipc), float(factor))
        for ipc in asked.ipc.split(",")
        for method in asked.methods.split(",")
        for factor in asked.factors.split(",")
    ]
    if asked.dry_run:
        print("\n".join(trial.name for trial in trials))
        return
    kept = folder / "results.json"
    results: list[dict[str, Any]] = files.read_json(kept) if kept.exists() else []
    for number, trial in enumerate(trials, 1):
        head = f"trial {number} of {len(trials)}, {trial.name}"
        if any(Trial(row["method"], row["ipc"], row["factor"]) == trial for row in results):
            say(f"{head}: finished before")
            continue
        arguments = command_of(trial, asked.config, folder)
        say(f"{head}: {arguments.command}")
        try:
            made = run_trial(trial, arguments, folder)
        except UserError as e:  # one that diverges says no more than that it is no good
            print(f"learned_tune: {head}: {e}", file=sys.stderr)
            continue
        results = measured.merge(results, [made], ("method", "ipc", "factor"))
        files.write_json(kept, results)
        files.write_bytes(folder / "learned_tune.md", page(results).encode())
    print(page(results))


if __name__ == "__main__":
    measured.as_script("learned_tune", run)
