"""Losses against plain numpy and numerical gradients; figures of merit; named streams."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delt_jax.core import keys
from delt_jax.core import losses as losses_lib
from delt_jax.core.losses import Moments

cross_entropy = jax.jit(losses_lib.cross_entropy)
bn_terms = jax.jit(losses_lib.bn_terms)
kl_divergence = jax.jit(losses_lib.kl_divergence)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def log_softmax(z):
    z = z.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def layers(seed, shift=0.0):
    return [
        Moments(normal(c, seed=seed + c) + shift, normal(c, seed=seed + 50 + c) ** 2)
        for c in (3, 8, 5)
    ]


def test_cross_entropy_is_the_mean_over_images():
    logits, labels = 3 * normal(6, 5), np.array([0, 4, 2, 2, 1, 3])
    expected = -log_softmax(logits)[np.arange(6), labels].mean()
    ours = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    chex.assert_trees_all_close(float(ours), expected, rtol=1e-6)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    chex.assert_trees_all_close(float(cross_entropy(logits, jnp.array([0, 0]))), 1e4, rtol=1e-6)


def test_cross_entropy_refuses_one_hot_labels():
    with pytest.raises(AssertionError):
        cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32))


def test_bn_terms_are_sums_of_two_norms():
    batch, running = layers(0), layers(7, shift=1.0)
    expected = [
        np.sqrt(((b.variance.astype(float) - r.variance) ** 2).sum())
        + np.sqrt(((b.mean.astype(float) - r.mean) ** 2).sum())
        for b, r in zip(batch, running, strict=True)
    ]
    ours = np.asarray(bn_terms(batch, running))
    chex.assert_trees_all_close(ours, np.array(expected, np.float32), rtol=1e-6)


@jax.jit
def bn_loss(batch, running):
    return losses_lib.bn_matching(bn_terms(batch, running), 10.0)


def test_bn_gradient_where_the_moments_match_is_zero():
    batch = layers(0)
    value, gradient = jax.jit(jax.value_and_grad(bn_loss))(batch, batch)
    assert 0 <= float(value) < 1e-20
    chex.assert_trees_all_equal(gradient, jax.tree.map(np.zeros_like, batch))


def test_bn_gradient_where_only_one_moment_matches():
    (batch, *_), (running, *_) = layers(0), layers(7)
    running = Moments(batch.mean, running.variance)
    gradient = jax.jit(jax.grad(bn_loss))([batch], [running])[0]
    difference = batch.variance - running.variance
    chex.assert_trees_all_equal(np.asarray(gradient.mean), np.zeros(3, np.float32))
    chex.assert_trees_all_close(
        np.asarray(gradient.variance), 10 * difference / np.linalg.norm(difference), rtol=1e-5
    )


def test_bn_gradient_is_the_numerical_one():
    batch, running = layers(0), layers(7, shift=1.0)
    leaves, structure = jax.tree.flatten(batch)
    chex.assert_numerical_grads(
        jax.jit(lambda *b: bn_loss(jax.tree.unflatten(structure, b), running)),
        leaves,
        order=1,
        modes=["rev"],
    )


def test_bn_terms_refuse_other_layers():
    with pytest.raises(AssertionError):
        bn_terms(layers(0), layers(7)[:2])
    with pytest.raises(AssertionError):
        bn_terms(layers(0), layers(7)[::-1])


@pytest.mark.parametrize("multiplier", [0.0, 1.0, 10.0])
def test_the_first_layer_counts_several_times(multiplier):
    terms = normal(5) ** 2
    ours = losses_lib.bn_matching(jnp.asarray(terms), multiplier)
    expected = multiplier * terms[0] + terms[1:].sum()
    chex.assert_trees_all_close(np.asarray(ours), np.float32(expected), rtol=1e-5)


def divergence(logits, targets, temperature):
    targets = targets.astype(np.float64)
    logs = np.log(np.where(targets > 0, targets, 1.0))
    return (targets * (logs - log_softmax(logits / temperature))).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_divergence_is_the_batch_mean_without_squared_temperature(temperature):
    logits = 5 * normal(7, 4)
    targets = np.exp(log_softmax(3 * normal(7, 4, seed=1) / temperature)).astype(np.float32)
    ours = kl_divergence(jnp.asarray(logits), jnp.asarray(targets), temperature)
    chex.assert_trees_all_close(
        float(ours), divergence(logits, targets, temperature), rtol=1e-4, atol=1e-6
    )


def test_kl_divergence_of_one_hot_targets_is_the_cross_entropy():
    logits, labels = jnp.asarray(normal(6, 5)), jnp.array([0, 4, 2, 2, 1, 3])
    ours = kl_divergence(logits, jax.nn.one_hot(labels, 5), 1.0)
    chex.assert_trees_all_close(ours, cross_entropy(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_kl_gradient_pulls_predictions_to_the_targets(temperature):
    logits = normal(3, 4)
    targets = np.exp(log_softmax(normal(3, 4, seed=1))).astype(np.float32)

    def loss(z):
        return kl_divergence(z, jnp.asarray(targets), temperature)

    ours = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(logits)))
    expected = (np.exp(log_softmax(logits / temperature)) - targets) / (3 * temperature)
    chex.assert_trees_all_close(ours, expected.astype(np.float32), atol=1e-6)
    chex.assert_numerical_grads(jax.jit(loss), (jnp.asarray(logits),), order=1, modes=["rev"])


def test_cross_entropy_gradient_is_the_numerical_one():
    chex.assert_numerical_grads(
        jax.jit(lambda z: cross_entropy(z, jnp.array([1, 0, 3]))),
        (jnp.asarray(normal(3, 4)),),
        order=1,
        modes=["rev"],
    )


def test_logit_error_does_not_see_constants():
    logits, taught = normal(3, 4), normal(3, 4, seed=1)
    targets = jax.nn.softmax(taught / 7)

    def centred(z):
        return z - z.mean(1, keepdims=True)

    expected = ((centred(logits) - centred(taught)) ** 2).mean()
    for shift in (0.0, 5.0):
        ours = losses_lib.logit_error(jnp.asarray(logits + shift), targets, 7.0)
        chex.assert_trees_all_close(float(ours), float(expected), rtol=1e-4)
    assert float(losses_lib.logit_error(jnp.asarray(taught), targets, 7.0)) < 1e-9


def data(key):
    return tuple(jax.random.key_data(key).tolist())


def test_stream_is_a_typed_scalar_key():
    key = keys.stream(3, "recover", 1)
    chex.assert_shape(key, ())
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def test_the_same_path_gives_the_same_key():
    first = data(keys.stream(3, "recover", 1, "crop"))
    keys.stream(4, "other")
    assert data(keys.stream(3, "recover", 1, "crop")) == first


PATHS = st.lists(st.sampled_from(["a", "b", "recover", 0, 1, 2, 2**32 - 1]), max_size=4).map(tuple)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), PATHS), min_size=2, max_size=6, unique=True))
def test_different_paths_give_different_keys(paths):
    assert len({data(keys.stream(seed, *path)) for seed, path in paths}) == len(paths)


def test_a_traced_number_gives_the_key_of_the_number():
    traced = jax.jit(lambda i: jax.random.key_data(keys.stream(0, "start", i)))(7)
    assert tuple(traced.tolist()) == data(keys.stream(0, "start", 7))
