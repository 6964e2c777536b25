"""How many images a compiled step computes: one program for every round's set of active images,
or a few masked ones, each for the rounds of up to so many.

Each program takes seconds to compile, and each image that is computed but takes no part wastes a
forward and a backward pass. The choice between them is a function of schedule, networks and kind
of backend alone, so it is the same wherever a recovery begins.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from delt_jax.models import ModelSpec
from delt_jax.recovery.program import active_of
from delt_jax.recovery.schedule import BatchSchedule, Round
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.cost import model_cost

_PASSES = 2.0  # forward, and backward to the images
_WORTH = 0.9  # masks cost a little themselves


@dataclass(frozen=True)
class Speed:
    """What compiling and computing take on a kind of backend; roughly, which is enough.

    Attributes:
      program_seconds: to compile a step, whatever the network.
      layer_seconds: to compile a step, for each of its convolutions and matrices besides.
      flops: floating-point operations per second that a step reaches.
    """

    program_seconds: float
    layer_seconds: float
    flops: float


# Hosts of accelerators have many cores, which compile side by side.
_ACCELERATOR = Speed(2.0, 0.5, 5e13)
SPEEDS = {"cpu": Speed(1.5, 0.15, 1e11), "gpu": _ACCELERATOR, "tpu": _ACCELERATOR}


@dataclass(frozen=True)
class Price:
    """Seconds that a recovery pays.

    Attributes:
      program: to compile a program.
      image: for an iteration of an image.
    """

    program: float
    image: float


def price(specs: Sequence[ModelSpec], chunk_steps: int, backend: str) -> Price:
    """Estimates what a recovery pays with some teachers in turn.

    Args:
      specs: of the teachers.
      chunk_steps: iterations per compiled call.
      backend: kind of device, as `jax.default_backend` names it.
    """
    speed, count = SPEEDS.get(backend, _ACCELERATOR), len(specs)
    shapes = [teacher_lib.init_shapes(spec)["params"] for spec in specs]
    layers = sum(len(leaf.shape) > 1 for leaf in jax.tree.leaves(shapes)) / count
    flops = sum(model_cost(spec).forward_flops for spec in specs) / count
    return Price(
        # A call of few iterations holds only as many of the teachers.
        program=speed.program_seconds + speed.layer_seconds * layers * min(chunk_steps, count),
        image=_PASSES * flops / speed.flops if math.isfinite(flops) else math.inf,
    )


def calls(rnd: Round, chunk_steps: int, teachers: int, step: int = 0) -> list[tuple[int, int]]:
    """The different calls that a round makes: iterations, and the teacher that begins.

    Args:
      rnd: the round.
      chunk_steps: iterations per compiled call, at most.
      teachers: in turn.
      step: iterations that the batch has behind it.
    """
    first = max(step, rnd.start)
    whole, rest = divmod(max(rnd.start + rnd.iterations - first, 0), chunk_steps)
    found = [
        (chunk_steps, (first + i * chunk_steps) % teachers) for i in range(min(whole, teachers))
    ]
    if rest:
        found.append((rest, (first + whole * chunk_steps) % teachers))
    return list(dict.fromkeys(found))


def needed_size(rnd: Round) -> int:
    """How many of the first images a masked program must compute for a round."""
    return rnd.active[-1] + 1 if rnd.active else 1


def padded_size(rnd: Round, batch_size: int, sizes: Sequence[int]) -> int:
    """How many images a round computes with the chosen sizes, ascending."""
    needed = needed_size(rnd)
    return min(next((size for size in sizes if size >= needed), needed), batch_size)


@dataclass
class _Work:
    """Rounds that need the same number of images, in batches of one size.

    Attributes:
      iterations: of all such rounds.
      image_iterations: of all of them.
      kinds: their different calls.
    """

    iterations: int = 0
    image_iterations: int = 0
    kinds: set[tuple[int, int]] = field(default_factory=set)


def choose(
    schedule: Sequence[BatchSchedule], chunk_steps: int, teachers: int, price: Price
) -> tuple[int, ...]:
    """The sizes of masked programs that cost least in all.

    Args:
      schedule: of all batches.
      chunk_steps: iterations per compiled call.
      teachers: in turn.
      price: of programs and image-iterations.

    Returns:
      Sizes, ascending, the last one enough for every round; () unless they clearly cost less than
      one exact program for every set of active images.
    """
    work: dict[int, dict[int, _Work]] = defaultdict(lambda: defaultdict(_Work))
    exact: set[tuple[Any, ...]] = set()
    for batch in schedule:
        for rnd in batch.rounds:
            kinds, size = calls(rnd, chunk_steps, teachers), len(batch.indices)
            exact.update((size, active_of(rnd.active), kind) for kind in kinds)
            entry = work[needed_size(rnd)][size]
            entry.iterations += rnd.iterations
            entry.image_iterations += rnd.iterations * len(rnd.active)
            entry.kinds.update(kinds)
    if len(exact) < 2:
        return ()
    seconds, sizes = _cheapest(work, price)
    return sizes if seconds < _WORTH * len(exact) * price.program else ()


def _cheapest(work: dict[int, dict[int, _Work]], price: Price) -> tuple[float, tuple[int, ...]]:
    """Seconds for programs and waste, and the sizes, by dynamic programming over the sizes.

    Args:
      work: by the number of images needed and the batch's size.
      price: of programs and image-iterations.
    """
    needs = sorted(work)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]  # of the rounds that need least
    for last, size in enumerate(needs):
        options, wasted = [], 0
        programs: set[tuple[Any, ...]] = set()
        for first in range(last, -1, -1):  # the rounds from here on run with this size
            for batch_size, entry in work[needs[first]].items():
                programs.update((batch_size, kind) for kind in entry.kinds)
                wasted += entry.iterations * min(size, batch_size) - entry.image_iterations
            before, chosen = best[first]
            seconds = before + price.program * len(programs) + price.image * wasted
            options.append((seconds, (*chosen, size)))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1]
