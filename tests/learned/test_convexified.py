"""RCIG's derivative through the exact solution of its inner problem, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tiny_networks import CLASSES, features, flat, images_and_labels, logits, weights

from delt_jax.learned import convexified
from delt_jax.learned.convexified import Inner

RIDGE, STEPS = 0.7, 200


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def all_but_the_head_kernel(params):
    free = jax.tree.map(lambda _: True, params)
    free["head"]["kernel"] = False
    return free


def make_inner(learned):
    network = convexified.linearise(logits, features, weights(), all_but_the_head_kernel)
    return Inner(network, learned["images"], learned["labels"], RIDGE)


def problem():
    images, labels = images_and_labels(6)
    learned = {"images": jnp.asarray(images), "labels": labels - 1 / CLASSES}
    return learned, images_and_labels(8, seed=4)


def outer_loss(learned, inner, delta):
    images, labels = problem()[1]
    outputs = convexified.predict(inner, delta, images)
    return -(labels * jax.nn.log_softmax(outputs)).sum(-1).mean()


def dense_delta(learned):
    """The minimum of the inner loss, by its whole Hessian."""
    inner = make_inner(learned)
    row, unflatten = ravel_pytree(inner.network.zero)

    def loss(row):
        return convexified.inner_loss(inner, unflatten(row))

    hessian, slope = jax.hessian(loss)(row), jax.grad(loss)(row)
    return unflatten(-jnp.linalg.solve(hessian, slope))


def test_the_loss_is_that_of_the_paper():
    """Written out with y = J delta + K alpha, where the code has a shorter form."""
    learned, _ = problem()
    inner = make_inner(learned)
    delta = jax.tree.map(lambda w: 0.1 * w, weights(3))
    delta["head"]["kernel"] = jnp.zeros_like(delta["head"]["kernel"])
    alpha, moved = convexified.last_layer(inner, delta)
    own = features(weights(), learned["images"])
    kernel = own @ own.T
    error = learned["labels"] - moved - kernel @ alpha
    ridge = RIDGE * (jnp.trace(alpha.T @ kernel @ alpha) + (flat(delta) ** 2).sum())
    expected = 0.5 * ((error**2).sum() + ridge) / alpha.size
    np.testing.assert_allclose(convexified.inner_loss(inner, delta), expected, rtol=1e-12)


@pytest.mark.exhaustive  # else the derivative below were another
def test_conjugate_gradients_find_the_minimum():
    learned, _ = problem()
    solved = convexified.solve(make_inner(learned), STEPS, 1e-14)
    np.testing.assert_allclose(flat(solved), flat(dense_delta(learned)), atol=1e-10)
    slope = jax.grad(lambda d: convexified.inner_loss(make_inner(learned), d))(solved)
    np.testing.assert_allclose(flat(slope), 0, atol=1e-12)
    assert not flat(solved["head"]["kernel"]).any()


def test_direct_and_implicit_are_the_whole_derivative():
    learned, _ = problem()
    parts = convexified.outer_gradient(make_inner, outer_loss, learned, STEPS, 1e-15)

    def through_the_solution(learned):
        return outer_loss(learned, make_inner(learned), dense_delta(learned))

    value, whole = jax.value_and_grad(through_the_solution)(learned)
    np.testing.assert_allclose(parts.loss, value, rtol=1e-12)
    both = jax.tree.map(jnp.add, parts.direct, parts.implicit)
    np.testing.assert_allclose(flat(both), flat(whole), atol=1e-10)
    alone = np.linalg.norm(flat(parts.direct) - flat(whole)) / np.linalg.norm(flat(whole))
    assert alone > 0.1  # direct alone is far off


def test_the_implicit_part_is_clipped_to_the_direct_one():
    gradient = convexified.OuterGradient(
        jnp.float64(0),
        {"images": jnp.array([3.0, 4.0]), "labels": jnp.array([1.0, jnp.nan])},
        {"images": jnp.array([0.0, 50.0]), "labels": jnp.array([0.5, 0.0])},
    )
    clipped = convexified.clipped_sum(gradient)
    np.testing.assert_allclose(clipped["images"], [3, 4 + 5])
    np.testing.assert_allclose(clipped["labels"], [1.5, 0])
