"""The method that docs/learned.md writes out: it is short, and it learns."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import toy_method

from delt_jax.config.methods import DataKind
from delt_jax.core import progress, stopping
from delt_jax.learned import driver

PAGE = (Path(__file__).parents[2] / "docs/learned.md").read_text()
METHOD, RECIPE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_it_has_a_file_of_forty_lines_and_learns(tmp_path):
    assert METHOD.count("\n") <= 40
    made = {}
    exec(METHOD, made)
    (method,) = made["METHODS"]
    spec = replace(toy_method.SETUP.spec, width=16)
    setup = replace(toy_method.SETUP, spec=spec, real_batch=20, lifetime=1, steps=20)
    task = toy_method.task(tmp_path / "set", method, setup)
    with progress.progress(setup.steps, "learn", "step") as bar, stopping.deferred():
        losses = driver.finish(task, driver.begin(task), bar).losses
    assert len(losses) == setup.steps
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_its_recipe_is_that_of_dm_but_for_the_name():
    file = Path(__file__).parents[2] / "configs/methods/moments.py"
    made = {"__file__": str(file)}
    exec(RECIPE, made)
    settings = made["settings"](DataKind("fashion_mnist", 28, "conv3", 1, 10))
    assert settings["learn.method"].value == "moments"
    assert settings["learn.steps"].value == 20_000
