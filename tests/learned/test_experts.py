"""Experts: their steps, and their weights on disk."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_networks import cross_entropy, flat, images_and_labels, weights

from delt_jax import models
from delt_jax.core import keys
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import ArrayExamples
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.learned import expert_groups, experts
from delt_jax.learned.expert_groups import ExpertImages, ExpertLayout
from delt_jax.learned.expert_store import DELTAS, FLOAT32, ExpertStore
from delt_jax.learned.experts import ExpertPlan
from delt_jax.models import ModelSpec
from delt_jax.runtime import devices

SPEC = ModelSpec("dc_conv3", 3, 8, 1, 2)
PLAN = ExpertPlan(SPEC, 3, 4, 0.1, "one-color_crop_flip", 0.0, 0.0, seed=5)


def real_images():
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (11, 8, 8, 1), np.uint8)
    examples = ArrayExamples(pixels, np.arange(11, dtype=np.int32) % 3, ["x"] * 11)
    return ExpertImages(examples, Preprocessing("standardise", Normalisation((0.5,), (0.25,))))


ALONE = expert_groups.layout_of(1, 1)


def walk(epochs, expert=0):
    trained = {expert: experts.start(PLAN, expert)}
    for number in range(epochs):
        trained = expert_groups.epoch(PLAN, real_images(), ALONE, trained, number)
    return trained[expert]


def test_an_epoch_depends_on_its_numbers_alone():
    steps = []

    def count(done, loss):
        steps.append(done)
        assert 0.5 < loss < 3

    once = expert_groups.epoch(PLAN, real_images(), ALONE, {0: walk(1)}, 1, count)[0]
    assert steps == [1, 1]  # of 4 images; the last 3 are left out
    np.testing.assert_array_equal(flat(once), flat(walk(2)))
    assert np.abs(flat(walk(1)) - flat(walk(1, expert=1))).max() > 1e-3
    assert np.abs(flat(walk(2)) - flat(walk(1))).max() > 1e-4


def test_a_step_is_written_out():
    """An epoch of plain descent, from the images that its key draws."""
    plan = replace(PLAN, augment="")
    real, params = real_images(), experts.start(plan, 2)
    got = expert_groups.epoch(plan, real, ALONE, {2: params}, 0)[2]
    key = keys.derive(keys.stream(5, "expert", 2, "epoch", 0), "order")
    order = np.asarray(jax.random.permutation(key, 11))

    def loss(params, images, targets):
        logits = models.create(SPEC).apply({"params": params}, images, train=False)
        return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()

    gradient = jax.jit(jax.grad(loss))
    for places in (order[:4], order[4:8]):
        images = (real.examples.images(places) / np.float32(255) - 0.5) / 0.25
        grads = gradient(params, images, jnp.eye(3)[real.examples.labels[places]])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    np.testing.assert_allclose(flat(got), flat(params), atol=1e-6)


def test_several_steps_of_a_call_are_those_of_several_calls(monkeypatch):
    """As on accelerators, in a group that lacks members; a loop and vmap round otherwise."""
    plan, calls = replace(PLAN, batch=3), []
    trained = {0: experts.start(plan, 0)}
    by_step = expert_groups.epoch(plan, real_images(), ALONE, trained, 0)[0]
    monkeypatch.setattr(expert_groups, "_chunk_steps", lambda plan, layout: 2)
    monkeypatch.setattr(ExpertLayout, "lanes", "vmap")

    def note(steps, loss):
        calls.append(steps)

    of_three = expert_groups.layout_of(1, 3)
    at_once = expert_groups.epoch(plan, real_images(), of_three, trained, 0, note)[0]
    assert calls == [1, 2]
    np.testing.assert_allclose(flat(at_once), flat(by_step), atol=1e-6)


def test_a_loss_that_diverges_is_a_sentence():
    weights = jax.tree.map(lambda p: p * np.float32(np.inf), experts.start(PLAN, 1))
    with pytest.raises(UserError, match="expert 1 is not finite any more in epoch 0; lower"):
        expert_groups.epoch(PLAN, real_images(), ALONE, {1: weights}, 0)


@pytest.mark.parametrize(
    ("backend", "width", "limit", "number"),
    [
        ("cpu", 2, None, 1),
        ("gpu", 2, None, 10),  # of ten on one device
        ("gpu", 2, 1000, 8),  # of which 850 bytes are usable
        ("gpu", 2, 10, 1),
        ("gpu", 4096, None, 1),  # fills a device alone
    ],
)
def test_experts_of_a_device_fit_its_memory(backend, width, limit, number, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "memory_limit", lambda: limit)
    plan = replace(PLAN, spec=replace(SPEC, width=width))
    assert expert_groups.per_device(plan, 10, 100) == number


def test_gsam_is_written_out():
    """In float64, on the network of two layers; the ascent is adaptive, as in FTD's code."""
    with jax.enable_x64(True):
        images, labels = images_and_labels(6)
        params = weights()

        def loss(params):
            return cross_entropy(params, images, labels)

        here, row = flat(jax.grad(loss)(params)), flat(params)
        length = np.linalg.norm(row * here)
        ahead = jax.tree.map(
            lambda p, g: p + 0.1 * p**2 * g / length, params, jax.grad(loss)(params)
        )
        moved = (flat(ahead) - row) / np.abs(row)
        np.testing.assert_allclose(np.linalg.norm(moved), 0.1, rtol=1e-12)
        there = flat(jax.grad(loss)(ahead))
        rest = here - (here @ there) / (there @ there) * there
        assert abs(rest @ there) < 1e-12
        before, got = experts.flat_gradient(loss, params, 0.1, 0.3)
        np.testing.assert_allclose(flat(got), there - 0.3 * rest, atol=1e-10)
        assert before == loss(params)
        np.testing.assert_array_equal(flat(experts.flat_gradient(loss, params, 0, 0.3)[1]), here)


@pytest.mark.parametrize("form", [FLOAT32, DELTAS])
def test_weights_come_back_as_training_goes_on_from_them(form, tmp_path):
    params = jax.tree.map(jnp.asarray, experts.start(PLAN, 0))
    store = ExpertStore(tmp_path, form, params)
    assert store.finished(0) == -1
    draw, kept = np.random.default_rng(1), []
    for epoch in range(4):
        kept.append(store.write(0, epoch, params))
        params = jax.tree.map(lambda p: p + draw.normal(0, 0.01, p.shape).astype("f"), kept[-1])
    assert store.finished(0) == 3
    for epoch in range(4):
        np.testing.assert_array_equal(flat(store.read(0, epoch)), flat(kept[epoch]))
    if form == DELTAS:  # errors do not add up
        exact = flat(jax.tree.map(lambda p: p, kept[-1]))
        assert np.abs(flat(store.read(0, 3)) - exact).max() < 1e-4
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    assert 0 < size - store.size(1, 3) < 4 * 400  # headers


def test_a_missing_or_foreign_file_is_named(tmp_path):
    store = ExpertStore(tmp_path, FLOAT32, {"kernel": np.zeros(3, "f")})
    store.write(2, 0, {"kernel": np.ones(3, "f")})
    with pytest.raises(DamagedArtefact, match="0001"):
        store.read(2, 1)
    other = ExpertStore(tmp_path, FLOAT32, {"kernel": np.zeros(4, "f")})
    with pytest.raises(DamagedArtefact, match="no weights of this network"):
        other.read(2, 0)
