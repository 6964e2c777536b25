"""Times our training of students and PyTorch loops of the same recipe, in turns.

python benchmarks/train_eval_speed.py                     the cases that suit the device
python benchmarks/train_eval_speed.py --cases=resnet18/224 --dtype=bfloat16
python benchmarks/train_eval_speed.py --write             also writes benchmarks/results/ and the
                                                          table of docs/performance.md

The recipe is DELT's protocol, online: RandAugment, random resized crop, flip, CutMix, a label from
the teacher, KL at T 20, AdamW, half-cosine. All sides get the same weights, images, cores or GPU,
and allocator. A pass runs ours, ours with three seeds at once, eager PyTorch with PIL workers and
with tensor augmentation, and with --compiled the latter's networks through torch.compile; passes
are repeated until --seconds are over. Our programs are compiled side by side in threads. Needs the
`torch` extra.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()

import cases
import jax
import measured
import numpy as np
import peaks
import torch
import train_table
from train_sides import Ours, Rival, cost, faster_layout, make_problem

from delt_jax.models import ModelSpec

CLASSES = 10
SEEDS = 3
LEAST_PASSES = 3
CASES = {"conv3/28": 1, "conv3/32": 3, "resnet18/224": 3}  # channels, by model and pixels


def measure(name: str, chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times one case.

    Returns:
      A row of the results.
    """
    model, _, size = name.partition("/")
    spec = ModelSpec(model, CLASSES, int(size), CASES[name], dtype=chosen.dtype)
    problem = make_problem(spec, chosen.ipc, chosen.epochs + 1)
    program = problem.program
    one, three = Ours(problem, 1), Ours(problem, SEEDS)
    cases.say(f"{name}: compiling")
    with ThreadPoolExecutor() as threads:
        counting = threads.submit(cost, problem)
        list(threads.map(lambda side: side.run(), (one, three)))
        flops, moved = counting.result()
    cases.say(f"{name}: choosing PyTorch's layout")
    layout = faster_layout(problem, device)
    kinds = (*train_table.RIVALS, *([train_table.COMPILED] if chosen.compiled else []))
    rivals = {kind: Rival(problem, kind, chosen.workers, device, layout) for kind in kinds}
    shape = (program.batch, program.student.image_size, program.student.image_size, CASES[name])
    views = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    losses = one.loss(views), rivals["tensor"].loss(views)

    sides: dict[str, Callable[[], float]] = {"ours": one.run, "three": three.run}
    for kind, rival in rivals.items():
        sides[kind] = functools.partial(rival.run, chosen.epochs)
    for kind, rival in rivals.items():
        cases.say(f"{name}: first run of {kind}")
        rival.run(1)  # compiles, or starts workers
    peak = peaks.measure(chosen.dtype)
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    view_seconds: list[float] = []
    started = time.perf_counter()
    while len(view_seconds) < LEAST_PASSES or time.perf_counter() - started < chosen.seconds:
        for side, run in sides.items():
            speeds[side].append(run())
        view_seconds.append(one.view_seconds())
        latest = ", ".join(f"{side} {values[-1]:.0f}" for side, values in speeds.items())
        cases.say(f"{name}: pass {len(view_seconds)}, images/s: {latest}")
    ours = speeds["ours"]
    shares = [s * speed / program.count for s, speed in zip(view_seconds, ours, strict=True)]
    return {
        "case": name,
        "dtype": chosen.dtype,
        "ipc": chosen.ipc,
        "protocol": program.protocol.text(),
        "images": program.count,
        "batch": program.batch,
        "epochs": chosen.epochs,
        "passes": len(ours),
        "ours": measured.summary(ours),
        "three": measured.summary(speeds["three"]),
        "three_seeds": measured.quotients([SEEDS * speed for speed in ours], speeds["three"]),
        "rivals": {kind: measured.summary(speeds[kind]) for kind in rivals},
        "ratios": {kind: measured.quotients(ours, speeds[kind]) for kind in rivals},
        "view_share": measured.summary(shares)["median"],
        "loss_deviation": abs(losses[0] / losses[1] - 1),
        "workers": chosen.workers,
        "flops": flops,
        "bytes": moved,
        "peak_flops": peak.flops,
        "peak_bytes": peak.bytes,
        "torch_layout": layout,
        **cases.surroundings(device),
    }


def choose() -> argparse.Namespace:
    """Reads the flags and fills in what depends on the device."""
    parser = cases.parser(__doc__, CASES, 60, "the student")
    add, on_cpu = parser.add_argument, jax.default_backend() == "cpu"
    cores = len(os.sched_getaffinity(0))
    add("--ipc", type=int, default=10, help="images of each of 10 classes; also sets the batch")
    add("--epochs", type=int, default=4 if on_cpu else 50, help="timed of each training")
    add("--workers", type=int, default=min(8, cores), help="processes that make views with PIL")
    chosen = cases.parse(parser, CASES)
    if min(chosen.ipc, chosen.epochs - 1, chosen.workers) < 1:
        parser.error("--ipc and --workers must be at least 1, --epochs at least 2")
    return chosen


if __name__ == "__main__":
    cases.run("train_eval_speed", choose(), measure, train_table.table, train_table.KEY)
