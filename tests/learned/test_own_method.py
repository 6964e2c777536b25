"""The method that docs/learned.md writes out: two short files are all of it, and it learns."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import toy_method

from delt_jax.config.methods import DataKind
from delt_jax.core import progress, stopping
from delt_jax.learned import driver

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/learned.md").read_text()
METHOD, RECIPE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_a_file_and_a_recipe_of_forty_lines_are_a_method(tmp_path):
    """They are added to a copy of the package, of which nothing else is changed."""
    assert METHOD.count("\n") + RECIPE.count("\n") <= 40
    for folder in ("delt_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__py*"))
    for text in (METHOD, RECIPE):
        place = re.match(r'"""(.*?)"""', text)[1]
        assert not (tmp_path / place).exists()
        (tmp_path / place).write_text(text)
    asked = ["run", "--config=digits:moments,ipc1", "--workdir=run", "--stages=learn"]
    small = ["--config.learn.steps=2", "--config.learn.width=4", "--config.learn.real_batch=8"]
    done = subprocess.run(
        [sys.executable, "-m", "delt_jax", *asked, *small],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "run/distilled/manifest.json").read_text())
    assert (manifest["method"], manifest["inputs"]["learn.steps"]) == ("moments", 2)


def test_it_learns(tmp_path):
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
    file = ROOT / "configs/methods/moments.py"
    made = {"__file__": str(file)}
    exec(RECIPE, made)
    settings = made["settings"](DataKind("fashion_mnist", 28, "conv3", 1, 10))
    assert settings["learn.method"].value == "moments"
    assert settings["learn.steps"].value == 20_000
