"""delt_jax/residual.py: where blocks begin, what is mixed, and a recovery by hand with it."""

import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delt_jax import engine, residual


def int32(*values):
    return jnp.array(values, jnp.int32)


@pytest.mark.parametrize(
    ("total", "blocks", "begins"),
    [
        (2000, 4, [0, 500, 1000, 1500]),  # as released
        (10, 4, [0, 3, 5, 8]),
        (7, 1, [0]),
        (3, 5, [0, 1, 2]),  # more blocks than iterations: every one begins a block
    ],
)
def test_blocks_are_as_equal_as_they_can_be(total, blocks, begins):
    done = jnp.arange(total, dtype=jnp.int32)
    ages = np.asarray(residual.age(done, jnp.full_like(done, total), blocks))
    assert np.flatnonzero(ages == 0).tolist() == begins


@settings(deadline=None, max_examples=50)
@given(total=st.integers(1, 400), blocks=st.integers(1, 12))
def test_ages_count_up_from_every_start(total, blocks):
    done = jnp.arange(400, dtype=jnp.int32)  # one shape, so compiled once
    whole = jnp.full_like(done, total)
    starts = np.asarray(residual.block_start(done, whole, blocks))[:total]
    assert set(starts) <= {-(-k * total // blocks) for k in range(blocks)}
    assert (starts <= np.arange(total)).all()
    ages = np.asarray(residual.age(done, whole, blocks))[:total]
    assert all(b in (0, a + 1) for a, b in itertools.pairwise(ages))


def test_only_images_whose_block_begins_are_mixed_and_forget_their_moments():
    draw = np.random.default_rng(0)
    x, start, mu, nu = jnp.asarray(draw.standard_normal((4, 4, 2, 2, 1)), jnp.float32)
    # Its first iteration; a block begins; amid a block; a block begins on a shorter clock.
    done, total = int32(0, 4, 3, 2), int32(8, 8, 8, 4)
    images, m, v = residual.mix(x, start, mu, nu, done, total, 0.25, 2)
    for i in (0, 2):
        chex.assert_trees_all_equal((images[i], m[i], v[i]), (x[i], mu[i], nu[i]))
    for i in (1, 3):
        np.testing.assert_allclose(images[i], 0.75 * x[i] + 0.25 * start[i], rtol=1e-6)
        assert not np.any(m[i])
        assert not np.any(v[i])


def test_an_image_that_has_not_moved_keeps_every_bit():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 5, 3)), jnp.float32)
    images, *_ = residual.mix(x, x, x, x, int32(4), int32(8), 0.3, 2)
    chex.assert_trees_all_equal(images, x)


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_pixels_stay_in_range(share):
    draw = np.random.default_rng(2)
    low, high = np.float32(-1.7), np.float32(2.3)
    x, start = (draw.choice([low, high], (6, 4, 4, 1)) for _ in range(2))
    done, total = jnp.full(6, 4, jnp.int32), jnp.full(6, 8, jnp.int32)
    zeros = jnp.zeros_like(x)
    images, *_ = residual.mix(
        jnp.asarray(x), jnp.asarray(start), zeros, zeros, done, total, share, 2
    )
    slack = 1e-6
    assert images.min() >= low - slack
    assert images.max() <= high + slack


def test_four_blocks_by_hand():
    """As the released loop: a new Adam per block, the rate going on, a residual between blocks."""
    total, blocks, share, peak = 8, 4, 0.5, 0.1
    start = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (2, 3, 3, 1)), jnp.float32)
    low, high = jnp.full(1, -2.0), jnp.full(1, 2.0)

    def gradient(x):
        return x - 0.3

    def step(x, mu, nu, age, t):
        rate = engine.learning_rate(peak, jnp.full(2, t), jnp.full(2, total))
        return engine.adam_step(x, gradient(x), mu, nu, jnp.full(2, age), rate, low, high)

    x, t = start, 0
    for block in range(blocks):
        mu = nu = jnp.zeros_like(start)
        for i in range(total // blocks):
            x, mu, nu = step(x, mu, nu, i, t)
            t += 1
        if block < blocks - 1:
            x = (1 - share) * x + share * start

    images, mu, nu = start, jnp.zeros_like(start), jnp.zeros_like(start)
    for t in range(total):
        done, whole = jnp.full(2, t, jnp.int32), jnp.full(2, total, jnp.int32)
        images, mu, nu = residual.mix(images, start, mu, nu, done, whole, share, blocks)
        age = residual.age(done, whole, blocks)
        rate = engine.learning_rate(peak, done, whole)
        images, mu, nu = engine.adam_step(images, gradient(images), mu, nu, age, rate, low, high)
    np.testing.assert_allclose(images, x, atol=1e-6)
    assert np.abs(np.asarray(images - start)).max() > 0.05
