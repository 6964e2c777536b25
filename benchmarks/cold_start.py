"""Times a recipe from a cold compile cache, by stage and with compilation apart, and again warm.

python benchmarks/cold_start.py                             the Fashion-MNIST recipe
python benchmarks/cold_start.py --config=configs/digits.py --beside=CHECKOUT
python benchmarks/cold_start.py --config=configs/digits.py -- --config.evaluate.seeds=3

Every run is a process with a new work directory. A cold run has an empty compile cache, the warm
run after it has what the cold one left there. --beside runs the same recipe from another checkout
of this repository, such as an older version, in turns. Flags after `--` go to the command. Programs
are counted in JAX's own log of compilations, so the package knows nothing of this.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LARGE = 0.5  # seconds from which on a program is counted
STATES = ("cold", "warm")
STAGES = ("squeeze", "rank", "recover", "relabel", "evaluate", "report")
_STAGE = re.compile(rf"({'|'.join(STAGES)}): ")
_COMPILED = re.compile(r"Finished XLA compilation of (\S+) in ([0-9.e+-]+) sec")
_TRACED = re.compile(
    r"Finished (?:tracing \+ transforming|jaxpr to MLIR module conversion) .* in ([0-9.e+-]+) sec"
)
_TOLD = 20  # lines of a failed run


class Line(NamedTuple):
    """A line that a run printed, and the seconds after its start at which it came."""

    at: float
    text: str


class Compilation(NamedTuple):
    """A program: its name, the seconds that it took, and when that ended."""

    name: str
    seconds: float
    end: float


class Part(NamedTuple):
    """A stage of a run, or all of it.

    Attributes:
      name: of the stage.
      seconds: that it took.
      programs: those that were finished in it and took `LARGE` seconds or more.
      compiling: seconds in which at least one thread compiled, of any program.
      tracing: seconds of tracing and lowering, summed over threads.
    """

    name: str
    seconds: float
    programs: tuple[Compilation, ...]
    compiling: float
    tracing: float


class Run(NamedTuple):
    """What a process printed, by stream, and its seconds."""

    out: list[Line]
    errors: list[Line]
    seconds: float


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans of time."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def parts(run: Run) -> list[Part]:
    """The stages of a run, in order, from what it printed; the last part is all of it."""
    begins: dict[str, float] = {}
    for line in run.out:
        if (found := _STAGE.match(line.text)) is not None:
            begins.setdefault(found[1], line.at)  # "report: PATH" is the last line of a run
    edges = [("start", 0.0), *begins.items(), ("", run.seconds)]
    compiled = [
        Compilation(found[1], float(found[2]), line.at)
        for line in run.errors
        if (found := _COMPILED.search(line.text)) is not None
    ]
    traced = [
        (line.at, float(found[1]))
        for line in run.errors
        if (found := _TRACED.search(line.text)) is not None
    ]

    def part(name: str, begin: float, end: float) -> Part:
        spans = [(max(begin, c.end - c.seconds), min(end, c.end)) for c in compiled]
        return Part(
            name,
            end - begin,
            tuple(c for c in compiled if begin <= c.end < end and c.seconds >= LARGE),
            busy(span for span in spans if span[0] < span[1]),
            sum(seconds for at, seconds in traced if begin <= at < end),
        )

    stages = [part(name, begin, end) for (name, begin), (_, end) in itertools.pairwise(edges)]
    return [*stages, part("all", 0.0, run.seconds)]


def launch(checkout: Path, flags: Sequence[str], cache: Path) -> Run:
    """Runs the command of a checkout in a new work directory.

    Args:
      checkout: folder of the repository.
      flags: of `delt_jax.main`, without --workdir.
      cache: folder of compiled programs.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(checkout), os.environ.get("PYTHONPATH", "")])
        ),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_LOG_COMPILES": "1",
    }
    with tempfile.TemporaryDirectory(prefix="cold_start_") as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "delt_jax.main", *flags, f"--workdir={folder}/run"],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        streams: list[list[Line]] = [[], []]
        readers = [
            threading.Thread(target=_read, args=(stream, lines, started))
            for stream, lines in zip((process.stdout, process.stderr), streams, strict=True)
        ]
        for reader in readers:
            reader.start()
        status = process.wait()
        seconds = time.perf_counter() - started
        for reader in readers:
            reader.join()
    if status:
        told = "\n".join(line.text for line in streams[1][-_TOLD:])
        raise SystemExit(f"cold_start: a run of {checkout} ended with {status}:\n{told}")
    return Run(streams[0], streams[1], seconds)


def _read(stream: IO[str], lines: list[Line], started: float) -> None:
    for text in stream:
        lines.append(Line(time.perf_counter() - started, text.rstrip("\n")))


def table(runs: Sequence[tuple[str, Sequence[Part]]]) -> list[str]:
    """Markdown: a line for each stage of each run, by name of the run."""
    lines = [
        f"| run | stage | seconds | programs of {LARGE} s or more | their seconds "
        "| seconds in which anything compiled | tracing and lowering, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, stages in runs:
        for part in stages:
            spent = sum(program.seconds for program in part.programs)
            lines.append(
                f"| {name} | {part.name} | {part.seconds:.1f} | {len(part.programs)} "
                f"| {spent:.1f} | {part.compiling:.1f} | {part.tracing:.1f} |"
            )
    return lines


def largest(name: str, whole: Part) -> str:
    """A line that names the programs of a run, longest first."""
    programs = sorted(whole.programs, key=lambda program: -program.seconds)
    named = ", ".join(f"{program.name} {program.seconds:.1f} s" for program in programs)
    return f"- {name}: {named or 'none'}."


def ratios(runs: Sequence[tuple[str, Sequence[Part]]]) -> list[str]:
    """A line for each run here and the same one beside it: time and programs of the one by those
    of the other."""
    whole = {name: stages[-1] for name, stages in runs}
    lines = []
    for name, ours in whole.items():
        other = whole.get(f"beside, {name}")
        if other is not None:
            lines.append(
                f"- {name}: {ours.seconds / other.seconds:.2f} of the time beside it; "
                f"{len(ours.programs)} programs, {len(other.programs)} beside it."
            )
    return lines


def main() -> None:
    """Runs in turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/fashion_mnist.py", help="recipe, in each")
    parser.add_argument("--beside", type=Path, help="another checkout, to be run in turns")
    parser.add_argument("--times", type=int, default=1, help="cold and warm runs of each")
    parser.add_argument("flags", nargs="*", help="more flags of delt_jax.main, after --")
    chosen = parser.parse_args()
    checkouts = {"": ROOT} | ({"beside, ": chosen.beside.resolve()} if chosen.beside else {})
    flags = [f"--config={chosen.config}", *chosen.flags]
    runs: list[tuple[str, list[Part]]] = []
    try:
        for turn in range(1, chosen.times + 1):
            with tempfile.TemporaryDirectory(prefix="cold_start_cache_") as caches:
                for state, (who, checkout) in itertools.product(STATES, checkouts.items()):
                    cache = Path(caches) / (who.strip(" ,") or "here")
                    name = f"{who}{state}" + (f" {turn}" if chosen.times > 1 else "")
                    found = parts(launch(checkout, flags, cache))
                    runs.append((name, found))
                    print(f"{name}: {found[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    finally:  # also of the runs before one that fails
        print("\n".join([*table(runs), "", *(largest(name, found[-1]) for name, found in runs)]))
        print("\n".join(ratios(runs)))
    from delt_jax.runtime import devices  # last, because it starts JAX

    print(f"- {chosen.config}; {devices.describe()}, {date.today().isoformat()}.")


if __name__ == "__main__":
    main()
