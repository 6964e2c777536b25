"""Learns sets at full width, in steps cut to minutes of one GPU, and scores each once.

python benchmarks/learned_full.py --workdir=runs/full         Fashion-MNIST, IPC 10
python benchmarks/learned_full.py --workdir=runs/full --methods=idc       one of them
python benchmarks/learned_full.py --workdir=runs/full -- --config.learn.steps=200   flags of main

Every method is a process of its own with its published settings for the data set, but for the steps
and rates of BUDGETS, which are meant for ten minutes of one H100 or less, with compilation and
students. Three students of a set, and of as many random real images, train by the
method's own protocol; the test images are looked at once. The same command goes on where it was
stopped, and then counts the seconds that were left.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import measured

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.store.workdir import WorkDir

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/fashion_mnist.py"
SEEDS = 3
STAGES = "experts,learn,evaluate"


class Budget(NamedTuple):
    """What a method is given.

    Attributes:
      steps: of the images.
      image_rate: learning rate of the images; the published ones are for many more steps.
      label_rate: of the labels.
      least: test accuracy that it should have at IPC 10; 0 where none is asked.
      settings: further ones, by name.
    """

    steps: int
    image_rate: float
    label_rate: float
    least: float = 0.0
    settings: Mapping[str, Any] = MappingProxyType({})


BUDGETS = {
    "frepo": Budget(20_000, 9e-4, 9e-4, 0.85),
    "idc": Budget(3_000, 3e-4, 0.0, 0.84, {"learn.factor": 1}),  # IDC-I
}


def flags_of(method: str, ipc: int, folder: Path) -> list[str]:
    """Flags of `delt_jax run` for a method."""
    budget = BUDGETS[method]
    settings = {
        "learn.steps": budget.steps,
        "learn.image_rate": budget.image_rate,
        "learn.label_rate": budget.label_rate,
        "evaluate.seeds": SEEDS,
        **budget.settings,
    }
    return [
        f"--config={CONFIG}:{method},ipc{ipc}",
        f"--workdir={folder / f'{method}-ipc{ipc}'}",
        f"--stages={STAGES}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]


def measure(method: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Runs a method; what came of it, as a row."""
    flags = [*flags_of(method, chosen.ipc, chosen.workdir), *chosen.flags]
    say(f"{method}: delt_jax run {' '.join(flags)}")
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "delt_jax.main", *flags], cwd=ROOT)
    if done.returncode:
        raise UserError(f"{method} ended with status {done.returncode}; its last lines say why.")
    seconds = time.perf_counter() - started
    workdir = WorkDir(chosen.workdir / f"{method}-ipc{chosen.ipc}")
    made = workdir.needed("evaluation/manifest.json", "evaluate")
    learned = workdir.needed("distilled/manifest.json", "learn")
    score = {row["images"]: row for row in made["rows"]}
    return {
        "method": method,
        "steps": learned["inputs"]["learn.steps"],
        "seconds": seconds,
        "learned": (score["recovered"]["last_mean"], score["recovered"]["last_std"]),
        "random": (score["random"]["last_mean"], score["random"]["last_std"]),
        "least": BUDGETS[method].least,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line per method."""
    lines = [
        "| method | steps | seconds, all stages | learned | random real | asked |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        scores = [
            f"{100 * mean:.1f} ± {100 * deviation:.1f}"
            for mean, deviation in (row["learned"], row["random"])
        ]
        asked = f"{100 * row['least']:.0f}" if row["least"] else "–"
        lines.append(
            f"| {row['method']} | {row['steps']:,} | {row['seconds']:.0f} | {scores[0]} "
            f"| {scores[1]} | {asked} |"
        )
    return lines


def run(argv: Sequence[str]) -> None:
    """Runs the methods in turn and prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--methods", default=",".join(BUDGETS), help="some of them")
    parser.add_argument("--ipc", type=int, default=10, help="images per class")
    parser.add_argument("flags", nargs="*", help="more flags of delt_jax.main, after --")
    chosen = parser.parse_args(argv)
    chosen.workdir = chosen.workdir.resolve()
    unknown = [name for name in chosen.methods.split(",") if name not in BUDGETS]
    if unknown:
        raise UserError(f"There is no budget for {unknown[0]!r}; there are {', '.join(BUDGETS)}.")
    rows: list[dict[str, Any]] = []
    for method in chosen.methods.split(","):
        rows.append(measure(method, chosen))
        print("\n".join(table(rows)), flush=True)
    from delt_jax.runtime import devices  # last, because it starts JAX

    print(f"\nFashion-MNIST, IPC {chosen.ipc}; {devices.describe()}, {date.today().isoformat()}.")


if __name__ == "__main__":
    measured.as_script("learned_full", run)
