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

from delt_jax import host_memory

_KEPT = "--default_malloc" not in sys.argv and host_memory.keep_freed()  # before any thread starts
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # of a GPU; the rest is torch's

import jax  # noqa: E402
import measured  # noqa: E402
import peaks  # noqa: E402
import speed_table  # noqa: E402
import torch  # noqa: E402
import torch_recovery  # noqa: E402
from speed_sides import Ours, Rival, make_problem, timed  # noqa: E402

from delt_jax import parallel  # noqa: E402
from delt_jax.errors import UserError  # noqa: E402
from delt_jax.models import ModelSpec  # noqa: E402
from delt_jax.recipe import RecoverRecipe  # noqa: E402
from delt_jax.schedule import BatchSchedule, make_schedule  # noqa: E402

PAGE = "docs/performance.md"
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
    say(f"{name}: compiling, choosing PyTorch's layout")
    ours = Ours(problem, chosen.stack)
    trial = make_schedule(chosen.batch // 50, 50, chosen.round_iterations, 0, chosen.batch)[0]
    rival = Rival(problem, device, trial)
    flops, moved = ours.cost(plans["full"])
    view = plans["full"].labels, (size // 8, 0, size // 2, size - size // 8), True
    losses = ours.loss(*view), rival.loss(*view)
    for plan in plans.values():  # every number of active images, and every start
        for side in (ours, rival):
            side.prepare(plan)()
    say(f"{name}: measuring")
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
        say(f"{name}: pass {passes}, full schedule {fast:.2f} s, PyTorch {slow:.2f} s")
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
        "machine": parallel.describe(),
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


def write(rows: list[dict[str, Any]]) -> None:
    """Keeps the rows with those of earlier runs, and puts all into the page."""
    stored = measured.keep("recover_speed", jax.default_backend(), rows, speed_table.KEY)
    measured.publish(PAGE, speed_table.tables(stored), "recover_speed")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def choose() -> argparse.Namespace:
    """Reads the flags and fills in what depends on the device."""
    on_cpu = jax.default_backend() == "cpu"
    usual = [name for name in CASES if not (on_cpu and name.endswith("/224"))]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", default=",".join(usual), help=f"by commas, of {', '.join(CASES)}")
    add("--seconds", type=float, default=40, help="of measuring, per case; at least 3 passes")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations")
    add("--stack", type=int, default=1, help="batches that our side works on at once")
    add("--batch", type=int, default=100, help="images per batch, a multiple of 50")
    add("--round_iterations", type=int, default=1 if on_cpu else 50, help="R; T is 8 R")
    add("--default_malloc", action="store_true", help="leave the C library's allocator as it is")
    add("--write", action="store_true", help="keep the results, fill docs/performance.md")
    chosen = parser.parse_args()
    chosen.cases = chosen.cases.split(",")
    unknown = [name for name in chosen.cases if name not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}")
    if chosen.batch < 50 or chosen.batch % 50:
        parser.error(f"--batch is {chosen.batch}, but must be a multiple of 50")
    if min(chosen.stack, chosen.round_iterations) < 1:
        parser.error("--stack and --round_iterations must be at least 1")
    return chosen


def main() -> None:
    chosen = choose()
    device = torch_recovery.prepare(len(os.sched_getaffinity(0)))
    if (device.type == "cpu") != (jax.default_backend() == "cpu"):
        say(f"JAX runs on {jax.default_backend()}, torch on {device.type}: no fair comparison.")
    rows = []
    for name in chosen.cases:
        rows.append(measure(name, chosen, device))
        if chosen.write:
            write([rows[-1]])
    print("\n".join(speed_table.tables(rows)))


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"recover_speed: {e}")
