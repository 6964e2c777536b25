"""Experts that train side by side: where they are on the devices, and their compiled steps.

What an expert becomes depends on the seed, its number and how many are on a device, not on who its
companions are: a group that lacks members is filled up with copies.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import Examples
from delt_jax.errors import UserError
from delt_jax.learned import experts
from delt_jax.learned.experts import ExpertPlan
from delt_jax.models import forms
from delt_jax.recovery.run.memory import USABLE
from delt_jax.runtime import devices
from delt_jax.runtime import processes as hosts
from delt_jax.runtime.programs import Program
from delt_jax.teachers.cost import model_cost
from delt_jax.training.student_layout import FILLS

_CHUNK = 50  # steps of a compiled call on an accelerator, at most
_CHUNK_BYTES = 2**28  # of the real images of a call, at most


class ExpertImages(NamedTuple):
    """What experts learn from.

    Attributes:
      examples: real images.
      preprocessing: from their pixels to the network's inputs.
    """

    examples: Examples
    preprocessing: Preprocessing


@dataclass(frozen=True)
class ExpertLayout:
    """Where the experts of a group are; hashable.

    Attributes:
      num_devices: local devices in use.
      per_device: experts on each of these.
    """

    num_devices: int
    per_device: int

    @property
    def experts(self) -> int:
        """Number of experts in a group."""
        return self.num_devices * self.per_device

    @property
    def lanes(self) -> devices.Lanes:
        """How the experts of a device are in a program.

        On a CPU they are written out one after another: there three experts are bit for bit what
        they are alone and take 1.1 to 1.3 times as long, against twice under vmap, whose grouped
        convolutions round otherwise, and eight times in a loop (dc_conv3, width 16 at 28 px and 32
        at 8 px, batches of 128, two cores).
        """
        return "unrolled" if jax.default_backend() == "cpu" else "vmap"


def per_device(plan: ExpertPlan, count: int, bytes_each: int) -> int:
    """Number of experts that train together on a device, as students of an evaluation do.

    Small networks leave an accelerator idle, so there all train at once, evenly spread over the
    devices of all processes, as far as memory allows. A CPU gains nothing from it, nor does a
    device that one expert fills.

    Args:
      plan: of all experts.
      count: of them.
      bytes_each: of a device's memory that an expert takes.
    """
    flops = model_cost(plan.spec).forward_flops * plan.batch
    if jax.default_backend() == "cpu" or flops > FILLS:
        return 1
    even = -(-count // (hosts.count() * devices.device_count()))
    limit = devices.memory_limit()
    return even if limit is None else max(1, min(even, int(USABLE * limit) // bytes_each))


def layout_of(count: int, per_device: int) -> ExpertLayout:
    """The layout of so many experts: no more devices than they need."""
    return ExpertLayout(min(devices.device_count(), -(-count // per_device)), per_device)


def epoch(
    plan: ExpertPlan,
    real: ExpertImages,
    layout: ExpertLayout,
    trained: dict[int, Any],
    number: int,
    on_steps: Callable[..., None] = lambda steps, **figures: None,
) -> dict[int, Any]:
    """Weights of some experts after one more epoch, on the host, by their numbers.

    The order of an expert's images and their augmentation depend on (seed, expert, epoch, step)
    alone.

    Args:
      plan: of all experts.
      real: images to learn from.
      layout: of the group; has a place for each.
      trained: weights before the epoch, by the experts' numbers.
      number: of the epoch, from 0 on.
      on_steps: told how many steps of experts are done, and the latest loss as `loss`.

    Raises:
      UserError: if the loss of one diverges.
    """
    epoch_keys = [experts.epoch_key(plan, expert, number) for expert in trained]
    count = len(real.examples)
    places = np.stack([experts.batches(plan, key, count) for key in epoch_keys])
    space, steps = real.preprocessing, places.shape[1]
    matrices = devices.replicated((space.matrix, space.centre), layout.num_devices)
    states = _stacked(list(trained.values()), layout)
    waiting: list[tuple[int, Any]] = []
    # Losses of the call before are read, so that devices have work and no images pile up.
    for turn in [*_turns(steps, _chunk_steps(plan, layout)), None]:
        if turn is not None:
            jobs = _jobs(real, epoch_keys, places[:, turn.start : turn.stop], layout)
            take = compile_steps(plan, (space.kind, space.normalisation), layout, len(turn))
            states, losses = take(states, jobs, (np.asarray(turn, np.int32), *matrices))
            waiting.append((len(turn), losses))
        while len(waiting) > (turn is not None):
            done, losses = waiting.pop(0)
            loss = _checked(list(trained), number, losses)
            on_steps(done * len(trained), loss=loss)
    return {expert: devices.job(states, i) for i, expert in enumerate(trained)}


def _turns(steps: int, most: int) -> list[range]:
    """The steps of each call, about equally many."""
    calls = -(-steps // most)
    ends = [steps * call // calls for call in range(calls + 1)]
    return [range(*pair) for pair in itertools.pairwise(ends)]


def _chunk_steps(plan: ExpertPlan, layout: ExpertLayout) -> int:
    """Steps of a compiled call.

    XLA's convolutions on CPUs are slow inside compiled loops, so a step is a call there.
    """
    if jax.default_backend() == "cpu":
        return 1
    size = plan.spec.image_size**2 * plan.spec.channels
    return max(1, min(_CHUNK, _CHUNK_BYTES // (layout.experts * plan.batch * size)))


def _stacked(trees: Sequence[Any], layout: ExpertLayout) -> Any:
    return devices.stack_jobs(trees, layout.num_devices, layout.per_device)


def _jobs(
    real: ExpertImages, epoch_keys: Sequence[Any], places: np.ndarray, layout: ExpertLayout
) -> Any:
    """Key, pixels [steps, B, S, S, C] and classes [steps, B] of every expert, on the devices."""
    pixels = real.examples.images(places.reshape(-1))
    pixels = pixels.reshape(*places.shape, *pixels.shape[1:])
    classes = np.asarray(real.examples.labels, np.int32)[places]
    return _stacked(list(zip(epoch_keys, pixels, classes, strict=True)), layout)


def _checked(numbers: Sequence[int], epoch: int, losses: chex.Array) -> float:
    """The mean of the experts' latest losses, [devices, lanes, steps].

    Raises:
      UserError: if one is not finite.
    """
    found = np.asarray(losses).reshape(-1, losses.shape[-1])[: len(numbers)]
    for expert, of_expert in zip(numbers, found, strict=True):
        if not np.isfinite(of_expert).all():
            raise UserError(
                f"The loss of expert {expert} is not finite any more in epoch {epoch}; lower "
                f"expert_rate of learn.options."
            )
    return float(found[:, -1].mean())


@functools.lru_cache(maxsize=8)
def compile_steps(
    plan: ExpertPlan, space: tuple[str, Normalisation], layout: ExpertLayout, steps: int
) -> Program:
    """Makes ``take(states, jobs, (numbers, matrix, centre))`` of some steps of a group.

    States are weights, jobs as of `_jobs`, and numbers those of the steps, int32 [steps]. It
    returns the weights and the losses, [devices, lanes, steps]; the weights given are donated.

    Args:
      plan: of all experts.
      space: kind and normalisation of the preprocessing.
      layout: of the group.
      steps: of a call; several are a compiled loop.
    """

    def take(params, job, shared):
        key, pixels, classes = job
        numbers, matrix, centre = shared
        preprocessing = Preprocessing(*space, matrix, centre)

        def one(params, turn):
            number, pixels, classes = turn
            images, step_key = preprocessing(pixels), jax.random.fold_in(key, number)
            return experts.gradient_step(plan, params, images, classes, step_key)

        turns = numbers, pixels, classes
        if steps == 1:
            params, loss = one(params, jax.tree.map(lambda x: x[0], turns))
            return params, loss[None]
        with forms.in_loops():
            return jax.lax.scan(one, params, turns)

    return Program(devices.map_jobs(take, layout.num_devices, layout.per_device, layout.lanes))
