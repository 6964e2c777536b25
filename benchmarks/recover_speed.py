"""Times our recovery and an eager PyTorch one on the same machine, in turns.

python benchmarks/recover_speed.py                          the cases that suit the device
python benchmarks/recover_speed.py --cases=resnet18/224 --dtype=bfloat16 --stack=4
python benchmarks/recover_speed.py --write                  also writes benchmarks/results/ and
                                                            the tables of docs/performance.md

Both sides get the same weights, images, schedules, cores or GPU, and allocator. A pass runs ours
and then PyTorch on the full schedule, on EarlyLate at IPC 50, and at IPC 10; passes are repeated
until --seconds are over. Full optimisation costs the same at every IPC. Needs the `torch` extra.
"""

import argparse
import os
import sys
import time
from datetime import date
from typing import Any

from delt_jax.runtime import host_memory

_KEPT = "--default_malloc" not in sys.argv and host_memory.keep_freed()  # before any thread starts
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # of a GPU; the rest is torch's

import cases
import jax
import measured
import peaks
import speed_table
import torch
from speed_sides import Ours, Rival, make_problem, timed

from delt_jax.models import ModelSpec
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery.schedule import BatchSchedule, make_schedule
from delt_jax.runtime import devices

ROUNDS = 8  # as DELT's: T 4000, R 500
LEAST_PASSES = 3
CASES = {  # model and classes, by model and pixels
    "conv3/32": ("conv3", 10),
    "resnet18_modified/32": ("resnet18_modified", 10),
    "resnet18/224": ("resnet18", 1000),
}


def schedules(batch: int, round_iterations: int) -> dict[str, BatchSchedule]:
    """The full schedule of a batch, and EarlyLate at IPC 50 and 10."""
    length = ROUNDS * round_iterations
    plans = {"full": (50, 0), "ipc50": (50, round_iterations), "ipc10": (10, round_iterations)}
    return {
        name: make_schedule(batch // ipc, ipc, length, rounds, batch)[0]
        for name, (ipc, rounds) in plans.items()
    }


def measure(name: str, chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times one case.

    Returns:
      A row of the results.
    """
    model, classes = CASES[name]
    size = int(name.partition("/")[2])
    plans = schedules(chosen.batch, chosen.round_iterations)
    length = plans["full"].iterations
    recipe = RecoverRecipe(iterations=length, round_iterations=chosen.round_iterations)
    spec = ModelSpec(model, classes, size, 3, dtype=chosen.dtype)
    problem = make_problem(spec, chosen.batch, recipe)
    cases.say(f"{name}: compiling, choosing PyTorch's layout")
    ours = Ours(problem, chosen.stack)
    trial = make_schedule(chosen.batch // 50, 50, chosen.round_iterations, 0, chosen.batch)[0]
    rival = Rival(problem, device, trial)
    flops, moved = ours.cost(plans["full"])
    view = plans["full"].labels, (size // 8, 0, size // 2, size - size // 8), True
    losses = ours.loss(*view), rival.loss(*view)
    for plan in plans.values():  # every number of active images, and every start
        for side in (ours, rival):
            side.prepare(plan)()
    cases.say(f"{name}: measuring")
    peak = peaks.measure(chosen.dtype)
    seconds: dict[tuple[str, str], list[float]] = {}
    passes, started = 0, time.perf_counter()
    while passes < LEAST_PASSES or time.perf_counter() - started < chosen.seconds:
        for kind, plan in plans.items():
            for who, side in (("ours", ours), ("torch", rival)):
                spent = timed(side.prepare(plan))
                seconds.setdefault((kind, who), []).append(spent)
        passes += 1
        fast, slow = (seconds["full", who][-1] for who in ("ours", "torch"))
        cases.say(f"{name}: pass {passes}, full schedule {fast:.2f} s, PyTorch {slow:.2f} s")
    peak = peak.best(peaks.measure(chosen.dtype))
    return {
        "case": name,
        "dtype": chosen.dtype,
        "stack": chosen.stack,
        "batch": chosen.batch,
        "allocator": "kept" if _KEPT else "default",
        "iterations": length,
        "round_iterations": chosen.round_iterations,
        "passes": passes,
        "schedules": {kind: speeds(kind, plans, seconds, chosen.stack) for kind in plans},
        "time_of_full": {kind: savings(kind, plans, seconds) for kind in plans if kind != "full"},
        "flops": flops,
        "bytes": moved,
        "peak_flops": peak.flops,
        "peak_bytes": peak.bytes,
        "loss_deviation": abs(losses[0] / losses[1] - 1),
        "torch_layout": rival.layout,
        "torch_device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch_version": torch.__version__,
        "machine": devices.describe(),
        "date": date.today().isoformat(),
    }


def speeds(kind, plans, seconds, stack: int) -> dict[str, dict[str, float]]:
    """Image-iterations per second of both sides, and their ratio."""
    images = plans[kind].image_iterations
    rates = {
        "ours": [stack * images / s for s in seconds[kind, "ours"]],
        "torch": [images / s for s in seconds[kind, "torch"]],
    }
    return {
        **{who: measured.summary(values) for who, values in rates.items()},
        "ratio": measured.quotients(rates["ours"], rates["torch"]),
    }


def savings(kind, plans, seconds) -> dict[str, Any]:
    """Time of EarlyLate over that of full optimisation, for both sides."""
    return {
        "ideal": plans[kind].image_iterations / plans["full"].image_iterations,
        **{
            who: measured.quotients(seconds[kind, who], seconds["full", who])
            for who in ("ours", "torch")
        },
    }


def choose() -> argparse.Namespace:
    """Reads the flags and fills in what depends on the device."""
    parser = cases.parser(__doc__, CASES, 40, "activations")
    add, on_cpu = parser.add_argument, jax.default_backend() == "cpu"
    add("--stack", type=int, default=1, help="batches that our side works on at once")
    add("--batch", type=int, default=100, help="images per batch, a multiple of 50")
    add("--round_iterations", type=int, default=1 if on_cpu else 50, help="R; T is 8 R")
    chosen = cases.parse(parser, CASES)
    if chosen.batch < 50 or chosen.batch % 50:
        parser.error(f"--batch is {chosen.batch}, but must be a multiple of 50")
    if min(chosen.stack, chosen.round_iterations) < 1:
        parser.error("--stack and --round_iterations must be at least 1")
    return chosen


if __name__ == "__main__":
    cases.run("recover_speed", choose(), measure, speed_table.tables, speed_table.KEY)
