"""The methods that learn at full width get settings that a recipe takes, and a line each."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import learned_full

from delt_jax.config import cli, from_config
from delt_jax.errors import UserError


@pytest.mark.parametrize("method", learned_full.BUDGETS)
def test_a_budget_is_a_command_line_of_the_package(tmp_path, method):
    flags = learned_full.flags_of(method, 10, tmp_path)
    recipe = from_config(cli.parse(["delt_jax.main", *flags]).config)
    assert recipe.learn.method == method
    assert recipe.learn.steps == learned_full.BUDGETS[method].steps
    assert (recipe.ipc, recipe.evaluate.seeds) == (10, learned_full.SEEDS)
    assert recipe.learn.factor == (1 if method == "idc" else None)


def test_the_table_has_what_was_asked_beside_what_was_found():
    row = {"method": "frepo", "steps": 6600, "seconds": 160.4, "least": 0.85}
    lines = learned_full.table([row | {"learned": (0.853, 0.002), "random": (0.744, 0.011)}])
    assert lines[-1] == "| frepo | 6,600 | 160 | 85.3 ± 0.2 | 74.4 ± 1.1 | 85 |"


def test_a_method_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    chosen = argparse.Namespace(ipc=10, workdir=tmp_path, flags=[])
    with pytest.raises(UserError, match="frepo ended with status 1"):
        learned_full.measure("frepo", chosen)
    with pytest.raises(UserError, match="no budget for 'mtt'"):
        learned_full.run([f"--workdir={tmp_path}", "--methods=mtt"])
