"""Times our recovery and a PyTorch one, eager and compiled, on the same machine, in turns.

python benchmarks/recover_speed.py                          the cases that suit the device
python benchmarks/recover_speed.py --cases=resnet18/224 --dtype=bfloat16 --stack=4
python benchmarks/recover_speed.py --schedules=full,ipc50,ipc10      EarlyLate, too
python benchmarks/recover_speed.py --write                  also writes benchmarks/results/ and
                                                            the tables of docs/performance.md

All sides get the same weights, images, schedules, cores or GPU, and allocator. A pass runs ours
and then PyTorch on each schedule; passes are repeated until --seconds are over. Only what is timed
is compiled, side by side in threads. Full optimisation costs the same at every IPC. Needs the
`torch` extra.
"""

import argparse
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()

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

ROUNDS = 8  # as DELT's: T 4000, R 500
LEAST_PASSES = 3
COMPILING_THREADS = 8
CASES = {  # model and classes, by model and pixels
    "conv3/32": ("conv3", 10),
    "resnet18_modified/32": ("resnet18_modified", 10),
    "resnet18/224": ("resnet18", 1000),
}
SCHEDULES = {"full": (50, False), "ipc50": (50, True), "ipc10": (10, True)}  # IPC, EarlyLate


def schedules(names: list[str], batch: int, round_iterations: int) -> dict[str, BatchSchedule]:
    """The named schedules of a batch: "full", and EarlyLate at IPC 50 and 10."""
    length = ROUNDS * round_iterations

    def plan(ipc: int, early_late: bool) -> BatchSchedule:
        rounds = round_iterations if early_late else 0
        return make_schedule(batch // ipc, ipc, length, rounds, batch)[0]

    return {name: plan(*SCHEDULES[name]) for name in names}


def warm_up(ours: Ours, plans: Mapping[str, BatchSchedule]) -> tuple[float, float]:
    """Compiles what will be timed, in threads, and runs it once.

    Returns:
      Operations and bytes of an image-iteration, as XLA counts them.
    """
    rounds = {
        (rnd.active, rnd.iterations): replace(plan, rounds=(rnd,))
        for plan in plans.values()
        for rnd in plan.rounds
    }

    with ThreadPoolExecutor(COMPILING_THREADS) as threads:
        counting = threads.submit(ours.cost, plans["full"])
        list(threads.map(lambda plan: ours.prepare(plan)(), rounds.values()))
        counted = counting.result()
    for plan in plans.values():
        ours.prepare(plan)()
    return counted


def measure(name: str, chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times one case.

    Returns:
      A row of the results.
    """
    model, classes = CASES[name]
    size = int(name.partition("/")[2])
    plans = schedules(chosen.schedules, chosen.batch, chosen.round_iterations)
    length = plans["full"].iterations
    recipe = RecoverRecipe(iterations=length, round_iterations=chosen.round_iterations)
    spec = ModelSpec(model, classes, size, 3, dtype=chosen.dtype)
    problem = make_problem(spec, chosen.batch, recipe)
    ours = Ours(problem, chosen.stack)
    cases.say(f"{name}: compiling")
    flops, moved = warm_up(ours, plans)
    cases.say(f"{name}: choosing PyTorch's layout")
    trial = make_schedule(chosen.batch // 50, 50, chosen.round_iterations, 0, chosen.batch)[0]
    eager = Rival(problem, device, trial)
    view = plans["full"].labels, (size // 8, 0, size // 2, size - size // 8), True
    losses = ours.loss(*view), eager.loss(*view)
    sides: dict[str, Ours | Rival] = {"ours": ours, "torch": eager}
    if chosen.compiled:
        sides["compiled"] = eager.compiled()
    for who in [who for who in sides if who != "ours"]:
        cases.say(f"{name}: first run of {who}")
        for plan in plans.values():  # every number of active images, and every start
            sides[who].prepare(plan)()
    peak = peaks.measure(chosen.dtype)
    seconds = time_in_turns(name, chosen.seconds, sides, plans)
    peak = peak.best(peaks.measure(chosen.dtype))
    return {
        "case": name,
        "dtype": chosen.dtype,
        "stack": chosen.stack,
        "batch": chosen.batch,
        "iterations": length,
        "round_iterations": chosen.round_iterations,
        "passes": len(seconds["full", "ours"]),
        "schedules": {kind: speeds(kind, plans, seconds, chosen.stack) for kind in plans},
        "time_of_full": {kind: savings(kind, plans, seconds) for kind in plans if kind != "full"},
        "flops": flops,
        "bytes": moved,
        "peak_flops": peak.flops,
        "peak_bytes": peak.bytes,
        "loss_deviation": abs(losses[0] / losses[1] - 1),
        "torch_layout": eager.layout,
        **cases.surroundings(device),
    }


def time_in_turns(
    name: str,
    least_seconds: float,
    sides: Mapping[str, Ours | Rival],
    plans: Mapping[str, BatchSchedule],
) -> dict[tuple[str, str], list[float]]:
    """Seconds of every pass, by schedule and side."""
    seconds: dict[tuple[str, str], list[float]] = {}
    passes, started = 0, time.perf_counter()
    while passes < LEAST_PASSES or time.perf_counter() - started < least_seconds:
        for kind, plan in plans.items():
            for who, side in sides.items():
                seconds.setdefault((kind, who), []).append(timed(side.prepare(plan)))
        passes += 1
        latest = ", ".join(f"{who} {seconds['full', who][-1]:.2f} s" for who in sides)
        cases.say(f"{name}: pass {passes}, full schedule: {latest}")
    return seconds


def speeds(kind, plans, seconds, stack: int) -> dict[str, dict[str, float]]:
    """Image-iterations per second of every side, and ours by each of the others."""
    images = plans[kind].image_iterations
    rates = {
        who: [(stack if who == "ours" else 1) * images / s for s in spent]
        for (of, who), spent in seconds.items()
        if of == kind
    }
    ratios = {"torch": "ratio", "compiled": "compiled_ratio"}
    return {who: measured.summary(values) for who, values in rates.items()} | {
        ratio: measured.quotients(rates["ours"], rates[who])
        for who, ratio in ratios.items()
        if who in rates
    }


def savings(kind, plans, seconds) -> dict[str, Any]:
    """Time of EarlyLate over that of full optimisation, for ours and eager PyTorch."""
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
    add("--schedules", default="full", help=f"some of {','.join(SCHEDULES)}; always the first")
    add("--stack", type=int, default=1, help="batches that our side works on at once")
    add("--batch", type=int, default=100, help="images per batch, a multiple of 50")
    add("--round_iterations", type=int, default=1 if on_cpu else 50, help="R; T is 8 R")
    chosen = cases.parse(parser, CASES)
    asked = cases.some_of(parser, "schedule", chosen.schedules, SCHEDULES)
    chosen.schedules = [name for name in SCHEDULES if name in {"full", *asked}]
    if chosen.batch < 50 or chosen.batch % 50:
        parser.error(f"--batch is {chosen.batch}, but must be a multiple of 50")
    if min(chosen.stack, chosen.round_iterations) < 1:
        parser.error("--stack and --round_iterations must be at least 1")
    return chosen


if __name__ == "__main__":
    cases.run("recover_speed", choose(), measure, speed_table.tables, speed_table.KEY)
