"""The views of recovery: what of a recipe they follow."""

import dataclasses

import numpy as np
import pytest
from test_step import make_inputs

from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import views
from delt_jax.recovery.program import step_settings

PADDED = RecoverRecipe(crop_padding=2, jitter=3, jitter_both_ways=True, flip=False)
ROLLED = RecoverRecipe(min_scale=1.0, milestone=0.0, jitter=3, flip=False)


def drawn(recipe, size=8, count=400):
    """Boxes [N, 4], flips [N] and rolls [N, 2] of all images in some iterations."""
    settings = step_settings(recipe, flip=True)
    box, flip, roll = views.draw_views(np.int32(0), make_inputs(), settings, size, count).drawn
    box, flip, roll = map(np.asarray, (box, flip, roll))
    return box.reshape(-1, 4), flip.reshape(-1), roll.reshape(-1, 2)


@pytest.mark.parametrize("crop", ["batch", "image"])
def test_views_are_padded_cut_and_shifted_both_ways(crop):
    box, flip, roll = drawn(dataclasses.replace(PADDED, crop=crop))
    assert sorted(set(box[:, 0])) == sorted(set(box[:, 1])) == [-2, -1, 0, 1, 2]
    assert (box[:, 2:] == 8).all()
    assert sorted(set(roll.reshape(-1))) == list(range(-3, 4))
    assert not flip.any()


def test_whole_images_are_only_shifted():
    """As SRe2L and DWA view CIFAR's images."""
    box, flip, roll = drawn(ROLLED)
    assert (box == (0, 0, 8, 8)).all()
    assert sorted(set(roll.reshape(-1))) == [0, 1, 2, 3]
    assert not flip.any()
