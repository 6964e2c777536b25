"""Curves of two recoveries side by side: their tenths, and how far apart they are."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import dtype_curves

from delt_jax.recovery.types import Losses


def losses(scale):
    """Two batches of 20 iterations; the second ends after ten."""
    curve = np.stack([np.arange(1, 21), np.arange(1, 21) + 2.0]).astype(np.float32)
    curve[1, 10:] = np.nan
    return Losses(scale * curve, curve, curve, np.zeros_like(curve))


def test_tenths_are_means_over_the_batches_that_run():
    found = dtype_curves.tenths(dtype_curves.curve(losses(1), "loss"))
    assert found == [2.5, 4.5, 6.5, 8.5, 10.5, 11.5, 13.5, 15.5, 17.5, 19.5]


def test_the_table_says_how_far_objectives_are_apart(tmp_path):
    both = {"float32": losses(1), "bfloat16": losses(np.float32(1.25))}
    lines = dtype_curves.table(both)
    assert lines[2].startswith("| objective | float32 | 2.5 | 4.5 |")
    assert lines[3].startswith("| objective | bfloat16 | 3.125 | 5.625 |")
    assert lines[-1] == "- objectives of a tenth differ by at most 25.00 %"
    assert dtype_curves.chart(both).startswith(b"\x89PNG")
