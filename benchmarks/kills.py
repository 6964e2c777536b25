"""Kills a recovery again and again and compares the images with an undisturbed run's.

    python benchmarks/kills.py [--kills=20] [--terms=5] [--seed=0]

Every trial starts anew and is killed once, at a random moment of its recovery, on 1, 2, 4 or 8
virtual CPU devices or as two processes of four; it is finished on another of these. Prints a
line for each trial and ends with status 1 if a pixel or a loss differs.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import processes

MACHINES = (1, 2, 4, 8, "2 x 4")  # devices; or processes x devices


def launch(workdir, machine):
    if machine == "2 x 4":
        return processes.start_job(workdir)
    return [processes.start(workdir, devices=machine)]


def finish(workdir, machine):
    """Runs to the end; the seconds it took."""
    started = time.monotonic()
    running = launch(workdir, machine)
    status, _, errors = processes.ended(running[0], seconds=600)
    for other in running[1:]:
        processes.ended(other)
    if status:
        raise SystemExit(f"a run on {machine} ended with {status}:\n{errors}")
    return time.monotonic() - started


def kill(workdir, machine, number, after):
    """Sends the signal so many seconds after the recovery began; whether it was in time."""
    running = launch(workdir, machine)
    deadline = time.monotonic() + 300
    while not (workdir / "distilled.partial/execution.json").exists():
        if running[0].poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    time.sleep(after)
    in_time = running[0].poll() is None
    for process in running:
        process.send_signal(number)
    for process in running:
        processes.ended(process)
    return in_time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of SIGKILL")
    parser.add_argument("--terms", type=int, default=5, help="of SIGTERM")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        finish(whole, 1)
        for trial in range(options.kills + options.terms):
            number = signal.SIGKILL if trial < options.kills else signal.SIGTERM
            place = Path(folder) / f"trial{trial}"
            place.mkdir()
            workdir = processes.unrecovered(whole, place)
            first, second = draw.sample(MACHINES, 2)
            after = draw.uniform(0, 6)
            in_time = kill(workdir, first, number, after)
            parts = len(list((workdir / "distilled.partial").glob("batch_*.npz")))
            begun = len(list((workdir / "distilled.partial").glob("state_*")))
            seconds = finish(workdir, second)
            try:
                processes.assert_same(workdir, whole)
                verdict = "identical"
            except AssertionError:
                verdict, differ = "DIFFERENT", differ + 1
            print(
                f"{trial + 1:3} {number.name} after {after:4.1f} s on {first} device(s)"
                f"{'' if in_time else ' (too late)'}: {parts} batches done, {begun} begun; "
                f"finished on {second} in {seconds:.0f} s: {verdict}",
                flush=True,
            )
    print(f"{options.kills + options.terms - differ} of {options.kills + options.terms} identical")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
