"""Optimisers and schedules against plain numpy, and one training step of a network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delt_jax import models
from delt_jax.core import losses as losses_lib
from delt_jax.models import ModelSpec
from delt_jax.training import state as state_lib


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_half_cosine_ends_at_half_the_peak():
    epochs, per_epoch = 30, 4
    schedule = state_lib.half_cosine(0.2, epochs, per_epoch)
    steps = np.arange(epochs * per_epoch)
    expected = 0.2 * 0.5 * (1 + np.cos(np.pi * (steps // per_epoch) / (2 * epochs)))
    ours = np.asarray(schedule(jnp.asarray(steps)))
    chex.assert_trees_all_close(ours, expected.astype(np.float32), rtol=1e-6)
    chex.assert_trees_all_close(ours[:per_epoch], np.full(per_epoch, 0.2, np.float32))
    assert 0.5 < ours[-1] / 0.2 < 0.53
    chex.assert_trees_all_close(float(schedule(epochs * per_epoch)), 0.1, rtol=1e-6)


PARAMS = {"kernel": normal(3, 4), "bias": normal(4, seed=1), "conv": normal(2, 2, 1, 3, seed=2)}
GRADS = [
    {k: normal(*v.shape, seed=10 * step + len(k)) for k, v in PARAMS.items()} for step in range(4)
]


def run(optimiser, params):
    state, after = optimiser.init(params), []
    update = jax.jit(optimiser.update)
    for grads in GRADS:
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        after.append(jax.tree.map(np.asarray, params))
    return after


def check(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        chex.assert_trees_all_close(a, jax.tree.map(np.float32, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_decays_weights_with_more_than_one_axis(weight_decay):
    rates = 0.1 / (1 + np.arange(4))
    expected = []
    params = {k: v.astype(np.float64) for k, v in PARAMS.items()}
    mu = {k: 0.0 for k in params}
    nu = {k: 0.0 for k in params}
    for t, (grads, rate) in enumerate(zip(GRADS, rates, strict=True), start=1):
        for k, g in grads.items():
            mu[k] = 0.9 * mu[k] + 0.1 * g
            nu[k] = 0.999 * nu[k] + 0.001 * g.astype(np.float64) ** 2
            step = mu[k] / (1 - 0.9**t) / (np.sqrt(nu[k] / (1 - 0.999**t)) + 1e-8)
            decay = weight_decay if params[k].ndim > 1 else 0.0
            params[k] = params[k] - rate * (step + decay * params[k])
        expected.append(dict(params))
    check(run(state_lib.adamw(lambda step: 0.1 / (1 + step), weight_decay), PARAMS), expected)


def test_sgd_couples_decay_and_momentum_as_torch():
    expected = []
    params = {k: v.astype(np.float64) for k, v in PARAMS.items()}
    velocity = {k: 0.0 for k in params}
    for t, grads in enumerate(GRADS):
        rate = 0.5 * 0.5 * (1 + np.cos(np.pi * t / 10))
        for k, g in grads.items():
            velocity[k] = 0.9 * velocity[k] + g + 0.05 * params[k]
            params[k] = params[k] - rate * velocity[k]
        expected.append(dict(params))
    check(run(state_lib.sgd("cosine", 0.5, 10, momentum=0.9, weight_decay=0.05), PARAMS), expected)


def rates(kind, steps):
    """Learning rate of every step, read off a parameter whose gradient is always one."""
    optimiser = state_lib.sgd(kind, 0.4, steps, momentum=0.0, weight_decay=0.0)

    def body(state, _):
        update, state = optimiser.update(jnp.ones(()), state, jnp.zeros(()))
        return state, -update

    return np.asarray(jax.lax.scan(body, optimiser.init(jnp.zeros(())), None, length=steps)[1])


def test_one_cycle_rises_then_falls():
    ours = rates("one_cycle", 100)
    peak = int(ours.argmax())
    assert peak == 30
    chex.assert_trees_all_close(float(ours[peak]), 0.4, rtol=1e-6)
    assert (np.diff(ours[: peak + 1]) > 0).all()
    assert (np.diff(ours[peak:]) < 0).all()
    assert ours[0] < 0.1 * 0.4
    assert ours[-1] < 0.01 * 0.4


def test_cosine_falls_from_the_peak_to_zero():
    expected = 0.4 * 0.5 * (1 + np.cos(np.pi * np.arange(20) / 20))
    chex.assert_trees_all_close(rates("cosine", 20), expected.astype(np.float32), atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
def test_schedules_of_few_steps_are_finite(kind, steps):
    ours = rates(kind, steps)
    chex.assert_tree_all_finite(ours)
    assert (ours >= 0).all()
    assert ours.max() <= 0.4 * 1.000001


def test_update_learns_moves_the_running_statistics_and_reports_the_loss_before():
    model = models.create(ModelSpec("conv3", 3, 8, 3, width=8))
    optimiser = state_lib.sgd("cosine", 0.1, 100, momentum=0.9, weight_decay=0.0)
    labels = jnp.arange(12) % 3
    images = jnp.asarray(normal(12, 8, 8, 3)) + labels[:, None, None, None]

    def loss(logits):
        return losses_lib.cross_entropy(logits, labels)

    state = state_lib.init_state(model, optimiser, jax.random.key(0), (8, 8, 3))
    trainer = state_lib.Trainer(model, optimiser)
    step = jax.jit(lambda state: state_lib.update(trainer, state, images, loss))
    assert int(state.step) == 0
    chex.assert_trees_all_equal(
        state.batch_stats["norm_0"],
        {"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)},
    )
    first, reported = step(state)
    logits, _ = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))(
        state.variables
    )
    chex.assert_trees_all_close(reported, loss(logits), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.variables, first.variables)
    assert all(jax.tree.leaves(moved["batch_stats"]))
    assert all(jax.tree.leaves(moved["params"]["classifier"]))
    losses = []
    for _ in range(12):
        state, value = step(state)
        losses.append(float(value))
    chex.assert_tree_all_finite(state)
    assert int(state.step) == 12
    assert losses[-1] < 0.5 * losses[0]
