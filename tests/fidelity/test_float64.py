"""In float64, where rounding decides nothing: ours against PyTorch's float64, the first steps.

Of the recordings that test_golden.py holds to less than the plain tolerances; in a file of its
own, because float64 convolutions are slow.
"""

import numpy as np
import pytest
import replays
from replays import cases, float64_file


def float64_cases(folder):
    return [case for case in cases(folder) if float64_file(case.values[0]).exists()]


@pytest.mark.parametrize("path", float64_cases("recover"))
def test_recovery_starts_as_pytorchs_in_float64(path):
    with np.load(float64_file(path)) as exact:
        steps = exact["steps"].item()
        ours = replays.recover(replays.read(path), "float64", steps)
        losses = np.array([step.losses.loss for step in ours.steps])
        np.testing.assert_allclose(losses, exact["losses"][:steps], rtol=1e-6)
        np.testing.assert_allclose(ours.images, exact["end"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", float64_cases("train"))
def test_training_starts_as_pytorchs_in_float64(path):
    with np.load(float64_file(path)) as exact:
        ours = replays.train(replays.read(path), "float64", steps=2)
        np.testing.assert_allclose(ours.losses, exact["losses"][:2], rtol=1e-9)
