"""Stops runs at random moments of all stages, and compares what they make with an undisturbed run.

    python benchmarks/kills.py [--kills=25] [--signals=200] [--seed=0]
    python benchmarks/kills.py --config=digits:mtt,ipc1 --config.learn.steps=30 \
        --config.learn.save_minutes=0.004 --config.learn.options=experts=2,epochs=3 \
        --config.evaluate.epochs=30         another recipe: a learned set and its experts

A kill (SIGKILL) hits a new run once; the same command finishes it. A signal (SIGTERM and SIGINT in
turn) hits a run, an export or a comparison; the command starts again and is hit again, until it
ends before its signal. A signal is lost if its command ends with another status than 143 or 130.
Every finished folder must hold the same files with the same content, but for the log, the times
that `TIMES` names and the dates of pages. Prints a line for each stop and ends with status 1 if
anything differs or is lost.

All runs have one virtual CPU device: XLA's rounding on a CPU depends on the threads of a device, so
teachers trained on one and on four differ. That images recovered for one teacher do not is tested
in tests/recovery.
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "ipc": 3,
    "data.flip": False,
    "teacher.width": 8,
    "teacher.epochs": 6,
    "teacher.others": ("conv3:4",),
    "recover.iterations": 80,
    "recover.round_iterations": 20,
    "recover.batch_size": 6,
    "recover.save_minutes": 0.004,
    "relabel.rand_augment": "",
    "relabel.stored_epochs": 5,
    "evaluate.width": 8,
    "evaluate.epochs": 10,
    "evaluate.eval_every": 5,
    "evaluate.seeds": 2,
    "evaluate.batch_size": 15,
    "evaluate.regimes": ("online", "stored"),
    "evaluate.images": ("recovered", "full"),
    "evaluate.keep_students": True,
    "evaluate.save_minutes": 0.004,
}
# The page of a comparison has the figures of comparison.csv and comparison.md.
LOGS = ("metrics.jsonl", ".lock", "comparison.html")
# Keys of JSON files and of arrays that hold times; a checksum of a file with times depends on them.
TIMES = (
    "seconds",
    "cost_seconds",
    "recover_seconds",
    "made",
    "command",
    "sha256",
    "bytes",
    "checksum",
)
WAIT = 600  # seconds after which a command counts as hanging


class Command(NamedTuple):
    """A command line that is stopped and started again.

    Attributes:
      name: printed.
      arguments: after `python -m`.
      seconds: that it takes undisturbed, from nothing.
      folder: what it makes.
    """

    name: str
    arguments: list[str]
    seconds: float
    folder: Path


def start(arguments: list[str]) -> subprocess.Popen:
    """Starts a command."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A job in the background of a shell is born deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status as a shell has it, and all output."""
    try:
        out, _ = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode, out


def finish(arguments: list[str]) -> float:
    """Runs a command to its end; returns the seconds it took."""
    started = time.monotonic()
    status, out = ended(start(arguments))
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {status}:\n{out}")
    return time.monotonic() - started


def stop(arguments: list[str], number: int, after: float) -> tuple[bool, int, str]:
    """Sends a signal after so many seconds; returns whether it came in time, status and output."""
    process = start(arguments)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        in_time = not _is_zombie(process.pid)
        process.send_signal(number)
        return (in_time, *ended(process))
    return (False, *ended(process))


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended, so that a signal cannot reach it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def content(path: Path) -> Any:
    """What a file says, but for times."""
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {n: arrays[n].tobytes() for n in arrays.files if n not in TIMES}
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as f:
            return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)]
    if path.name == "comparison.md":
        return _without_column(path.read_text("utf-8"), "seconds")
    if path.suffix == ".html":
        # Durations, the date and the machine stand in one table and one line.
        return re.sub(r"\d+(\.\d+)? (s|min|h)\b|\d{4}-\d\d-\d\d", "", path.read_text("utf-8"))
    return path.read_bytes()


def _without_column(text: str, name: str) -> list[list[str]]:
    """Cells of a text's lines but for one column of its tables."""
    lines, left_out = [], -1
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 2 and not left_out > 0:
            left_out = cells.index(name) if name in cells else -1
        elif len(cells) <= 2:
            left_out = -1
        lines.append([c for i, c in enumerate(cells) if i != left_out and set(c) != {"-"}])
    return lines


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of files that only one of two folders has, or that differ."""

    def names(folder: Path) -> set[str]:
        found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        return {str(p) for p in found if p.name not in LOGS}

    here, there = names(ours), names(theirs)
    unlike = {n for n in here & there if content(ours / n) != content(theirs / n)}
    return sorted((here ^ there) | unlike)


def write_recipe(folder: Path) -> Path:
    """A config file of `SETTINGS`."""
    file = folder / "recipe.py"
    file.write_text(
        "from delt_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.update_from_flattened_dict({SETTINGS!r})\n"
        "    return config\n",
        encoding="utf-8",
    )
    return file


def kills(count: int, draw: random.Random, folder: Path, recipe: list[str]) -> int:
    """Kills new runs once each; returns how many differ from an undisturbed one.

    Args:
      count: of runs.
      draw: of moments.
      folder: to work in.
      recipe: a config and settings of it, as `write_recipe` writes it or as asked for.
    """
    whole, workdir = folder / "whole", folder / "run"
    config, *settings = recipe
    arguments = ["delt_jax.main", f"--config={config}", f"--workdir={workdir}", *settings]
    finish(arguments)  # compiles
    shutil.rmtree(workdir)
    seconds = finish(arguments)
    workdir.rename(whole)  # so that both have one command line, which the report prints
    failed = 0
    for trial in range(count):
        shutil.rmtree(workdir, ignore_errors=True)
        after = draw.uniform(0, seconds)
        in_time, _, _ = stop(arguments, signal.SIGKILL, after)
        before = stage_of(workdir)
        took = finish(arguments)
        differ = differences(workdir, whole)
        failed += bool(differ)
        print(
            f"{trial + 1:3} SIGKILL after {after:5.1f} s{'' if in_time else ' (too late)'}, "
            f"{before}; finished in {took:.0f} s: "
            f"{'DIFFERENT ' + ', '.join(differ[:5]) if differ else 'identical'}",
            flush=True,
        )
    print(f"{count - failed} of {count} killed runs identical")
    return failed


def stage_of(workdir: Path) -> str:
    """What a stopped run was at."""
    partial = sorted(p.name.removesuffix(".partial") for p in workdir.glob("**/*.partial"))
    done = sum(1 for p in workdir.glob("*/manifest.json"))
    return f"{done} artefacts done{', in ' + ' and '.join(partial) if partial else ''}"


def signals(count: int, draw: random.Random, folder: Path, recipe: list[str]) -> int:
    """Sends signals to runs, exports and comparisons; returns how many are lost or differ.

    Takes what `kills` takes.
    """
    config, *settings = recipe
    run, export, grid = folder / "run", folder / "export", folder / "grid"
    whole = folder / "whole"
    if not whole.exists():
        finish(["delt_jax.main", f"--config={config}", f"--workdir={whole}", *settings])
    own = ["delt_jax.main", f"--config={config}", f"--workdir={run}", *settings]
    all_of = ["delt_jax.compare", f"--configs={config}", f"--workdir={grid}", "--ipc=1,2"]
    # Both are folders of several files; pictures hold no floats.
    layout = "parquet" if (whole / "distilled/learned.npz").exists() else "folder"
    commands = [
        Command("run", own, 0, run),
        Command(
            "export",
            ["delt_jax.export", f"--to={layout}", f"--out={export}", "--overwrite", str(whole)],
            0,
            export,
        ),
        Command("compare", [*all_of, *settings], 0, grid),
    ]
    references = {}
    for i, command in enumerate(commands):
        commands[i] = command._replace(seconds=finish(command.arguments))
        references[command.name] = command.folder.rename(folder / f"whole_{command.name}")
    lost = differ = sent = 0
    while sent < count:
        command = draw.choices(commands, weights=(5, 1, 2))[0]
        shutil.rmtree(command.folder, ignore_errors=True)
        stopped = True
        while stopped and sent < count:
            number = signal.SIGTERM if sent % 2 else signal.SIGINT
            after = draw.uniform(0, command.seconds)
            stopped, status, out = stop(command.arguments, number, after)
            if "Traceback" in out and "delt_jax/" not in out.replace(str(folder), ""):
                continue  # Python itself was starting
            sent += stopped
            is_lost = status != 128 + number if stopped else status != 0
            lost += is_lost
            print(
                f"{sent:3} {command.name}: {signal.Signals(number).name} after {after:5.1f} s"
                f"{'' if stopped else ' (it had ended)'}: status {status}"
                f"{' LOST' if is_lost else ''}{' TRACEBACK' if 'Traceback' in out else ''}",
                flush=True,
            )
            if is_lost or "Traceback" in out:
                print(out, flush=True)
        if not stopped:
            unlike = differences(command.folder, references[command.name])
            unlike += [p.name for p in command.folder.parent.glob(f".{command.folder.name}.*")]
            differ += bool(unlike)
            verdict = f"DIFFERENT {', '.join(unlike[:5])}" if unlike else "identical"
            print(f"    {command.name} finished: {verdict}", flush=True)
    print(f"{sent} signals: {lost} lost; {differ} finished folders differ")
    return lost + differ


def main() -> int:
    """Runs both; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="", help="a recipe; a short one by default")
    settings = [a for a in sys.argv[1:] if re.match(r"--?config\.", a)]
    options = parser.parse_args([a for a in sys.argv[1:] if a not in settings])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    draw, failed = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = [options.config or str(write_recipe(folder)), *settings]
        if options.kills:
            failed += kills(options.kills, draw, folder, recipe)
        if options.signals:
            failed += signals(options.signals, draw, folder, recipe)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
