"""Methods of learned sets beside recorded steps, hand-made values, and the loops they stand for."""

import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import steps
from costly import costly

from delt_jax import models
from delt_jax.augment import dsa
from delt_jax.errors import UserError
from delt_jax.learned import methods, optimisers, sharing
from delt_jax.learned.images import by_class, decode, encode, with_mirrored, within_bounds
from delt_jax.learned.method import Learned, Real
from delt_jax.learned.methods import dm, frepo, gradient_matching, idc
from delt_jax.runtime.devices import AXIS

RECORDED = steps.RECORDED


@pytest.fixture
def same_colours(monkeypatch):
    """DSA draws the recorded colours, whatever the key."""
    drawn = dsa.Parameters(
        brightness=jnp.float32(0.3),
        saturation=jnp.float32(0.5),
        contrast=jnp.float32(1.4),
        shift=jnp.zeros(2, int),
        hole=jnp.zeros(2, int),
        flip=jnp.bool_(False),
        scale=jnp.ones(2),
        angle=jnp.float32(0),
    )
    monkeypatch.setattr(dsa, "draw", lambda key, size: drawn)


def of_method(name, setup, prefix="dc", labels=None):
    method = methods.find(name)
    given = steps.learned(labels), steps.network(method, setup, prefix), steps.real(method.by_class)
    # A function of its own, so that none is traced with what another test has patched.
    gradient = jax.jit(lambda key, *given: method.gradient(key, *given, setup))
    return gradient(jax.random.key(0), *given)


def check(found, recorded):
    loss, gradient = found
    np.testing.assert_allclose(loss, RECORDED[f"{recorded}_loss"], rtol=1e-4)
    expected = steps.nhwc(f"{recorded}_gradient")
    np.testing.assert_allclose(gradient.images, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.exhaustive  # DSA's is the same with views
def test_recorded_step_of_dc():
    check(of_method("dc", steps.setup()), "dc")


@pytest.mark.parametrize("name", ["dsa", "dm"])
def test_recorded_steps_with_dsa_on_both_sides(name, same_colours):
    check(of_method(name, steps.setup(augment="one-color")), name)


@pytest.mark.parametrize("kind", [costly("squared"), "absolute"])
def test_recorded_steps_of_idc(kind, monkeypatch):
    """Four images in each stored one, and both distances on the same grey images."""
    monkeypatch.setattr(idc, "absolute", getattr(idc, kind))
    check(of_method("idc", steps.setup(factor=2)), f"idc_{kind}")


def test_recorded_step_of_frepo(monkeypatch):
    monkeypatch.setattr(frepo, "regress", functools.partial(frepo.regress, ridge=1e-3))
    setup = steps.setup("conv3_wide_bn", mirrored=True, label_rate=0.1)
    found = of_method("frepo", setup, "wide", RECORDED["targets"])
    check(found, "frepo")
    expected = RECORDED["frepo_label_gradient"]
    np.testing.assert_allclose(found[1].labels, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.exhaustive  # FRePo's step goes through this network
def test_recorded_wide_network_and_its_training():
    """In eval mode, and after two steps of Adam in train mode."""
    setup = steps.setup("conv3_wide_bn", network_steps=2)
    model, method = models.create(setup.spec), methods.find("frepo")
    learned = steps.learned(RECORDED["targets"])
    network = steps.network(method, setup, "wide")
    logits = model.apply(network.variables, learned.images, train=False)
    np.testing.assert_allclose(logits, RECORDED["wide_logits"], atol=1e-5)
    train = jax.jit(functools.partial(method.train, setup=setup))
    trained = train(jax.random.key(0), learned, network, steps.real(False))
    logits, changed = model.apply(
        trained.variables, learned.images, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(logits, RECORDED["trained_logits"], atol=1e-3)
    mean = changed["batch_stats"]["norm_2"]["mean"]
    np.testing.assert_allclose(mean, RECORDED["trained_mean"], atol=1e-4)


def test_distances_of_known_gradients():
    """Two outputs: one turned by 60 degrees, one opposed; biases and norms do not count."""
    real = {"head": {"kernel": jnp.array([[1.0, 2.0], [0.0, 0.0]]), "bias": jnp.ones(2)}}
    turned = {"head": {"kernel": jnp.array([[1.0, -3.0], [3**0.5, 0.0]]), "bias": jnp.zeros(2)}}
    chex.assert_trees_all_close(gradient_matching.distance(real, turned), 0.5 + 2.0, rtol=1e-5)
    kernels = {"conv": {"kernel": jnp.full((3, 3, 1, 2), 2.0)}}
    zeros = jax.tree.map(jnp.zeros_like, kernels)
    assert idc.squared(kernels | real, zeros | turned) == 18 * 4
    assert idc.absolute(kernels | real, zeros | turned) == 18 * 2
    assert dm.distance(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.zeros((2, 2))) == 5
    dead = jax.tree.map(jnp.zeros_like, real)  # filters that no image reaches
    still = jax.grad(lambda x: gradient_matching.distance(real, x))(dead)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(still))


def test_regression_is_that_of_the_primal_and_its_gradient_is_finite_differences():
    with jax.enable_x64(True):
        f, y, asked = (
            jax.random.normal(jax.random.key(i), shape, jnp.float64)
            for i, shape in enumerate([(6, 9), (6, 3), (4, 9)])
        )

        def predict(f, y):
            return frepo.regress(f, y, asked)

        ridge = 1e-6 * (f**2).sum() / 6
        primal = asked @ jnp.linalg.solve(f.T @ f + ridge * jnp.eye(9), f.T @ y)
        chex.assert_trees_all_close(predict(f, y), primal, atol=1e-7)
        chex.assert_numerical_grads(predict, (f, y), order=1)


def test_margins_stop_at_their_limit():
    labels = jnp.array([[0.5, 0.4, 0.0], [1.0, 0.0, 0.9], [2.0, 0.0, 0.0]])
    chex.assert_trees_all_close(frepo.margin(labels), (0.1 + 0.1 + 1 / 3) / 3, rtol=1e-6)


def test_coasting_is_a_step_for_every_class_with_one_velocity():
    """Three rounds beside the loop, where each gradient depends on where its class has come to."""
    rate, momentum, classes = 0.1, 0.5, 4
    images = jax.random.normal(jax.random.key(0), (8, 2, 2, 1))
    optimiser = optimisers.coasting_sgd(rate, momentum, classes)
    learned = Learned(images, jnp.zeros((8, 4)), {})
    state = optimiser.init(learned)
    position, velocity = np.array(images), np.zeros(images.shape, np.float32)
    for _ in range(3):
        at = optimisers.before_turn(state, learned, rate, momentum, classes)
        gradient = jax.tree.map(jnp.zeros_like, learned)._replace(images=at.images**3)
        updates, state = optimiser.update(gradient, state, learned)
        learned = optax.apply_updates(learned, updates)
        for c in range(classes):
            own = np.zeros_like(position)
            own[2 * c : 2 * c + 2] = position[2 * c : 2 * c + 2] ** 3
            velocity = momentum * velocity + own
            position = position - rate * velocity
    chex.assert_trees_all_close(learned.images, position, atol=1e-5)


def test_the_rate_of_idc_is_that_of_pixels():
    """Black and white lie 3 apart, so a value moves nine times as far as the rate says."""
    setup = steps.setup(image_rate=0.1)
    method, learned = methods.find("idc"), steps.learned()
    state = method.optimiser(setup).init(learned)
    ones = jax.tree.map(jnp.ones_like, learned)
    updates, _ = method.optimiser(setup).update(ones, state, learned)
    last = by_class(updates.images, steps.CLASSES)[-1]
    chex.assert_trees_all_close(last, jnp.full_like(last, -0.9), rtol=1e-5)


def test_rates_of_frepo_fall_to_a_tenth_and_labels_of_rate_zero_stay():
    setup, learned = steps.setup(steps=4), steps.learned()
    optimiser = methods.find("frepo").optimiser(setup)
    state, ones, moved = optimiser.init(learned), jax.tree.map(jnp.ones_like, learned), []
    for _ in range(5):
        updates, state = optimiser.update(ones, state, learned)
        moved.append(float(jnp.linalg.norm(updates.images) / jnp.linalg.norm(learned.images)))
        assert not updates.labels.any()
    np.testing.assert_allclose(moved[0], 0.1, rtol=1e-4)  # LAMB's ratio makes it so
    np.testing.assert_allclose(moved[4], 0.01, rtol=1e-4)


def test_parts_are_taken_apart_and_put_together():
    setup = steps.setup(factor=3)
    images = jnp.full((2, 8, 8, 1), 0.7)
    parts = decode(images, setup)
    assert parts.shape == (18, 8, 8, 1)
    chex.assert_trees_all_close(parts[0], images[0], atol=1e-6)
    assert abs(parts[8, -1, -1, 0] - 0.5) < 1e-6  # grey, behind the end
    assert encode(parts, 3).shape == images.shape
    smooth = jnp.broadcast_to(jnp.arange(8.0).reshape(8, 1, 1, 1, 1), (8, 8, 8, 8, 1))[:, 0]
    chex.assert_trees_all_close(encode(decode(smooth, steps.setup(factor=2)), 2), smooth, atol=1e-5)


def test_mirrored_copies_and_bounds():
    images = jnp.arange(8.0).reshape(2, 2, 2, 1)
    both, labels = with_mirrored(images, jnp.arange(2), True)
    assert both[2, 0, 0, 0] == 1
    assert labels.tolist() == [0, 1, 0, 1]
    bound = within_bounds(images - 4, steps.setup())
    assert (bound.min(), bound.max()) == (-1, 2)


@pytest.mark.parametrize(
    ("name", "model", "augment"),
    [
        ("dm", "dc_conv3", "one-color_flip"),
        costly("dsa", "dc_conv3", "one-color"),
        costly("idc", "dc_conv3", "idc-color_cutout"),
        costly("frepo", "conv3_wide_bn", ""),
        ("ratbptt", "dc_conv3", "one-rotate"),
    ],
)
def test_four_devices_make_the_step_of_one(name, model, augment):
    method = methods.find(name)
    short = dict(method.options) | ({"window": 1.0, "unroll": 1.0} if name == "ratbptt" else {})
    setup = steps.setup(model, augment=augment, network_steps=2, options=tuple(short.items()))
    network = steps.network(method, setup, "wide" if name == "frepo" else "dc")
    learned, real = steps.learned(), steps.real(method.by_class)
    if name == "idc":
        real = real._replace(more=(real.images.reshape(-1, 8, 8, 1)[:8], jnp.arange(8) % 3))

    def step(real: Real):
        key = jax.random.key(3)
        found = method.gradient(key, learned, network, real, setup)
        return found, method.train(key, learned, network, real, setup).variables

    batch = 1 if method.by_class else 0

    def shared(x):
        return jnp.stack(jnp.split(x, 4, batch))

    spread = real._replace(images=shared(real.images), labels=shared(real.labels))
    axes = Real(0, 0, None)
    many = jax.pmap(step, AXIS, in_axes=(axes,), devices=jax.devices()[:4])(spread)
    one = jax.jit(step)(real)
    for device in (0, 3):
        own = jax.tree.map(operator.itemgetter(device), many)
        chex.assert_trees_all_close(own, one, atol=2e-4)


def test_networks_of_dc_train_in_batches_of_all_learned_images(monkeypatch):
    """Two epochs of batches of 4 and 2 of six images, beside the loop."""
    monkeypatch.setattr(gradient_matching, "_BATCH", 4)  # house: private, because 256 take long
    setup, method = steps.setup(network_steps=2, network_rate=0.1), methods.find("dc")
    learned, network = steps.learned(), steps.network(method, steps.setup(), "dc")
    key = jax.random.key(1)
    trained = jax.jit(functools.partial(method.train, setup=setup))(
        key, learned, network, steps.real(True)
    )
    params = network.variables["params"]
    model = models.create(setup.spec)

    @jax.jit
    def gradient(params, images, labels):
        def loss(params):
            logits = model.apply({"params": params}, images, train=True)
            return optax.softmax_cross_entropy(logits, labels).mean()

        return jax.grad(loss)(params)

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(key, epoch), 6)
        for at in (order[:4], order[4:]):
            found = gradient(params, learned.images[at], learned.labels[at])
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, found)
    chex.assert_trees_all_close(trained.variables["params"], params, atol=1e-5)


def test_networks_with_batch_norm_are_refused_where_gradients_are_matched():
    with pytest.raises(UserError, match="networks without BatchNorm"):
        of_method("dc", steps.setup("conv3_wide_bn"), "wide")


def test_names():
    assert {"dm", "dc", "dsa", "idc", "frepo", "mtt", "ratbptt", "rcig"} <= {*methods.names()}
    with pytest.raises(UserError, match=r"rcig or tesla; did you mean frepo\?"):
        methods.find("fropo")
    assert sharing.count() == 1
