"""RDED's scores, choices and mosaics against its released code."""

import functools

import jax
import jax.numpy as jnp
import method_files
import numpy as np
import pytest
from method_files import RELATIVE, cases

from delt_jax.data import ArrayExamples
from delt_jax.recovery import mosaics

ROUNDING = 1e-6  # of the cross-entropy of a sure teacher, in float32


@pytest.mark.parametrize("path", cases("rded"))
def test_crops_choices_and_mosaics_are_rdeds(path):
    recorded = method_files.read(path)
    record, arrays = recorded
    pixels, labels, boxes = (arrays[name] for name in ("pixels", "labels", "boxes"))
    size, factor, ipc = pixels.shape[1], record["factor"], record["ipc"]
    network, normalise = method_files.network(recorded, size), method_files.normalisation(recorded)
    model, count, crops = network.model(), len(pixels), boxes.shape[1]

    @jax.jit
    def run(variables, pixels, boxes):
        teacher = functools.partial(model.apply, variables, train=False)
        images, side = normalise(pixels), size // factor
        patches = mosaics.patches_of(jnp.repeat(images, crops, 0), boxes.reshape(-1, 4), side)
        patches = patches.reshape(count, crops, *patches.shape[1:])
        best = mosaics.best_crops(images, labels, boxes, side, teacher)
        return mosaics.crop_losses(patches, labels, size, teacher), *best

    losses, best, lowest = jax.tree.map(np.asarray, run(network.variables(), pixels, boxes))
    np.testing.assert_allclose(losses, arrays["cross_entropy"], rtol=RELATIVE, atol=ROUNDING)
    rows = np.arange(count)
    np.testing.assert_array_equal(best, boxes[rows, arrays["best_crop"]])
    np.testing.assert_allclose(lowest, losses.min(axis=1), rtol=RELATIVE, atol=ROUNDING)
    members = [np.flatnonzero(labels == c) for c in record["classes"]]
    found = mosaics.best_patches(members, rows, best, lowest, ipc * factor**2)
    np.testing.assert_array_equal(found.images, arrays["chosen"])
    examples = ArrayExamples(pixels, labels, [""] * count)
    made = mosaics.render(found, range(len(members) * ipc), factor, examples, normalise)
    expected = arrays["mosaics"].reshape(-1, *arrays["mosaics"].shape[2:])
    np.testing.assert_allclose(made.transpose(0, 3, 1, 2), expected, atol=1e-3)
