"""Trajectory matching on a network of two layers, in float64, beside finite differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_networks import along, cross_entropy, flat, images_and_labels, slope, weights

from delt_jax.learned import matching_trajectories as matching
from delt_jax.learned import unrolled
from delt_jax.learned.matching_trajectories import Segment

STEPS = 6


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def loss(params, learned, chosen):
    return cross_entropy(params, learned["images"][chosen], learned["labels"][chosen])


def problem():
    images, labels = images_and_labels(6)
    learned = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
    draw = np.random.default_rng(3)
    steps = jnp.asarray(np.stack([draw.permutation(6)[:4] for _ in range(STEPS)]))
    start = weights(0)
    target = jax.tree.map(lambda s, w: s + 0.3 * w, start, weights(5))
    return learned, steps, Segment(start, target)


def direction_of(learned):
    draw = np.random.default_rng(7)
    return jax.tree.map(lambda x: jnp.asarray(draw.standard_normal(x.shape)), learned)


def test_the_loss_is_1_without_steps():
    learned, steps, segment = problem()
    assert matching.mtt_loss(loss, segment, learned, steps[:0], 0.1) == 1


def test_the_gradient_runs_through_all_steps():
    learned, steps, segment = problem()

    def of(learned, rate=0.2):
        return matching.mtt_loss(loss, segment, learned, steps, rate)

    direction = direction_of(learned)
    np.testing.assert_allclose(
        along(jax.grad(of)(learned), direction), slope(of, learned, direction), rtol=1e-6
    )
    of_rate = jax.grad(of, 1)(learned, 0.2)
    np.testing.assert_allclose(of_rate, slope(lambda r: of(learned, r), 0.2, 1.0), rtol=1e-6)


def constant_weights_loss(segment, learned, steps, rate):
    """MTT's loss where the weights before each step are constants."""
    params, total = segment.start, None
    for chosen in steps:
        grads = jax.grad(loss)(jax.lax.stop_gradient(params), learned, chosen)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        total = grads if total is None else jax.tree.map(jnp.add, total, grads)
    end = jax.tree.map(lambda p, g: p - rate * g, segment.start, total)
    return matching.squared_distance(end, segment.target) / matching.squared_distance(*segment)


@pytest.mark.parametrize(
    ("rate", "apart"), [(0, None), (0.01, 0.0363), (0.1, 0.2043), (0.5, 0.3979)]
)
def test_tesla_is_the_gradient_with_constant_weights_and_no_other(rate, apart):
    learned, steps, segment = problem()
    value, of_learned, of_rate = matching.tesla_gradient(loss, segment, learned, steps, rate)
    np.testing.assert_allclose(
        value, matching.mtt_loss(loss, segment, learned, steps, rate), rtol=1e-12
    )
    expected = jax.grad(constant_weights_loss, (1, 3))(segment, learned, steps, float(rate))
    np.testing.assert_allclose(flat(of_learned), flat(expected[0]), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(of_rate, expected[1], rtol=1e-9)
    full = jax.grad(lambda x: matching.mtt_loss(loss, segment, x, steps, rate))(learned)["images"]
    if apart is None:
        assert not np.any(full)
    else:  # as docs/learned.md has them
        distance = np.linalg.norm(of_learned["images"] - full) / np.linalg.norm(full)
        assert distance == pytest.approx(apart, abs=1e-4)


def test_att_takes_the_step_that_is_nearest_the_later_of_equal_ones():
    learned, steps, _ = problem()
    start = weights(0)
    states = [start]
    for count in range(1, STEPS + 1):
        states.append(unrolled.descend(loss, start, learned, steps[:count], 0.2))
    # The target is where the student is after 4 steps, but for a little.
    target = jax.tree.map(lambda p: p + 1e-3, states[4])
    value, taken = matching.att_loss(loss, Segment(start, target), learned, steps, 0.2)
    assert taken == 4
    direct = matching.mtt_loss(loss, Segment(start, target), learned, steps[:4], 0.2)
    np.testing.assert_allclose(value, direct, rtol=1e-12)
    gradients = (
        jax.grad(lambda x: matching.att_loss(loss, Segment(start, target), x, steps, 0.2)[0]),
        jax.grad(lambda x: matching.mtt_loss(loss, Segment(start, target), x, steps[:4], 0.2)),
    )
    ours, theirs = (flat(gradient(learned)) for gradient in gradients)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    # A student that does not move is always equally near.
    _, still = matching.att_loss(loss, Segment(start, target), learned, steps, 0.0)
    assert still == STEPS


def test_att_stops_before_steps_that_diverge():
    """Weights beyond all numbers are not nearest, and nothing of them is differentiated."""
    learned, steps, segment = problem()
    weights_of_steps = np.array([1, 1, 1, 1, 1e200, 1e200])

    def loss_of(params, learned, step):
        chosen, weight = step
        return weight * loss(params, learned, chosen)

    def att(learned, number=STEPS, weights_of_steps=weights_of_steps):
        drawn = steps[:number], jnp.asarray(weights_of_steps[:number])
        return matching.att_loss(loss_of, segment, learned, drawn, 0.05)

    (value, taken), gradient = jax.value_and_grad(att, has_aux=True)(learned)
    (expected, same), short = jax.value_and_grad(lambda x: att(x, 4), has_aux=True)(learned)
    assert taken == same <= 4
    assert value == expected
    chex.assert_tree_all_finite(gradient)
    np.testing.assert_allclose(flat(gradient), flat(short), rtol=1e-12)
    assert not np.isfinite(att(learned, weights_of_steps=1e200 * np.ones(STEPS))[0])


def test_datm_begins_with_early_epochs():
    grown = [
        int(matching.latest_start(jnp.int32(s), 10, 20, 1000)) for s in (0, 499, 500, 1000, 9000)
    ]
    assert grown == [10, 14, 15, 20, 20]
    assert matching.latest_start(0, 70, 70, 0) == 70


def test_the_window_of_adam_has_the_derivative_of_its_own_steps():
    """The free steps are constants: differences are taken with them as they were."""
    learned, steps, _ = problem()
    free = 3

    def end(learned, within=None):
        state = unrolled.adam_start(weights(0))
        for number in range(STEPS):
            use = learned if number >= free or within is None else within
            grads = jax.grad(loss)(state.params, use, steps[number])
            state = unrolled.adam_step(state, grads, 0.05)
        return (flat_sum(state.params)) ** 2

    def flat_sum(params):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(params))

    def windowed(learned):
        state = unrolled.adam_free(
            loss, weights(0), learned, lambda i: steps[i], jnp.int32(free), 0.05
        )
        return flat_sum(unrolled.adam_window(loss, state, learned, steps[free:], 0.05)) ** 2

    np.testing.assert_allclose(windowed(learned), end(learned), rtol=1e-12)
    direction = direction_of(learned)
    expected = slope(lambda x: end(x, within=learned), learned, direction)
    got = along(jax.grad(windowed)(learned), direction)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert abs(slope(end, learned, direction) - expected) > 1e-3 * abs(expected)


def test_adam_is_optax_adam_and_differentiable_at_rest():
    params, rate = weights(0), 0.05
    optimiser = optax.adam(rate)
    theirs, theirs_state, ours = params, optimiser.init(params), unrolled.adam_start(params)
    for number in range(4):
        grads = jax.tree.map(lambda p, n=number: jnp.sin(p + n), params)
        updates, theirs_state = optimiser.update(grads, theirs_state)
        theirs = optax.apply_updates(theirs, updates)
        ours = unrolled.adam_step(ours, grads, rate)
    np.testing.assert_allclose(flat(ours.params), flat(theirs), rtol=1e-7)

    def moved(scale):
        state = unrolled.adam_step(
            unrolled.adam_start(jnp.ones(2)), scale * jnp.array([0.0, 1.0]), rate
        )
        return state.params.sum()

    assert np.isfinite(jax.grad(moved)(1.0))
