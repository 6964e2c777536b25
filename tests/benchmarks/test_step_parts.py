"""step_parts.py measures every part and the whole step of a tiny network, and prints a table."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import peaks
import step_parts
import step_table

from delt_jax import models
from delt_jax.models import ModelSpec, forms
from delt_jax.models.forms import PLAIN, Forms
from delt_jax.models.resnet import ResNet

CHOSEN = argparse.Namespace(case="tiny/16", dtype="float32", batch=2, seconds=0.0)
TINY = ResNet((1,), 4, 5, small_stem=False)


def rows_of(parts):
    programs, peak = step_parts.compile_parts(parts), peaks.Peaks(1e12, 1e11)
    measured = map(lambda *both: step_parts.measure(*both, CHOSEN, peak), parts, programs)
    return [row for rows in measured for row in rows]


def test_every_part_is_measured_in_every_form():
    parts = step_parts.parts(TINY, 2, 16)
    whole = step_parts.whole_step(TINY, 2, 16, "float32")
    assert set(whole.forms) == {"plain", "stem blocks", "stem aligned_blocks", "pool indexed"} | {
        "as chosen"
    }
    assert whole.forms["as chosen"] == forms.choose("cpu", jnp.dtype("float32"))
    few = replace(whole, forms={"plain": PLAIN, "as chosen": whole.forms["as chosen"]})
    rows = rows_of([*parts, few])
    assert len(rows) == 3 + 3 + 1 + 2 + 2 + 1 + 2
    assert all(row["flops"] > 0 and row["bytes"] > 0 and row["ms"]["min"] > 0 for row in rows)
    # A form that is not what was compiled would count the same operations.
    stems = [row["flops"] for row in rows if row["part"] == "stem, forward"]
    assert stems[0] < stems[1] < stems[2]
    assert [row["form"] for row in rows if row["chosen"]] == [
        *("plain", "plain", "HIGHEST", "indexed", "indexed", "plain", "as chosen")
    ]
    page = step_table.table(rows)
    assert sum(line.startswith("| stem, forward |") for line in page) == 3
    assert any(line.startswith("| max-pool, forward | **indexed** |") for line in page)
    assert step_table.table([*rows, *(row | {"batch": 9} for row in rows)]).count("") == 3


@pytest.mark.exhaustive  # dense ones are above
def test_depthwise_convolutions_are_parts_of_a_step_that_has_some():
    lite = models.create(ModelSpec("efficientnet_lite0", 5, 32, 3, 8))
    images = jnp.zeros((1, 32, 32, 3))
    parts = step_parts.depthwise_parts(lite, images)
    assert [part.name for part in parts][::3] == [
        "depthwise 3x3, stride 1, 16 px x 32, forward",
        "depthwise 3x3, stride 2, 16 px x 48, forward",
        "depthwise 5x5, stride 2, 8 px x 48, forward",
        "depthwise 5x5, stride 1, 4 px x 96, forward",
    ]
    rows = rows_of(parts[3:6])
    assert [row["form"] for row in rows] == 3 * ["plain", "shifted"]
    assert [row["chosen"] for row in rows] == 3 * [False, True]
    plain, shifted = (row["flops"] for row in rows[:2])
    assert plain != shifted


def test_forms_are_those_that_the_device_tells_apart(monkeypatch):
    assert list(step_parts.fields("view")) == ["HIGHEST"]
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert step_parts.fields("view")["BF16_BF16_F32_X3"] == Forms(view="BF16_BF16_F32_X3")


@pytest.mark.parametrize("flags", [["--case=resnet18"], ["--case=none/32"], ["--batch=0"]])
def test_bad_flags_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        step_parts.parse(flags)
    assert flags[0].split("=")[0] in capsys.readouterr().err
