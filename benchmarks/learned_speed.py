"""Times outer steps of FRePo and DSA, ours and PyTorch's eager ones, on one machine, in turns.

python benchmarks/learned_speed.py                          FRePo and DSA at IPC 10, full width
python benchmarks/learned_speed.py --cases=frepo/28 --width=32 --real=256 --ipc=1
python benchmarks/learned_speed.py --write                  also writes benchmarks/results/ and
                                                            the table of docs/performance.md

A step of FRePo is the gradient of images and labels, and a step of one network; one of DSA is the
gradient of the images through ten classes. Both sides have random grey images of 28 px and random
weights; PyTorch takes the memory layout that is faster in its first steps. Needs the `torch` extra.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from delt_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.restart_with_huge_pages()

import cases
import jax
import jax.numpy as jnp
import measured
import torch
import torch_learned
import torch_recovery

from delt_jax import models
from delt_jax.core import keys
from delt_jax.learned import methods
from delt_jax.learned.method import Learned, Network, Real, Setup
from delt_jax.models import ModelSpec

CASES = {"frepo/28": ("frepo", "conv3_wide_bn"), "dsa/28": ("dsa", "dc_conv3")}
CLASSES, SIZE, REAL = 10, 28, {"frepo": 1024, "dsa": 256}
STRATEGY = "one-color_crop_cutout_flip_scale_rotate"
LEAST_PASSES = 3
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def setup_of(name: str, chosen: argparse.Namespace) -> Setup:
    """The method's setting at the chosen sizes."""
    method, model = CASES[name]
    return Setup(
        spec=ModelSpec(model, CLASSES, SIZE, 1, chosen.width),
        num_classes=CLASSES,
        ipc=chosen.ipc,
        steps=1000,
        real_batch=chosen.real or REAL[method],
        more_real=0,
        image_rate=3e-4,
        label_rate=3e-4 if method == "frepo" else 0.0,
        network_rate=3e-4,
        network_steps=1,
        lifetime=100,
        augment=STRATEGY if method == "dsa" else "",
        factor=1,
        mirrored=False,
        low=(-1.0,),
        high=(2.0,),
    )


def ours(name: str, setup: Setup) -> Callable[[int], None]:
    """Our step of a number, compiled."""
    method = methods.find(CASES[name][0])
    lead = (CLASSES, setup.real_batch) if method.by_class else (setup.real_batch,)
    draw = jax.random.normal(keys.stream(0, "real"), (*lead, SIZE, SIZE, 1))
    labels = jnp.broadcast_to(jnp.arange(lead[-1]) % CLASSES, lead)
    images = jax.random.normal(keys.stream(0, "images"), (CLASSES * setup.ipc, SIZE, SIZE, 1))
    targets = jax.nn.one_hot(jnp.repeat(jnp.arange(CLASSES), setup.ipc), CLASSES)
    made = jax.jit(models.create(setup.spec).init, static_argnames="train")(
        keys.stream(0, "weights"), images[:1], train=False
    )
    variables = {k: made[k] for k in ("params", "batch_stats") if k in made}
    state = method.network_optimiser(setup).init(variables["params"])
    network = Network(variables, state, jnp.int32(0))

    @jax.jit
    def step(key, learned, network, real):
        found = method.gradient(key, learned, network, real, setup)
        if method.by_class:
            return found
        return found, method.train(key, learned, network, real, setup)

    given = Learned(images, targets, {}), network, Real(draw, labels, None)

    def run(number: int) -> None:
        jax.block_until_ready(step(keys.stream(0, "step", number), *given))

    return run


def theirs(
    name: str, setup: Setup, device: torch.device, layout: torch.memory_format
) -> Callable[[int], None]:
    """PyTorch's step of a number, in a memory layout."""
    torch.manual_seed(0)
    width, count = setup.spec.width or 128, CLASSES * setup.ipc

    def normal(*lead: int) -> torch.Tensor:
        return torch.randn(*lead, 1, SIZE, SIZE, device=device)

    images = normal(count)
    if CASES[name][0] == "dsa":
        plain = torch_learned.InstanceConvNet(width, CLASSES, SIZE)
        plain = plain.to(device=device, memory_format=layout)
        real = normal(CLASSES, setup.real_batch)

        def match(number: int) -> None:
            torch.manual_seed(number)
            torch_learned.dsa_step(plain, real, images)
            torch_recovery.wait(device)

        return match
    network = torch_learned.WideConvNet(width, CLASSES, SIZE).eval()
    network = network.to(device=device, memory_format=layout)
    optimiser = torch.optim.Adam(network.parameters(), setup.network_rate)
    eye = torch.eye(CLASSES, device=device)
    targets = eye[torch.arange(setup.real_batch) % CLASSES] - 1 / CLASSES
    learned = images, eye.repeat_interleave(setup.ipc, 0)
    batch = normal(setup.real_batch)

    def regress(number: int) -> None:
        del number
        torch_learned.frepo_step(network, batch, targets, learned)
        torch_learned.network_step(network, optimiser, learned)
        torch_recovery.wait(device)

    return regress


def seconds_of(step: Callable[[int], None], numbers: Sequence[int]) -> float:
    """Mean seconds of a step."""
    started = time.perf_counter()
    for number in numbers:
        step(number)
    return (time.perf_counter() - started) / len(numbers)


def measure(name: str, chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times one case.

    Returns:
      A row of the results.
    """
    setup = setup_of(name, chosen)
    cases.say(f"{name}: compiling")
    own = ours(name, setup)
    own(0)
    cases.say(f"{name}: choosing PyTorch's layout")
    tried = {layout: theirs(name, setup, device, layout) for layout in LAYOUTS}
    for step in tried.values():
        step(0)
    first = {layout: seconds_of(step, (1,)) for layout, step in tried.items()}
    layout = min(first, key=lambda which: first[which])
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    started = time.perf_counter()
    while len(seconds["ours"]) < LEAST_PASSES or time.perf_counter() - started < chosen.seconds:
        first_number = 6 * len(seconds["ours"])  # so that both go through DSA's operations alike
        numbers = range(first_number, first_number + chosen.steps)
        seconds["ours"].append(seconds_of(own, numbers))
        seconds["torch"].append(seconds_of(tried[layout], numbers))
        latest = ", ".join(f"{who} {1e3 * values[-1]:.1f} ms" for who, values in seconds.items())
        cases.say(f"{name}: pass {len(seconds['ours'])}, a step: {latest}")
    return {
        "case": name,
        "width": setup.spec.width or 128,
        "ipc": setup.ipc,
        "real_batch": setup.real_batch,
        "passes": len(seconds["ours"]),
        "ours": measured.summary(seconds["ours"]),
        "torch": measured.summary(seconds["torch"]),
        "speed_up": measured.quotients(seconds["torch"], seconds["ours"]),
        "torch_layout": str(layout).removeprefix("torch."),
        **cases.surroundings(device),
    }


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as a table of Markdown, and a line on each."""
    lines = [
        "| step | ours, ms | PyTorch eager, ms | PyTorch / ours |",
        "|---|---|---|---|",
    ]
    for row in rows:
        what = f"{row['case']} px, IPC {row['ipc']}, width {row['width']}, {row['real_batch']} real"
        sides = [{k: 1e3 * s for k, s in row[side].items()} for side in ("ours", "torch")]
        cells = [measured.spread(side, 1) for side in sides]
        lines.append(f"| {what} | {' | '.join(cells)} | {measured.spread(row['speed_up'], 2)} |")
    notes = [
        f"- {row['case']} px: {row['passes']} passes; PyTorch in {row['torch_layout']} on "
        f"{row['torch_device']}, version {row['torch_version']}; {row['machine']}, {row['date']}."
        for row in rows
    ]
    return [*lines, "", *notes]


def main() -> None:
    made = cases.parser(__doc__ or "", CASES, 60.0, "activations (float32 here)")
    add = made.add_argument
    add("--width", type=int, default=0, help="channels of the first block; 0 is the papers' 128")
    add("--real", type=int, default=0, help="real images of a step, of each class for DSA")
    add("--ipc", type=int, default=10, help="learned images of each class")
    add("--steps", type=int, default=2, help="steps of a pass")
    chosen = cases.parse(made, CASES)
    key = ("case", "width", "ipc", "real_batch", "torch_device")
    cases.run("learned_speed", chosen, measure, tables, key)


if __name__ == "__main__":
    main()
