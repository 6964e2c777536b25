"""Recoveries of SRe2L and FADRM, and CDA's curriculum, against their released code."""

import functools

import jax.numpy as jnp
import judging
import method_files
import numpy as np
import pytest
import replays
from judging import Off, relative
from method_files import PIXEL, RELATIVE, cases

from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views
from delt_jax.recovery.program import step_settings


@pytest.mark.parametrize("path", cases("cda"))
def test_crops_and_rates_follow_cdas(path):
    record = method_files.read(path).record
    assert record["columns"] == ["iteration", "min_crop", "learning_rate"]
    for case in record["cases"]:
        recipe = RecoverRecipe(
            iterations=case["iterations"],
            curriculum=case["mode"],
            milestone=float(case["milestone"]),
            learning_rate=case["learning_rate"],
        )
        settings, rows = step_settings(recipe, flip=True), np.array(case["at"])
        t = jnp.asarray(rows[:, 0], jnp.int32)
        total = jnp.full_like(t, case["iterations"])
        np.testing.assert_allclose(views.curriculum(settings, t, total), rows[:, 1], rtol=RELATIVE)
        rates = recovery_step.learning_rate(settings.learning_rate, t, total)
        np.testing.assert_allclose(
            rates, rows[:, 2], rtol=RELATIVE, atol=1e-6 * case["learning_rate"]
        )


def numbers_of(steps, ends):
    """What of a recovery is compared; images after the steps `ends`."""
    return {
        "loss": np.array([step.losses.loss for step in steps]),
        "ce": np.array([step.losses.cross_entropy for step in steps]),
        "lr": np.array([step.rate[0] for step in steps]),
        "bn_terms": np.array([step.terms for step in steps]),
        "grad_norm": np.array([step.grad_norm for step in steps]),
        "images": np.stack([steps[end].images for end in ends]),
    }


def off(names, ours, theirs):
    """Deviation of two recoveries; rates are relative to the highest, as they fall to zero.

    A ReLU that rounding tips in a late step moves the gradient, but hardly the loss.
    """
    least, wider = {"lr": theirs["lr"].max()}, {"grad_norm": 10 * RELATIVE}
    steps = [
        relative(ours[name], theirs[name], wider.get(name, RELATIVE), least.get(name, 0))
        for name in names
    ]
    per_step = [x if x.ndim == 1 else x.max(1) for x in steps]
    moved = judging.beyond(ours["images"], theirs["images"], PIXEL)
    return Off(np.max(per_step, axis=0), moved)


def check(recorded, starts, recipe, ends, images):
    """Asserts that a recovery is the recorded one; images [ends, N, S, S, C] after steps `ends`."""
    steps = recorded.record["steps"]
    names = [n for n in ("loss", "ce", "lr", "bn_terms", "grad_norm") if n in steps[0]]
    theirs = {name: np.array([step[name] for step in steps]) for name in names}
    teacher = method_files.network(recorded, starts.shape[1])
    case = method_files.recovery(recorded, starts, recipe, teacher)

    def replay(dtype, seed):
        return numbers_of(replays.recover(case, dtype, seed), ends)

    judging.assert_agrees(
        theirs | {"images": images}, functools.cache(replay), functools.partial(off, names)
    )


@pytest.mark.parametrize("path", cases("sre2l"))
def test_recovery_is_sre2ls(path):
    recorded = method_files.read(path)
    record, arrays = recorded
    recipe = RecoverRecipe(
        iterations=record["iterations"],
        round_iterations=0,
        learning_rate=record["learning_rate"],
        bn_weight=record["bn_weight"],
        first_bn_multiplier=record["first_bn_multiplier"],
        milestone=0.0,
    )
    final = replays.nhwc(arrays["final"])[None]
    check(recorded, replays.nhwc(arrays["init"]), recipe, [len(record["steps"]) - 1], final)


@pytest.mark.parametrize("path", cases("fadrm"))
def test_recovery_in_blocks_is_fadrms(path):
    recorded = method_files.read(path)
    record, arrays = recorded
    budgets = record["budgets"]
    recipe = RecoverRecipe(
        iterations=sum(budgets),
        round_iterations=0,
        learning_rate=record["learning_rate"],
        bn_weight=record["bn_weight"],
        first_bn_multiplier=record["first_bn_multiplier"],
        milestone=0.0,
        residual=1 - record["alpha"],
        residual_rounds=len(budgets),
    )
    pixels = method_files.drawn(record["start_pixels"])
    starts = np.asarray(method_files.normalisation(recorded)(pixels))
    ends = (np.cumsum(budgets) - 1).tolist()
    images = arrays["ends"].transpose(0, 1, 3, 4, 2)
    check(recorded, starts, recipe, ends, images)
