"""The compiled programs of learning a set: an outer step in its parts, and chunks of steps."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax import models
from delt_jax.core import keys
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.learned.method import Learned, Method, Network, Real, Setup
from delt_jax.learned.real_batches import Pixels
from delt_jax.models import forms
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program

VERSION = 1  # of the engine, part of the identity of learned sets


class LearnState(NamedTuple):
    """Everything that an outer step changes.

    Attributes:
      learned: images, labels and what else is learned.
      opt_state: of the method's optimiser.
      pool: the networks, leaves with a leading axis [size].
      average: decaying sums of the averaged parts of `learned` after each step, by name; None
        where the last ones count.
    """

    learned: Learned
    opt_state: Any
    pool: Network
    average: dict[str, Any] | None = None


@dataclass(frozen=True)
class SetProgram:
    """Everything that is compiled in; hashable.

    Attributes:
      method: its functions.
      setup: of the run.
      normalisation: of the space that images are learned in.
      kind: of that space's preprocessing.
    """

    method: Method
    setup: Setup
    normalisation: Normalisation
    kind: str = "standardise"


class Shared(NamedTuple):
    """What the devices share.

    Attributes:
      key: of the run's stage.
      matrix, centre: of the preprocessing; None where it only standardises.
    """

    key: chex.PRNGKey
    matrix: chex.Array | None
    centre: chex.Array | None


class Turn(NamedTuple):
    """Numbers of an outer step, int32 and bool scalars; or of several, with a leading axis.

    Attributes:
      step: from 0.
      drawn: of the network that it asks.
      renews: whether that network is made anew after it.
      variables: of a network from elsewhere, in place of the pool's; None where the pool is asked.
    """

    step: chex.Array
    drawn: chex.Array
    renews: chex.Array
    variables: Any = None


def fresh_network(program: SetProgram, key: chex.PRNGKey) -> Network:
    """A network with fresh weights, of age 0."""
    spec = program.setup.spec
    images = jnp.zeros((1, spec.image_size, spec.image_size, spec.channels))
    made = models.create(spec).init(key, images, train=False)
    # Not what the network has noted of this image.
    variables = {name: made[name] for name in ("params", "batch_stats") if name in made}
    optimiser = program.method.network_optimiser(program.setup)
    return Network(variables, optimiser.init(variables["params"]), jnp.int32(0))


@functools.lru_cache(maxsize=8)
def compile_fresh(program: SetProgram) -> Program:
    """Makes ``fresh(key)``, which returns a network."""
    return Program(jax.jit(lambda key: fresh_network(program, key)), quickly=True)


def init_optimiser(program: SetProgram, learned: Learned) -> Any:
    """State of the method's optimiser before the first step."""
    return program.method.optimiser(program.setup).init(learned)


def decay(program: SetProgram) -> float:
    """Of the average over steps; 0 where there is none."""
    given = program.method.average
    return program.setup.option(given) if isinstance(given, str) else given


def begin_average(program: SetProgram, learned: Learned) -> dict[str, Any] | None:
    """`LearnState.average` before the first step."""
    if not decay(program):
        return None
    return jax.tree.map(jnp.zeros_like, _averaged(program, learned))


def _averaged(program: SetProgram, learned: Learned) -> dict[str, Any]:
    return {name: getattr(learned, name) for name in program.method.averaged}


def improve(
    program: SetProgram, state: LearnState, network: Network, real: Real, key: chex.PRNGKey
) -> tuple[LearnState, chex.Array]:
    """One step of what is learned; returns the state, but for its pool, and the loss before."""
    method, setup = program.method, program.setup
    learned, opt_state = state.learned, state.opt_state
    at = learned if method.ahead is None else method.ahead(opt_state, learned, setup)
    loss, gradient = method.gradient(keys.derive(key, "gradient"), at, network, real, setup)
    updates, opt_state = method.optimiser(setup).update(gradient, opt_state, learned)
    learned = method.project(optax.apply_updates(learned, updates), setup)
    average = state.average
    if average is not None:
        parts = _averaged(program, learned)
        average = optax.incremental_update(parts, average, 1 - decay(program))
    return LearnState(learned, opt_state, state.pool, average), loss


def outcome(program: SetProgram, state: LearnState, steps: int) -> Learned:
    """What counts as learned after so many steps: averages of the parts that the method averages.

    They began as zeros, so they are divided by the weight of the steps so far.
    """
    if state.average is None or not steps:
        return state.learned
    weight = 1 - decay(program) ** steps
    parts = jax.tree.map(lambda a: (a / weight).astype(a.dtype), state.average)
    return state.learned._replace(**parts)


def train(
    program: SetProgram, learned: Learned, network: Network, real: Real, key: chex.PRNGKey
) -> Network:
    """The network after its training of an outer step, which is one older."""
    trained = program.method.train(keys.derive(key, "train"), learned, network, real, program.setup)
    return trained._replace(age=network.age + 1)


def renew(program: SetProgram, learned: Learned, key: chex.PRNGKey) -> tuple[Learned, Network]:
    """A network in place of one that is too old, before which bounds are kept, if they are."""
    if program.method.keeps_bounds:
        low, high = jnp.asarray(program.setup.low), jnp.asarray(program.setup.high)
        learned = learned._replace(images=jnp.clip(learned.images, low, high))
    return learned, fresh_network(program, keys.derive(key, "network"))


def _real(program: SetProgram, shared: Shared, pixels: Pixels) -> Real:
    space = Preprocessing(program.kind, program.normalisation, shared.matrix, shared.centre)
    more = None if pixels.more is None else (space(pixels.more[0]), pixels.more[1])
    return Real(space(pixels.images), pixels.labels, more)


def _network(pool: Network, turn: Turn) -> Network:
    """The network that a step asks."""
    if turn.variables is not None:
        return Network(turn.variables, (), jnp.int32(0))
    return jax.tree.map(lambda leaf: leaf[turn.drawn], pool)


def _put(pool: Network, index: chex.Array, network: Network) -> Network:
    return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), pool, network)


@functools.lru_cache(maxsize=8)
def compile_improve(program: SetProgram, num_devices: int) -> Program:
    """Makes ``improve(state, pixels, (shared, turn))`` of one step, which returns (state, loss).

    State and pixels have leading axes [num_devices, 1]; the state is donated. Pixels, and the loss,
    have an axis [1] of steps.
    """

    def run(state, pixels, shared_and_turn):
        shared, turn = shared_and_turn
        real = _real(program, shared, jax.tree.map(lambda x: x[0], pixels))
        network, key = _network(state.pool, turn), keys.derive(shared.key, turn.step)
        state, loss = improve(program, state, network, real, key)
        return state, loss[None]

    return Program(devices.map_jobs(run, num_devices))


@functools.lru_cache(maxsize=8)
def compile_train(program: SetProgram, num_devices: int) -> Program:
    """Makes ``train(state, pixels, (shared, turn))`` of one step, which returns the state."""

    def run(state, pixels, shared_and_turn):
        shared, turn = shared_and_turn
        real = _real(program, shared, jax.tree.map(lambda x: x[0], pixels))
        network, key = _network(state.pool, turn), keys.derive(shared.key, turn.step)
        network = train(program, state.learned, network, real, key)
        return state._replace(pool=_put(state.pool, turn.drawn, network))

    return Program(devices.map_jobs(run, num_devices))


@functools.lru_cache(maxsize=8)
def compile_renew(program: SetProgram, num_devices: int) -> Program:
    """Makes ``renew(state, (), (shared, turn))`` of one step, which returns the state."""

    def run(state, _, shared_and_turn):
        shared, turn = shared_and_turn
        key = keys.derive(shared.key, turn.step)
        learned, network = renew(program, state.learned, key)
        return state._replace(learned=learned, pool=_put(state.pool, turn.drawn, network))

    return Program(devices.map_jobs(run, num_devices))


@functools.lru_cache(maxsize=8)
def compile_chunk(program: SetProgram, num_devices: int, steps: int) -> Program:
    """Makes ``chunk(state, pixels, (shared, turns))`` of several steps in one compiled loop.

    It returns the state and the losses [steps]; axes as `compile_improve` has them.
    """
    del steps  # a program has one shape

    def one_step(shared, state, turn_and_pixels):
        turn, pixels = turn_and_pixels
        real, key = _real(program, shared, pixels), keys.derive(shared.key, turn.step)
        network = _network(state.pool, turn)
        state, loss = improve(program, state, network, real, key)
        if program.method.walks_on_experts:
            return state, loss
        learned, network = jax.lax.cond(
            turn.renews,
            lambda learned, _: renew(program, learned, key),
            lambda learned, network: (learned, train(program, learned, network, real, key)),
            *(state.learned, network),
        )
        pool = _put(state.pool, turn.drawn, network)
        return state._replace(learned=learned, pool=pool), loss

    def run(state, pixels, shared_and_turns):
        shared, turns = shared_and_turns
        with forms.in_loops():
            step = functools.partial(one_step, shared)
            return jax.lax.scan(step, state, (turns, pixels))

    return Program(devices.map_jobs(run, num_devices))
