"""DWA's directed weight adjustment: steps of a fixed length up the gradient of the loss."""

import functools
import re
import shutil

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tiny_run import losses_of, manifest, recovered, stop_after, tiny

from delt_jax import config as config_lib
from delt_jax import main, models
from delt_jax.augment import crop
from delt_jax.core import losses as losses_lib
from delt_jax.core.stopping import Stopped
from delt_jax.data import open_source
from delt_jax.formats import distilled
from delt_jax.models import ModelSpec
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import perturbation
from delt_jax.recovery.program import step_settings
from delt_jax.recovery.run import checkpoint, memory
from delt_jax.recovery.schedule import make_schedule
from delt_jax.recovery.views import draw_view
from delt_jax.runtime import devices
from delt_jax.stages import recover
from delt_jax.store.workdir import WorkDir, changes

ascend = jax.jit(perturbation.ascend, static_argnames=("model", "length"))
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


@functools.partial(jax.jit, static_argnums=0)
def loss(model, params, stats, images, labels):
    logits = model.apply({"params": params, "batch_stats": stats}, images, train=False)
    return losses_lib.cross_entropy(logits, labels)


def test_a_step_follows_the_gradient_by_differences():
    """The slope of the loss in any direction is that along the step times their cosine."""
    model, params, stats = teacher()
    images, length = normal(4, 8, 8, 1), 1e-2

    flat, unravel = ravel_pytree(params)

    def slope(direction, by=2e-3):
        up, down = (
            loss(model, unravel(flat + sign * by * direction), stats, images, LABELS)
            for sign in (1, -1)
        )
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


# In recovery


CHANGES = {
    "recover.batch_size": 15,  # two batches
    "recover.perturbation": 0.5,
    "recover.perturbation_steps": 3,
}


@pytest.fixture(scope="module")
def whole(tiny_ranked, tmp_path_factory):
    """A finished recovery of two batches, one after the other, and the weights they had."""
    folder = shutil.copytree(tiny_ranked, tmp_path_factory.mktemp("whole") / "run")
    found, real = [], perturbation.own_params

    def noted(*arguments):
        found.append((real(*arguments), arguments))
        return found[-1][0]

    with pytest.MonkeyPatch.context() as m:
        m.setattr(devices, "device_count", lambda: 1)
        m.setattr(perturbation, "own_params", noted)
        recovered(folder, **CHANGES)
    return folder, found


def test_every_batch_has_weights_of_its_own(whole):
    """Those of the steps on its first images, as its first iteration views them."""
    folder, found = whole
    assert len(found) == 2
    cross_entropy = losses_of(folder)["cross_entropy"][:, 0]
    for i, ((weights,), (program, (teacher,), batches, starts)) in enumerate(found):
        active, (model,), variables = program.active, program.models, teacher.variables
        assert 0 < active < starts.shape[2]  # EarlyLate: the others have not joined
        inputs, start = jax.tree.map(lambda x: x[0, 0], (batches, starts))
        view = draw_view(0, inputs, program.settings, size=8)
        images, labels = crop.view_images(start[:active], view, 8), inputs.labels[:active]
        params, stats = variables["params"], variables["batch_stats"]
        for _ in range(3):
            params = ascend(params, stats, images, labels, model=model, length=0.5 / 3)
        ours = jax.tree.map(lambda x: x[0, 0], weights)
        chex.assert_trees_all_close(ours, params, rtol=1e-4, atol=1e-5)
        # What recovery sees in its first iteration; with the teacher as it is it would be less.
        before, after = (
            loss(model, p, stats, images, labels) for p in (variables["params"], params)
        )
        np.testing.assert_allclose(cross_entropy[i], after, rtol=1e-4)
        assert after > 1.05 * before


@pytest.mark.exhaustive  # test_driver.py interrupts others
def test_an_interrupted_recovery_finds_the_same_weights_again(
    whole, tiny_ranked, tmp_path, monkeypatch
):
    folder = shutil.copytree(tiny_ranked, tmp_path / "run")
    monkeypatch.setattr(devices, "device_count", lambda: 8)
    with monkeypatch.context() as m:
        stop_after(m, 3)
        with pytest.raises(Stopped):
            recovered(folder, **CHANGES)
    assert checkpoint.step_of(folder / "distilled.partial", 0) == 3
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    images = recovered(folder, **CHANGES)
    np.testing.assert_array_equal(images, distilled.read(whole[0] / "distilled").images)
    chex.assert_trees_all_equal(losses_of(folder), losses_of(whole[0]))


@pytest.mark.exhaustive  # every batch has its own above
def test_batches_on_one_device_keep_their_own(whole, tiny_ranked, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_ranked, tmp_path / "run")
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    recovered(folder, **CHANGES, **{"recover.batches_per_device": 2})
    assert manifest(folder)["execution"]["batches_per_device"] == [2]
    ours, expected = losses_of(folder)["loss"], losses_of(whole[0])["loss"]
    np.testing.assert_allclose(ours, expected, rtol=1e-3)


def test_more_batches_on_a_device_are_of_no_use(monkeypatch):
    monkeypatch.setattr(devices, "memory_limit", lambda: 10**12)
    monkeypatch.setattr(memory, "of_chunk", lambda *arguments: 1)
    spec, schedule = ModelSpec("conv3", 10, 8, 1, width=8), make_schedule(10, 40, 4, 2, 10)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    shared, own = (step_settings(RecoverRecipe(perturbation=p), flip=True) for p in (0, 0.1))
    assert len(memory.peak_bytes(shared, [spec], schedule)) > 1
    assert len(memory.peak_bytes(own, [spec], schedule)) == 1


def test_the_settings_count_where_they_are_used(tiny_ranked):
    def inputs_of(**changes):
        settings = config_lib.from_config(tiny(**changes))
        return recover.inputs(settings, open_source(settings.data), WorkDir(tiny_ranked))

    before = {k: v for k, v in inputs_of().items() if "perturbation" not in k}
    assert changes(before, inputs_of()) == []
    assert inputs_of(**CHANGES)["recover.perturbation"] == 0.5


def test_the_plan_counts_the_steps(tmp_path, capsys):
    def flops(folder, **changes):
        main.run(tiny(**changes), str(tmp_path / folder), dry_run=True)
        return re.search(r"\nrecover .* ([\d.]+ \wFLOP)", capsys.readouterr().out)[1]

    # 90 image-iterations, and three steps on the ten images that are first.
    plain, perturbed = (flops(c, **changes) for c, changes in (("a", {}), ("b", CHANGES)))
    assert plain != perturbed
