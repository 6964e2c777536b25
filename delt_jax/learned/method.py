"""What a method of learning a set consists of: a loss, networks, and how these age.

The engine owns the loop. A method is a `Method`, a value in a file of `delt_jax.learned.methods`:
pure functions on explicit state, of which one is what the images descend on and one trains the
networks that it is asked through.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import optax

from delt_jax.models import ModelSpec


class Learned(NamedTuple):
    """Everything that is learned.

    Attributes:
      images: float32 [N, S, S, C] as they are stored, class by class, in the space of the
        preprocessing.
      labels: float32 [N, classes], as the method's loss reads them.
      extra: further learned arrays by name, such as a learning rate.
    """

    images: chex.Array
    labels: chex.Array
    extra: dict[str, chex.Array]


class Network(NamedTuple):
    """A network of the pool.

    Attributes:
      variables: "params", and "batch_stats" where the network has BatchNorm.
      opt_state: of the optimiser that trains it.
      age: int32 scalar, outer steps since it was fresh.
    """

    variables: Any
    opt_state: Any
    age: chex.Array


class Real(NamedTuple):
    """Real images of one outer step, in the space of the preprocessing.

    Attributes:
      images: float32 [classes, B, S, S, C] where a method asks for them by class, else
        [B, S, S, C].
      labels: int32 of the same leading axes.
      more: float32 [M, S, S, C] and int32 [M]: further images, mixed, that the network trains on;
        None where a method trains its networks on learned images alone.
    """

    images: chex.Array
    labels: chex.Array
    more: tuple[chex.Array, chex.Array] | None


@dataclass(frozen=True)
class Setup:
    """What is static in a run; hashable, so it can be compiled in.

    Attributes:
      spec: the network's architecture while images are learned.
      num_classes: of the data.
      ipc: stored images per class.
      steps: outer steps of the whole run.
      real_batch: real images of an outer step, of each class where they come by class.
      more_real: further real images of a step, for the network's training; 0 without.
      image_rate, label_rate: learning rates; a label rate of 0 leaves the labels as they start.
      network_rate: learning rate of the networks.
      network_steps: gradient steps, or epochs where the method counts these, of the network after
        each outer step.
      lifetime: outer steps after which a network is made anew.
      augment: strategy of `delt_jax.augment.dsa` for both sides, or empty.
      factor: images along a side of a stored one (IDC); 1 stores each by itself.
      mirrored: whether every image is also used mirrored (FRePo on colour sets).
      low, high: values of black and white per channel, in the space of the preprocessing.
      options: further numbers of the method by name, all of its `Method.options`.
    """

    spec: ModelSpec
    num_classes: int
    ipc: int
    steps: int
    real_batch: int
    more_real: int
    image_rate: float
    label_rate: float
    network_rate: float
    network_steps: int
    lifetime: int
    augment: str
    factor: int
    mirrored: bool
    low: tuple[float, ...]
    high: tuple[float, ...]
    options: tuple[tuple[str, float], ...] = ()

    def option(self, name: str) -> float:
        """One of the method's further numbers.

        Raises:
          KeyError: if it has none of that name.
        """
        return dict(self.options)[name]


class Held(NamedTuple):
    """What a step holds in memory at once, for estimates.

    Attributes:
      images: in what a forward pass keeps of an image for its way back. What XLA counts on CPUs
        (benchmarks/learned_memory.py) says how many of these an image is: with a way to the
        weights alone, with one to the images, or with gradients of gradients.
      weights: copies of the weights, beside the pool's networks and their optimisers.
    """

    images: float
    weights: int = 0


@dataclass(frozen=True)
class Pool:
    """Networks that a run keeps.

    Attributes:
      size: how many; each outer step draws one.
      is_staggered: whether their ages begin apart, at 0, lifetime / size and so on, though all are
        fresh (FRePo).
    """

    size: int = 1
    is_staggered: bool = False


Project = Callable[[Learned, Setup], Learned]
# (key, learned, network, real, setup) -> loss, its gradient as a `Learned`
Gradient = Callable[[chex.PRNGKey, Learned, Network, Real, Setup], tuple[chex.Array, Learned]]
# (key, learned, network, real, setup) -> the network after its training of an outer step
Train = Callable[[chex.PRNGKey, Learned, Network, Real, Setup], Network]


def leave(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> Network:
    """A `Train` that changes nothing: of networks that are new at every step, and of experts."""
    del key, learned, real, setup
    return network


@dataclass(frozen=True)
class Method:
    """A method of learning a set.

    Attributes:
      name: as settings have it.
      source: paper, and the code that it was read from.
      by_class: whether the real images of a step come class by class, equally many of each.
      gradient: the loss of an outer step and what the optimiser is given. Real images may be one
        device's share, inside `pmap` or `shard_map` with `runtime.devices.AXIS`: means over them
        go through `learned.sharing.mean`, and the result is that of all.
      train: ages the network by one outer step; its `age` is counted by the engine.
      optimiser: of images, labels and extra, as one transformation of a `Learned`.
      network_optimiser: of the networks' parameters.
      labels: how they start: "one_hot", "shifted" (one-hot - 1 / classes, RCIG), "centred" (the
        same over sqrt(classes / 10), FRePo), "weights" (one-hot, and need not sum to 1 later) or
        "expert_logits" (DATM).
      pool: its networks.
      keeps_bounds: whether images are brought back between black and white whenever a network is
        fresh (IDC).
      ahead: of the optimiser's state, what is learned and the setup: where the gradient of a step
        is taken; None takes it where the images are.
      options: numbers that this method alone has, and their defaults.
      extra: further learned numbers by name, and where they start, as options.
      project: brings what is learned back to where it may be, after every update.
      average: decay of the average over steps that is the result, or the option that has it; 0
        takes the last.
      averaged: parts of a `Learned` that are averaged then; of the others the last count.
      keeps_mirrored: whether mirrored copies that it learns with belong to the set, so that
        students train on them, too (RCIG).
      walks_on_experts: whether its networks are pieces of stored trainings, whose variables are
        "params" and "target" (MTT); it has the options of `delt_jax.learned.expert_walk` then.
      trains_on_real: whether networks train on further real images, `network_steps` batches a step.
      skips: whether a step whose loss is not finite changes nothing, so that a run goes on.
      refuse: what is wrong with a setup, as the end of a sentence (see
        `delt_jax.learned.limits`), or the empty string.
      passes: forward passes of one image that an outer step amounts to, for estimates; a backward
        pass counts as two, and a gradient of gradients as three times what it is the gradient of.
      held: what an outer step holds in memory, for estimates.
    """

    name: str
    source: str
    by_class: bool
    gradient: Gradient
    train: Train
    optimiser: Callable[[Setup], optax.GradientTransformation]
    network_optimiser: Callable[[Setup], optax.GradientTransformation]
    labels: str = "one_hot"
    pool: Pool = Pool()
    keeps_bounds: bool = False
    ahead: Callable[[Any, Learned, Setup], Learned] | None = None
    options: tuple[tuple[str, float], ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    project: Project = lambda learned, setup: learned
    average: float | str = 0.0
    averaged: tuple[str, ...] = Learned._fields
    keeps_mirrored: bool = False
    walks_on_experts: bool = False
    trains_on_real: bool = False
    skips: Callable[[Setup], bool] = lambda setup: False
    refuse: Callable[[Setup], str] = lambda setup: ""
    passes: Callable[[Setup], float] = lambda setup: 3.0 * setup.num_classes * setup.ipc
    held: Callable[[Setup], Held] = lambda setup: Held(
        setup.real_batch * setup.num_classes + 3.0 * setup.num_classes * setup.ipc
    )
