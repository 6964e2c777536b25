"""DWA's weights and loss against its released code."""

import functools

import jax
import jax.numpy as jnp
import judging
import method_files
import numpy as np
import pytest
import replays
from method_files import RELATIVE, assert_close, cases

from delt_jax.augment import crop
from delt_jax.core import losses as losses_lib
from delt_jax.models import torch_weights
from delt_jax.models.tap import TappedNetwork
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import perturbation
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import step_settings


def starts_of(recorded):
    """Start images, normalised [N, S, S, C]."""
    if "images" in recorded.record:
        return replays.nhwc(method_files.drawn(recorded.record["images"]))
    return np.asarray(method_files.normalisation(recorded)(recorded.arrays["pixels"]))


def moved_by(network, params, batch_stats):
    """How far torch's parameters have moved, float64 by torch's names."""
    after = torch_weights.to_torch({"params": params, "batch_stats": batch_stats}, network.spec)
    names = [name for name in after if "running" not in name]
    return after, {name: np.float64(after[name]) - network.state[name] for name in names}


@pytest.mark.parametrize("path", cases("dwa"))
def test_weights_and_loss_are_dwas(path):
    recorded = method_files.read(path)

    def check(dtype):
        with replays.precision(dtype):
            params = _check_weights(recorded, dtype)
            _check_loss(recorded, params, dtype)

    judging.assert_decided(check)


def _setup(recorded, dtype):
    """Starts, labels, view, network, and the variables that the file begins with."""
    record, starts = recorded.record, starts_of(recorded).astype(dtype)
    network = method_files.network(recorded, starts.shape[1])
    view = crop.View(*(jnp.array(record[name]) for name in ("crop", "flip", "roll")))
    return starts, np.array(record["labels"]), view, network, network.variables(dtype)


def _check_weights(recorded, dtype):
    """Asserts that the ascent is the recorded one; returns the parameters that it ends at."""
    record, arrays = recorded
    starts, labels, view, network, variables = _setup(recorded, dtype)
    model, count = network.model(dtype), record["steps"]
    stats, length = variables["batch_stats"], record["rho"] / count

    @jax.jit
    def ascend(params):
        def cross_entropy(images):
            viewed = crop.view_images(images, view, images.shape[1])
            logits = model.apply({"params": params, "batch_stats": stats}, viewed, train=False)
            return losses_lib.cross_entropy(logits, labels), viewed

        (value, viewed), gradient = jax.value_and_grad(cross_entropy, has_aux=True)(starts)
        after = perturbation.ascend(params, stats, viewed, labels, model=model, length=length)
        return after, value, gradient

    params, left_over = variables["params"], 0.0
    for expected in record["ascent_cross_entropy"]:
        params, value, gradient = ascend(params)
        np.testing.assert_allclose(value, expected, rtol=RELATIVE)
        left_over = left_over + np.asarray(gradient, np.float64)
    assert len(record["ascent_cross_entropy"]) == count
    # What the released code adds to the first update, and ours does not.
    norm = np.linalg.norm(left_over)
    np.testing.assert_allclose(norm, record["left_over_gradient_norm"], rtol=RELATIVE)

    weights, moved = moved_by(network, params, stats)
    for name, array in method_files.part_of(recorded, "moved").items():
        assert_close(weights[name], array, 3e-6)
    for name, array in arrays.items():
        if name.startswith("difference_corner/"):
            ours = moved[name.partition("/")[2]][tuple(slice(0, n) for n in array.shape)]
            assert_close(ours, array, 1e-3)  # differences of nearly equal float32 numbers
    norms = {name: np.linalg.norm(array) for name, array in moved.items()}
    assert norms.keys() == record["moved_norms"].keys()
    for name, expected in record["moved_norms"].items():
        np.testing.assert_allclose(norms[name], expected, rtol=1e-3)
    whole = np.sqrt(sum(norm**2 for norm in norms.values()))
    np.testing.assert_allclose(whole, record["moved_norm"], rtol=RELATIVE)
    return params


def _check_loss(recorded, params, dtype):
    record, arrays = recorded
    starts, labels, view, network, variables = _setup(recorded, dtype)
    model, stats = network.model(dtype), variables["batch_stats"]
    recipe = RecoverRecipe(bn_weight=0.01, bn_variance_weight=float(record["variance_weight"]))
    settings = step_settings(recipe, flip=True)

    @jax.jit
    def loss(params, images):
        tapped = TappedNetwork(model, {"params": params, "batch_stats": stats})
        viewed = crop.view_images(images, view, images.shape[1])
        run = functools.partial(recovery_step.loss, teacher=tapped, settings=settings)
        found = jax.value_and_grad(lambda x: run(x, labels, view), has_aux=True)(images)
        return *found, tapped(viewed).logits

    (value, (losses, layers, _)), gradient, logits = loss(params, starts)
    assert_close(logits, arrays["logits"])
    np.testing.assert_allclose(losses.cross_entropy, record["cross_entropy"], rtol=RELATIVE)
    np.testing.assert_allclose(layers, record["bn_terms"], rtol=RELATIVE)
    np.testing.assert_allclose(value, record["loss"], rtol=RELATIVE)
    norm = np.linalg.norm(np.asarray(gradient, np.float64))
    np.testing.assert_allclose(norm, record["grad_norm"], rtol=RELATIVE)
    corner = arrays["gradient_corner"]
    assert_close(method_files.corner(gradient, corner), corner)
