"""Methods by name: their settings on every recipe, their schedules, and each run on digits."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from delt_jax import derive, main, recover
from delt_jax.config import default_config, from_config, vary
from delt_jax.data import ArrayExamples, Source
from delt_jax.schedule import cost
from delt_jax.store import distilled

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(CONFIGS.glob("*.py"))
METHODS = sorted(path.stem for path in CONFIGS.glob("methods/*.py"))


def recipe_of(name, variants=""):
    return from_config(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variants))


# --- by name ---


def test_there_are_methods():
    assert {"delt", "sre2l", "cda", "cda_real", "delt_image_clock"} <= set(METHODS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_offers_every_method(path):
    plain = recipe_of(path.stem)
    assert recipe_of(path.stem, "delt") == plain
    for method in METHODS:
        varied = recipe_of(path.stem, method)
        assert (varied == plain) == (method == "delt")
        # One protocol and, where anything is optimised, one length for all.
        assert (varied.data, varied.teacher, varied.ipc) == (plain.data, plain.teacher, plain.ipc)
        assert (varied.relabel, varied.evaluate) == (plain.relabel, plain.evaluate)
        assert varied.recover.iterations in (plain.recover.iterations, 0)
        assert varied.recover.learning_rate == plain.recover.learning_rate


def test_a_method_goes_with_a_row_and_with_folders():
    recipe = recipe_of("imagenet", "ipc10,cda,folder=/data")
    assert (recipe.ipc, recipe.data.path) == (10, "/data")
    assert recipe == recipe_of("imagenet", "cda,folder=/data,ipc10")
    assert recipe.recover.layout == "one_per_class"
    assert recipe_of("imagenet", "ipc1,cda_earlylate").recover.round_iterations == 0


def test_names_that_are_no_variants():
    with pytest.raises(ValueError, match=r"'sre2' is no variant .*; did you mean sre2l\?") as e:
        recipe_of("imagenet", "ipc10,sre2")
    for name in ("ipc1, ipc10, ipc50, ipc100", ", ".join(METHODS), "folder=PATH"):
        assert name in str(e.value)
    with pytest.raises(ValueError, match="sre2l and cda are methods; name one of them"):
        recipe_of("digits", "sre2l,cda")
    with pytest.raises(ValueError, match=r"'\.\./digits' is no variant"):
        recipe_of("digits", "../digits")


def test_a_method_of_ones_own(tmp_path):
    (tmp_path / "methods").mkdir()
    file = str(tmp_path / "mine.py")
    (tmp_path / "methods/calm.py").write_text(
        "def apply(config):\n    config.recover.learning_rate = 0.125\n"
    )
    config = default_config()
    vary(config, "calm", {}, file)
    assert config.recover.learning_rate == 0.125
    (tmp_path / "methods/empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty\.py has no function apply"):
        vary(config, "empty", {}, file)


# --- as published ---


def source_of(classes, size, per_class=400):
    """Labels without images."""
    labels = np.repeat(np.arange(classes, dtype=np.int32), per_class)
    train = ArrayExamples(np.zeros((len(labels), 0), np.uint8), labels, [""] * len(labels))
    return Source("toy", tuple(map(str, range(classes))), size, 3, train, train, "")


@pytest.mark.parametrize(
    ("method", "start", "ranks", "fraction", "milestone", "jitter", "clock"),
    [
        ("delt", "real", 10, 0.6375, 1.0, 0, "batch"),
        ("delt_image_clock", "real", 10, 0.6375, 1.0, 0, "image"),
        ("sre2l", "noise", 1, 1.0, 0.0, 32, "batch"),
        ("cda", "noise", 1, 1.0, 1.0, 32, "batch"),
        ("cda_real", "real", 1, 1.0, 1.0, 32, "batch"),
        ("sre2l_earlylate", "noise", 1, 0.6375, 0.0, 32, "batch"),
        ("cda_earlylate", "noise", 1, 0.6375, 1.0, 32, "batch"),
    ],
)
def test_schedules_are_as_published(method, start, ranks, fraction, milestone, jitter, clock):
    """ImageNet-1K at IPC 10: T 4000, batches of 100, DELT's R 500, SRe2L's shift of 32 px."""
    recipe, _ = derive.complete(recipe_of("imagenet", f"ipc10,{method}"), source_of(1000, 224))
    r = recipe.recover
    assert (recipe.select.start, r.milestone, r.jitter, r.clock) == (
        start,
        milestone,
        jitter,
        clock,
    )
    assert (r.iterations, r.curriculum, r.min_scale) == (4000, "cosine", 0.08)
    schedule = recover.schedule_of(recipe, 1000)
    assert len(schedule) == 100
    for batch in schedule:
        assert len(batch.images) == 100
        assert len({image % 10 for image in batch.images}) == ranks
        assert len(set(batch.labels)) == 100 // ranks
    assert cost(schedule, r.iterations).fraction == fraction


def test_the_shift_is_scaled_to_the_images():
    for side, jitter in ((32, 4), (28, 4), (224, 32)):
        recipe, notes = derive.complete(recipe_of("cifar10", "sre2l"), source_of(10, side))
        assert recipe.recover.jitter == jitter
        assert notes == [f"recover.jitter {jitter}: the images have {side} px"]


# --- on digits ---


def tiny(method):
    """Digits with so little work that a run takes seconds."""
    config = runpy.run_path(str(CONFIGS / "digits.py"))["get_config"](method)
    config.update_from_flattened_dict(
        {
            "ipc": 2,
            "teacher.width": 8,
            "teacher.epochs": 8,
            "recover.batch_size": 10,
            "evaluate.width": 8,
            "evaluate.epochs": 1,
            "evaluate.batch_size": 10,
            "evaluate.seeds": 1,
            "evaluate.images": ("recovered",),
            "evaluate.regimes": ("hard",),
            "report.nearest": False,
        }
    )
    if config.recover.iterations:
        config.recover.iterations = 4
    if config.recover.round_iterations:
        config.recover.round_iterations = 2
    return config


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A work directory with teacher and ranking, which no method changes."""
    folder = tmp_path_factory.mktemp("methods") / "run"
    main.run(tiny("delt"), str(folder), ["squeeze", "rank"])
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_end_to_end(ranked, tmp_path, method, capsys):
    folder = shutil.copytree(ranked, tmp_path / "run")
    config = tiny(method)
    main.run(config, str(folder))
    assert re.search(r"conv3 +\| hard +\| recovered", capsys.readouterr().out)
    synthetic = distilled.read(folder / "distilled")
    assert synthetic.images.shape == (20, 8, 8, 1)
    schedule = synthetic.manifest["schedule"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["image_iterations"] == schedule["image_iterations"]
    early_late = config.recover.round_iterations > 0
    assert schedule["image_iterations"] == 20 * config.recover.iterations * (
        0.75 if early_late else 1
    )
    main.run(config, str(folder))
    assert capsys.readouterr().out.count("done, nothing changed") == 6
