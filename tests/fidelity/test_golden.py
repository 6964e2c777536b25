"""Whole recoveries and student trainings, step by step against the released PyTorch code.

The tolerances are those of golden/README.md: losses within 1e-3 relative, pixels within 0.05.
judging.py says what holds where rounding tips a recording.
"""

import functools

import judging
import numpy as np
import pytest
import replays
from costly import costly
from judging import Off, relative
from replays import cases

LOSS, PIXEL = 1e-3, 0.05


def off_recovery(full, ours, theirs):
    """Deviation of two recoveries; pixels of the images whose class has the whole budget.

    Cross-entropies fall to where rounding is a large part of them; then they count beside the loss.
    """
    steps = np.maximum(
        relative(ours["loss"], theirs["loss"], LOSS),
        relative(ours["cross_entropy"], theirs["cross_entropy"], 10 * LOSS, theirs["loss"] / 10),
    )
    steps = np.maximum(steps, relative(ours["bn_terms"], theirs["bn_terms"], LOSS).max(1))
    return Off(steps, judging.beyond(ours["images"][full], theirs["images"][full], PIXEL))


def numbers_of(steps):
    """What of a recovery is compared."""
    return {
        "loss": np.array([step.losses.loss for step in steps]),
        "cross_entropy": np.array([step.losses.cross_entropy for step in steps]),
        "bn_terms": np.array([step.terms for step in steps]),
        "images": steps[-1].images,
    }


def recorded_numbers(recording):
    steps = recording.record["steps"]
    names = ("loss", "cross_entropy", "bn_terms")
    found = {name: np.array([step[name] for step in steps]) for name in names}
    return found | {"images": replays.final_images(recording)}


def check_recovery(path):
    """Asserts that the recorded recovery is ours."""
    recording = replays.read(path)
    case = replays.case_of(recording)
    # The released code lets images of a class whose budget is spent drift; ours are frozen.
    full = replays.budgets(recording) == recording.record["iterations"]

    @functools.cache
    def replay(dtype, seed):
        steps = replays.recover(case, dtype, seed)
        for step in steps:
            assert step.active == step.recorded["batch"]
            rate, least = step.recorded["learning_rate"], 1e-6 * case.recipe.learning_rate
            np.testing.assert_allclose(step.rate, rate, rtol=1e-4, atol=least)
            np.testing.assert_allclose(step.scale, step.recorded["scale"][0], rtol=1e-5)
        return numbers_of(steps)

    off = functools.partial(off_recovery, full)
    judging.assert_agrees(recorded_numbers(recording), replay, off)


def off_training(ours, theirs):
    """Deviation of two trainings: every loss, and then what the last step leaves."""
    steps = relative(ours.losses, theirs.losses, LOSS)
    names = [name for name in ours.variances if name in theirs.variances]
    ends = [(ours.variances[name], theirs.variances[name]) for name in names]
    ends.append((ours.logits, theirs.logits))
    return Off(np.append(steps, [relative(a, b, LOSS, np.abs(b).max()).max() for a, b in ends]))


def check_training(path):
    """Asserts that the recorded training is ours."""
    recording = replays.read(path)
    arrays = recording.arrays
    variances = {name: array for name, array in arrays.items() if name.endswith("running_var")}
    losses = np.array([step["loss"] for step in recording.record["steps"]])
    recorded = replays.Training(losses, arrays["final_eval_logits"], variances)
    networks = replays.student_and_teacher(recording)
    replay = functools.cache(functools.partial(replays.train, recording, networks))
    assert replay("float32", 0).variances.keys() == variances.keys()
    judging.assert_agrees(recorded, replay, off_training)


def by_cost(folder):
    """The cases; costly are ResNet-18, whose steps are the ConvNets', and budgets of classes."""
    for case in cases(folder):
        is_costly = "resnet18" in case.id or "class_budgets" in case.id
        yield costly(*case.values, when=is_costly, id=case.id)


@pytest.mark.parametrize("path", by_cost("recover"))
def test_recovery_is_the_recorded_one(path):
    check_recovery(path)


@pytest.mark.parametrize("path", by_cost("train"))
def test_student_training_is_the_recorded_one(path):
    check_training(path)
