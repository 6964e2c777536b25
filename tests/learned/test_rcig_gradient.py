"""RCIG's gradient and its solver against dense solutions in the space of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from costly import costly
from jax.flatten_util import ravel_pytree
from steps import setup
from tiny_networks import flat

from delt_jax import models
from delt_jax.data import open_source
from delt_jax.learned import convexified, networks
from delt_jax.learned.convexified import Inner
from delt_jax.learned.method import Learned, Network, Real
from delt_jax.learned.methods import rcig
from delt_jax.models import ModelSpec
from delt_jax.recipe import DataRecipe

SIDE, UNITS, CLASSES, COUNT, RIDGE = 2, 5, 3, 6, 0.05


def dense_features(params, images):
    """Softplus units of flattened images."""
    body = params["body"]
    return jax.nn.softplus(images.reshape(len(images), -1) @ body["kernel"] + body["bias"])


def dense_logits(params, images):
    head = params["classifier"]
    return dense_features(params, images) @ head["kernel"] + head["bias"]


@pytest.fixture
def tiny(monkeypatch):
    """What is learned, the weights and real images, in float64, of a network of two layers."""
    monkeypatch.setattr(networks, "logits", lambda spec, params, x: dense_logits(params, x))
    monkeypatch.setattr(networks, "features", lambda spec, v, x: dense_features(v["params"], x))
    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        params = {
            "body": {"kernel": draw((SIDE**2, UNITS)), "bias": 0.3 * draw(UNITS)},
            "classifier": {"kernel": draw((UNITS, CLASSES)), "bias": 0.3 * draw(CLASSES)},
        }
        # Some of the labels have a margin below 1 / (2 classes), some above.
        labels = np.eye(CLASSES)[np.arange(COUNT) % CLASSES] * np.linspace(0.05, 1, COUNT)[:, None]
        learned = Learned(
            jnp.asarray(draw((COUNT, SIDE, SIDE, 1))),
            jnp.asarray(labels + 0.01 * draw(labels.shape)),
            {"temperature": jnp.float64(0.4)},
        )
        real = Real(jnp.asarray(draw((8, SIDE, SIDE, 1))), jnp.arange(8) % CLASSES, None)
        yield learned, jax.tree.map(jnp.asarray, params), real


def loss_of(learned, params, real, mirrored, delta=None):
    """The outer loss after a ridge regression on derivatives and features together.

    With `delta` the last layer alone is solved for. The rows of both are written out.
    """
    images, labels = learned.images, learned.labels
    ridge = RIDGE * len(images)
    if mirrored:
        images, labels = jnp.concatenate([images, images[:, :, ::-1]]), jnp.tile(labels, (2, 1))
    moving, unflatten = ravel_pytree({"body": params["body"], "bias": params["classifier"]["bias"]})

    def moved(row, x):
        tree = unflatten(row)
        head = {"kernel": params["classifier"]["kernel"], "bias": tree["bias"]}
        return dense_logits({"body": tree["body"], "classifier": head}, x)

    def rows(x):
        slopes = jax.jacrev(moved)(moving, x).reshape(len(x) * CLASSES, -1)
        return slopes, jnp.kron(dense_features(params, x), jnp.eye(CLASSES))

    def regress(inputs, values):
        gram = inputs.T @ inputs + ridge * jnp.eye(inputs.shape[1])
        return jnp.linalg.solve(gram, inputs.T @ values)

    slopes, units = rows(images)
    if delta is None:
        delta = regress(jnp.hstack([slopes, units]), labels.reshape(-1))[: slopes.shape[1]]
    head = regress(units, labels.reshape(-1) - slopes @ delta)
    real_slopes, real_units = rows(real.images)
    outputs = (real_slopes @ delta + real_units @ head).reshape(-1, CLASSES)
    scaled = jax.nn.log_softmax(jnp.exp(learned.extra["temperature"]) * outputs)
    ordered = jnp.sort(labels[: len(learned.labels)])
    margin = jnp.minimum(ordered[:, -1] - ordered[:, -2], 0.5 / CLASSES).mean()
    return -scaled[jnp.arange(len(scaled)), real.labels].mean() - margin, delta


@pytest.mark.parametrize("mirrored", [True, costly(False)])
def test_the_gradient_is_that_through_the_regression(tiny, mirrored):
    learned, params, real = tiny
    numbers = {"ridge": RIDGE, "tolerance": 1e-15, "solver_steps": 300.0}
    options = tuple((dict(rcig.METHOD.options) | numbers).items())
    one = setup(mirrored=mirrored, num_classes=CLASSES, options=options)
    network = Network({"params": params}, (), jnp.int32(0))
    loss, found = jax.jit(
        lambda given: rcig.gradient(jax.random.key(0), given, network, real, one)
    )(learned)

    (expected, delta), whole = jax.value_and_grad(loss_of, has_aux=True)(
        learned, params, real, mirrored
    )
    direct = jax.grad(loss_of, has_aux=True)(learned, params, real, mirrored, delta)[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    for name, got, all_of_it, part in zip(
        ("images", "labels", "temperature"),
        *(jax.tree.leaves(tree) for tree in (found, whole, direct)),
        strict=True,
    ):
        rest = all_of_it - part
        longest = jnp.linalg.norm(part) / jnp.maximum(jnp.linalg.norm(rest), 1e-300)
        clipped = part + rest * jnp.minimum(1, longest)
        np.testing.assert_allclose(got, clipped, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("ipc", [1, costly(4)])
def test_the_solver_is_as_exact_as_it_says(ipc):
    """In float32, with the numbers that the method has by itself, on real digits."""
    source = open_source(DataRecipe("digits"))
    chosen = [np.flatnonzero(source.train.labels == c)[:ipc] for c in range(10)]
    pixels = source.train.images(np.concatenate(chosen)).reshape(-1, 8, 8, 1) / 255
    images = jnp.asarray((pixels - 0.3) / 0.4, jnp.float32)
    labels = jnp.repeat(jnp.eye(10), ipc, 0) - 0.1
    spec = ModelSpec("conv3_wide_softplus", 10, 8, 1, 8)
    made = jax.jit(models.create(spec).init, static_argnames="train")
    params = made(jax.random.key(0), images[:1], train=False)["params"]
    numbers = dict(rcig.METHOD.options)
    inner = Inner(rcig.linearised(spec, params), images, labels, numbers["ridge"] * len(images))
    how = (int(numbers["solver_steps"]), numbers["tolerance"])

    zero, unflatten = ravel_pytree(inner.network.zero)
    slopes = jax.jit(jax.jacrev(lambda row: inner.network.along(unflatten(row), images)))(zero)
    slopes = np.asarray(slopes, np.float64).reshape(labels.size, -1)
    units = np.asarray(inner.network.features(images), np.float64)
    dual = slopes @ slopes.T + np.kron(units @ units.T, np.eye(10))
    dual += inner.ridge * np.eye(labels.size)
    exact = slopes.T @ np.linalg.solve(dual, np.asarray(labels, np.float64).reshape(-1))
    found = flat(jax.jit(lambda: convexified.solve(inner, *how))())
    assert np.linalg.norm(found - exact) < 3e-5 * np.linalg.norm(exact)

    # Where the outer loss descends is a combination of such rows, of other images.
    others = jnp.flip(images, 2)
    given = unflatten(
        jax.jit(jax.grad(lambda row: inner.network.along(unflatten(row), others)[:, 0].sum()))(zero)
    )
    row = flat(given).astype(np.float64)
    back = slopes.T @ np.linalg.solve(dual, slopes @ row)
    found = flat(jax.jit(lambda: convexified.solve_hessian(inner, given, *how))())
    left = found * inner.ridge / labels.size  # of the row, a seventh
    assert np.linalg.norm(left - (row - back)) < 1e-4 * np.linalg.norm(row)


def test_a_derivative_of_many_images_is_that_of_each():
    """With a tangent of zeros for the last matrix it was infinite at 100 images (jaxlib 0.10.2)."""
    draw = np.random.default_rng(0).standard_normal
    images = jnp.asarray(draw((100, 8, 8, 1)), jnp.float32)
    spec = ModelSpec("conv3_wide", 10, 8, 1, 32)
    made = jax.jit(models.create(spec).init, static_argnames="train")
    params = made(jax.random.key(0), images[:1], train=False)["params"]
    delta = jax.tree.map(lambda w: jnp.asarray(draw(w.shape), w.dtype), params)
    along = jax.jit(lambda x: rcig.linearised(spec, params).along(delta, x))
    each = jnp.concatenate([along(x) for x in jnp.split(images, 20)])
    np.testing.assert_allclose(along(images), each, rtol=1e-3, atol=1e-4)
