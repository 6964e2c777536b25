"""Whole recoveries and student trainings, step by step against the released PyTorch code.

The tolerances are those of golden/README.md: losses within 1e-3 relative, pixels within 0.05.
Two recordings of a ResNet-18 are further than that from what PyTorch itself computes in
float64, because rounding tips ReLUs and the signs of vanishing gradients. For them float64/
holds PyTorch's float64 run (written by benchmarks/fidelity.py): in float64 ours must agree with
it far more closely, and in float32 within twice the recording's own distance from it, or, for
pixels, all but a few.
"""

import functools

import chex
import numpy as np
import pytest
import replays
from replays import cases, float64_file

LOSS, PIXEL = 1e-3, 0.05
TIPPED = 0.03  # largest share of pixels that a tipped ReLU may move


@functools.cache
def recovery(path):
    return replays.recover(replays.read(path))


def rounding(path, recorded, name, scale):
    """How far the recording is from PyTorch's float64 result: its largest deviation / scale."""
    if not float64_file(path).exists():
        return 0.0
    with np.load(float64_file(path)) as exact:
        return np.max(np.abs(recorded - exact[name]) / scale)


def assert_close(ours, recorded, tolerance):
    chex.assert_equal_shape([ours, recorded])  # which array_less would broadcast
    np.testing.assert_array_less(np.abs(ours - recorded), tolerance)


@pytest.mark.parametrize("path", cases("recover"))
def test_recovery_has_the_recorded_losses(path):
    for step in recovery(path).steps:
        recorded = step.recorded
        assert step.active == recorded["batch"]
        chex.assert_trees_all_close(step.losses.loss, np.float32(recorded["loss"]), rtol=LOSS)
        ce = np.float32(recorded["cross_entropy"])
        chex.assert_trees_all_close(step.losses.cross_entropy, ce, rtol=1e-2)
        chex.assert_trees_all_close(step.terms, np.float32(recorded["bn_terms"]), rtol=LOSS)
        np.testing.assert_allclose(step.rate, recorded["learning_rate"], rtol=1e-4)
        np.testing.assert_allclose(step.scale, recorded["scale"][0], rtol=1e-5)


@pytest.mark.parametrize("path", cases("recover"))
def test_recovery_ends_at_the_recorded_pixels(path):
    recording = replays.read(path)
    full, recorded = replays.full_budget(recording), replays.final_images(recording)
    assert full.any()
    beyond = np.abs(recovery(path).images[full] - recorded[full]) > PIXEL
    assert beyond.mean() <= (TIPPED if float64_file(path).exists() else 0.0)


@pytest.mark.parametrize("path", cases("train"))
def test_student_training_follows_the_recorded_one(path):
    recording = replays.read(path)
    ours = replays.train(recording)
    losses = np.array([step["loss"] for step in recording.record["steps"]])
    chex.assert_trees_all_close(ours.losses[0], losses[0], rtol=LOSS)
    tolerance = max(LOSS, 2 * rounding(path, losses, "losses", losses))
    assert_close(ours.losses / losses, np.ones_like(losses), tolerance)
    arrays = recording.arrays
    logits = arrays["final_eval_logits"]
    tolerance = max(LOSS, 2 * rounding(path, logits, "end", np.abs(logits).max()))
    for values, name in (
        (ours.variances[0], "first_running_var"),
        (ours.variances[-1], "last_running_var"),
        (ours.logits, "final_eval_logits"),
    ):
        scale = np.abs(arrays[name]).max()
        assert_close(values / scale, arrays[name] / scale, tolerance)
