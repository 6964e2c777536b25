"""Experts: their steps, and their weights on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_networks import cross_entropy, flat, images_and_labels, weights

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import ArrayExamples
from delt_jax.errors import DamagedArtefact
from delt_jax.learned import experts
from delt_jax.learned.expert_store import DELTAS, FLOAT32, ExpertStore
from delt_jax.learned.experts import ExpertImages, ExpertPlan
from delt_jax.models import ModelSpec

SPEC = ModelSpec("dc_conv3", 3, 8, 1, 2)
PLAN = ExpertPlan(SPEC, 3, 4, 0.1, "one-color_crop_flip", 0.0, 0.0, seed=5)


def real_images():
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (11, 8, 8, 1), np.uint8)
    examples = ArrayExamples(pixels, np.arange(11, dtype=np.int32) % 3, ["x"] * 11)
    return ExpertImages(examples, Preprocessing("standardise", Normalisation((0.5,), (0.25,))))


def walk(epochs, expert=0):
    params = experts.start(PLAN, expert)
    for number in range(epochs):
        params = experts.epoch(PLAN, real_images(), expert, number, params)
    return params


def test_an_epoch_depends_on_its_numbers_alone():
    steps = []
    once = experts.epoch(PLAN, real_images(), 0, 1, walk(1), lambda: steps.append(1))
    assert len(steps) == 2  # of 4 images; the last 3 are left out
    np.testing.assert_array_equal(flat(once), flat(walk(2)))
    assert np.abs(flat(walk(1)) - flat(walk(1, expert=1))).max() > 1e-3
    assert np.abs(flat(walk(2)) - flat(walk(1))).max() > 1e-4


def test_gsam_is_written_out():
    """In float64, on the network of two layers."""
    with jax.enable_x64(True):
        images, labels = images_and_labels(6)
        params = weights()

        def loss(params):
            return cross_entropy(params, images, labels)

        here = flat(jax.grad(loss)(params))
        ahead = jax.tree.map(
            lambda p, g: p + 0.1 * g / np.linalg.norm(here), params, jax.grad(loss)(params)
        )
        there = flat(jax.grad(loss)(ahead))
        rest = here - (here @ there) / (there @ there) * there
        assert abs(rest @ there) < 1e-12
        got = flat(experts.flat_gradient(loss, params, 0.1, 0.3))
        np.testing.assert_allclose(got, there - 0.3 * rest, atol=1e-10)
        np.testing.assert_array_equal(flat(experts.flat_gradient(loss, params, 0, 0.3)), here)


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
