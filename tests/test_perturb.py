"""DWA's directed weight adjustment: steps of a fixed length up the gradient of the loss."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from delt_jax import models, perturb
from delt_jax.models import ModelSpec

ascend = jax.jit(perturb.ascend, static_argnames=("model", "length"))
LABELS = np.array([0, 1, 2, 1], np.int32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Linear(nn.Module):
    """The smallest classifier."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x.reshape(len(x), -1))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def test_steps_by_hand():
    """Softmax regression, whose gradient is known: W' = W + rho / K x^T (p - y) / |g|, K times."""
    images, kernel, bias = normal(4, 2, 2, 1), 0.1 * normal(4, 3, seed=1), normal(3, seed=2)
    ours = {"Dense_0": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    rows, one_hot = images.reshape(4, 4).astype(np.float64), np.eye(3)[LABELS]
    for _ in range(3):
        ours = ascend(ours, {}, images, LABELS, model=Linear(), length=0.3 / 3)
        off = (softmax(rows @ kernel + bias) - one_hot) / 4
        by_kernel, by_bias = rows.T @ off, off.sum(0)
        norm = np.sqrt((by_kernel**2).sum() + (by_bias**2).sum())
        kernel = kernel + 0.1 * by_kernel / norm
        bias = bias + 0.1 * by_bias / norm
    np.testing.assert_allclose(ours["Dense_0"]["kernel"], kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["Dense_0"]["bias"], bias, rtol=1e-5)


def teacher():
    model = models.create(ModelSpec("conv3", 3, 8, 1, width=4))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    # Statistics that are not those of any batch: eval mode is told from training.
    stats = jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])
    return model, variables["params"], stats


def test_a_step_follows_the_gradient_by_differences():
    """The slope of the loss in any direction is that along the step times their cosine."""
    model, params, stats = teacher()
    images, length = normal(4, 8, 8, 1), 1e-2

    @jax.jit
    def loss(params):
        logits = model.apply({"params": params, "batch_stats": stats}, images, train=False)
        return -jax.nn.log_softmax(logits)[jnp.arange(4), LABELS].mean()

    flat, unravel = ravel_pytree(params)

    def slope(direction, by=2e-3):
        up, down = (loss(unravel(flat + sign * by * direction)) for sign in (1, -1))
        return float(up - down) / (2 * by)

    moved = ascend(params, stats, images, LABELS, model=model, length=length)
    step = ravel_pytree(moved)[0] - flat
    np.testing.assert_allclose(np.linalg.norm(step), length, rtol=1e-4)
    uphill = step / np.linalg.norm(step)
    steepest = slope(uphill)
    assert steepest > 0.1
    for seed in range(4):
        other = normal(len(flat), seed=seed)
        direction = uphill + 0.5 * other / np.linalg.norm(other)
        direction /= np.linalg.norm(direction)
        expected = steepest * float(direction @ uphill)
        np.testing.assert_allclose(slope(direction), expected, rtol=0.03)


def test_no_gradient_no_step():
    sure = {"Dense_0": {"kernel": jnp.zeros((4, 3)), "bias": jnp.array([200.0, 0.0, 0.0])}}
    labels = np.zeros(4, np.int32)
    moved = ascend(sure, {}, normal(4, 2, 2, 1), labels, model=Linear(), length=0.1)
    chex.assert_trees_all_equal(moved, sure)
