"""Methods by name: their settings on every recipe, their schedules, and each run on digits."""

import dataclasses
import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from costly import costly
from outside import PACKAGE

from delt_jax import main, models, terms
from delt_jax.config import default_config, derive, from_config, vary
from delt_jax.core import plugins
from delt_jax.data import ArrayExamples, Normalisation, Source, open_source
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.learned import methods as learned_methods
from delt_jax.models import ModelSpec
from delt_jax.recovery import initial_images as start
from delt_jax.recovery import mosaics
from delt_jax.recovery.run import driver
from delt_jax.recovery.schedule import cost
from delt_jax.stages import recover

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.glob("[!_]*.py"))
ALL_METHODS = sorted(path.stem for path in CONFIGS.glob("methods/[!_]*.py"))
# Those that recover images; of those that learn sets: test_learned_methods.py.
METHODS = [name for name in ALL_METHODS if name not in learned_methods.names()]


def recipe_of(name, variants=""):
    return from_config(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variants))


# --- by name ---


def test_there_are_methods():
    assert {"delt", "sre2l", "cda", "cda_real", "rded", "wmdd", "dwa", "fadrm"} <= set(METHODS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_offers_every_method(path):
    plain = recipe_of(path.stem)
    # Without real images DELT's start is not to be had.
    default = "delt" if plain.data.has_training_images else "cda_earlylate"
    assert recipe_of(path.stem, default) == plain
    for method in METHODS:
        varied = recipe_of(path.stem, method)
        assert (varied == plain) == (method == default)
        one = dataclasses.replace(varied.teacher, others=())
        assert (varied.data, one, varied.ipc) == (plain.data, plain.teacher, plain.ipc)
        assert varied.relabel.ensemble == bool(varied.teacher.others)
        if not plain.data.known_as:  # nothing is published for images of one's own
            assert dataclasses.replace(varied.relabel, ensemble=False) == plain.relabel
            assert varied.evaluate == plain.evaluate
            assert varied.recover.iterations in (plain.recover.iterations, 0)
            assert varied.recover.learning_rate == plain.recover.learning_rate


def test_a_method_goes_with_a_preset_and_with_folders():
    recipe = recipe_of("imagenet", "ipc10,cda,folder=/data")
    assert (recipe.ipc, recipe.data.path) == (10, "/data")
    assert recipe == recipe_of("imagenet", "cda,folder=/data,ipc10")
    assert recipe.recover.layout == "one_per_class"
    assert recipe_of("imagenet", "ipc1,cda_earlylate").recover.round_iterations == 0
    r = recipe_of("fashion_mnist", "study,cda_earlylate").recover
    assert (r.iterations, r.round_iterations) == (800, 100)
    for order in ("study,sre2l", "sre2l,study"):
        r = recipe_of("fashion_mnist", order).recover
        assert (r.iterations, r.round_iterations) == (1000, 0)  # the method has the last word


def test_names_that_are_no_variants():
    with pytest.raises(UserError, match=r"'sre2' is no variant .*; did you mean sre2l\?") as e:
        recipe_of("imagenet", "ipc10,sre2")
    for name in ("ipc1, ipc10, ipc50, ipc100", ", ".join(ALL_METHODS), "folder=PATH"):
        assert name in str(e.value)
    for name in ("ipc0", "ipc1.5", "ipc"):
        with pytest.raises(UserError, match=r"no number .*; ipcN takes a whole number from 1, as"):
            recipe_of("digits", name)
    with pytest.raises(UserError, match=r"'foo' is no variant of this recipe\. It has"):
        recipe_of("digits", "foo")  # which is near to nothing, not even to frepo
    with pytest.raises(UserError, match="sre2l and cda are methods; name one of them"):
        recipe_of("digits", "sre2l,cda")
    with pytest.raises(UserError, match=r"'\.\./digits' is no variant"):
        recipe_of("digits", "../digits")


def test_a_method_of_ones_own(tmp_path):
    (tmp_path / "methods").mkdir()
    file = str(tmp_path / "mine.py")
    (tmp_path / "methods/calm.py").write_text(
        "from delt_jax.config.methods import ours\n\n\ndef settings(data):\n"
        "    return ours({'recover.learning_rate': 0.125})\n"
    )
    config = default_config()
    vary(config, "calm", {}, file)
    assert config.recover.learning_rate == 0.125
    (tmp_path / "methods/empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty\.py has no function settings"):
        vary(config, "empty", {}, file)


def test_every_method_is_described():
    for page, methods in (("methods", METHODS), ("learned", learned_methods.names())):
        text = (CONFIGS.parent / f"docs/{page}.md").read_text()
        assert sorted(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == methods


# --- as published ---


def source_of(classes, size, per_class=400):
    """Labels without images."""
    labels = np.repeat(np.arange(classes, dtype=np.int32), per_class)
    train = ArrayExamples(np.zeros((len(labels), 0), np.uint8), labels, [""] * len(labels))
    return Source("toy", tuple(map(str, range(classes))), size, 3, train, train, "")


@pytest.mark.parametrize(
    ("method", "ranks", "fraction", "clock"),
    [
        ("delt", 10, 0.6375, "batch"),
        ("delt_image_clock", 10, 0.6375, "image"),
        ("delt_no_earlylate", 10, 1.0, "batch"),
        ("sre2l", 1, 1.0, "batch"),
        ("sre2l_real", 1, 1.0, "batch"),
        ("cda", 1, 1.0, "batch"),
        ("cda_real", 1, 1.0, "batch"),
        ("sre2l_earlylate", 1, 0.6375, "batch"),
        ("cda_earlylate", 1, 0.6375, "batch"),
        ("gvbsm", 10, 1.0, "batch"),
        ("edc", 10, 1.0, "batch"),
        ("wmdd", 10, 1.0, "batch"),
        ("dwa", 1, 1.0, "batch"),
        ("fadrm", 1, 1.0, "batch"),
    ],
)
def test_schedules_are_as_published(method, ranks, fraction, clock):
    """ImageNet-1K at IPC 10, DELT's R 500."""
    recipe = recipe_of("imagenet", f"ipc10,{method}")
    assert (recipe.recover.clock, recipe.recover.curriculum) == (clock, "cosine")
    size = 80 if method in ("gvbsm", "edc") else 100
    schedule = recover.schedule_of(recipe, 1000)
    assert len(schedule) == 10_000 // size
    for batch in schedule:
        assert len(batch.indices) == size
        assert len({image % 10 for image in batch.indices}) == ranks
        assert len(set(batch.labels)) == size // ranks
    assert cost(schedule, recipe.recover.iterations).fraction == fraction


def test_rded_is_as_published():
    """300 images of a class, 5 crops of each, four patches to an image of 224 px, no iteration."""
    recipe, source = recipe_of("imagenet", "ipc10,rded"), source_of(1000, 224)
    schedule = recover.schedule_of(recipe, 1000)
    assert (cost(schedule, 0).image_iterations, len(schedule)) == (0, 100)
    assert mosaics.factor_of(recipe.select, 224) == 2
    assert start.forward_passes(recipe, source) == 1000 * 300 * 5
    assert start.forward_passes(recipe_of("imagenet"), source) == 0


@pytest.mark.parametrize("method", ["gvbsm", "edc"])
def test_teachers_take_turns_and_label_together(method):
    """Beside the recipe's own, in every recipe, such that its images are large enough."""
    for path in RECIPES:
        recipe = recipe_of(path.stem, method)
        size = recipe.data.image_size or 28
        for name in recipe.teacher.others:
            models.create(ModelSpec(name, 10, size, 3))
        assert len(recipe.teacher.others) >= 2
        assert recipe.teacher.model not in recipe.teacher.others
        assert (recipe.recover.round_robin, recipe.relabel.ensemble) == (True, True)
        assert recipe.recover.bn_weight == 0
        weights = dict(terms.asked(recipe.recover.terms))
        ten_times = method == "edc" and recipe.data.known_as in ("imagenet", "imagenet100")
        assert weights.pop("global_statistics") + sum(
            weights.get(name, 0) for name in ("class_statistics",)
        ) == pytest.approx(0.1 if ten_times else 0.01)
    published = {path: recipe_of(path, method).recover for path in ("cifar10", "imagenet")}
    momenta = {path: (r.statistics_momentum, r.conv_drop) for path, r in published.items()}
    small, large = ((0.8, 0.4), (0.4, 0.0)) if method == "gvbsm" else ((0.8, 0.0), (0.8, 0.0))
    assert momenta == {"cifar10": small, "imagenet": large}


@pytest.mark.parametrize(
    ("name", "variance", "steps"),
    [("cifar10", 11, 12), ("tiny_imagenet", 11, 12), ("imagenet", 2, 15)],
)
def test_dwa_goes_by_the_size_of_the_images(name, variance, steps):
    recipe = recipe_of(name, "dwa")
    r = recipe.recover
    assert (r.bn_variance_weight, r.perturbation, r.perturbation_steps) == (variance, 0.015, steps)
    assert recipe.select.rule == "random"


def test_residuals_are_fadrms_alone():
    for method in METHODS:
        r = recipe_of("imagenet", f"ipc10,{method}").recover
        assert (r.residual, r.residual_rounds) == ((0.5, 4) if method == "fadrm" else (0.0, 4))


def test_the_shift_is_scaled_to_images_of_ones_own():
    for side, jitter in ((32, 4), (28, 4), (224, 32)):
        recipe, notes = derive.complete(recipe_of("folder", "sre2l"), source_of(10, side))
        assert recipe.recover.jitter == jitter
        assert f"recover.jitter {jitter}: the images have {side} px" in notes


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
            "relabel.rand_augment": "",  # fewer operations to compile
            "evaluate.width": 8,
            "evaluate.epochs": 1,
            "evaluate.batch_size": 10,
            "evaluate.seeds": 1,
            "evaluate.images": ("recovered",),
            "evaluate.regimes": ("hard",),
            "report.nearest": False,
        }
    )
    if config.teacher.others:
        config.teacher.others = ("conv3:8",)  # like the first one, so that programs are shared
    if config.recover.iterations:
        config.recover.iterations = 4
    if config.recover.round_iterations:
        config.recover.round_iterations = 2
    return config


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A work directory with teacher, ranking and another teacher, which no method changes."""
    folder = tmp_path_factory.mktemp("methods") / "run"
    main.run(tiny("gvbsm"), str(folder), ["squeeze"])
    main.run(tiny("delt"), str(folder), ["squeeze", "rank"])
    return folder


# Whose labels or lack of iterations matter to the stages after recovery, which methods share.
WHOLE = ("delt", "rded")


# Made of parts that others have, or whose formulas are tested by themselves.
COSTLY = (
    *("delt_image_clock", "delt_no_earlylate", "sre2l_earlylate", "cda_real", "cda_earlylate"),
    *("gvbsm", "wmdd", "dwa", "fadrm"),
)


@pytest.mark.parametrize("method", [costly(m, when=m in COSTLY) for m in METHODS])
def test_every_method_runs_end_to_end(ranked, tmp_path, method, capsys):
    folder = shutil.copytree(ranked, tmp_path / "run")
    config = tiny(method)
    stages = [] if method in WHOLE else ["squeeze", "rank", "recover"]
    main.run(config, str(folder), stages)
    teachers = 1 + len(config.teacher.others) * config.recover.round_robin
    measuring = any(re.match("class_bn|.*statistics", term) for term in config.recover.terms)
    statistics = list((folder / "cache").glob("statistics-*.npz"))
    assert len(statistics) == teachers * measuring
    synthetic = distilled.read(folder / "distilled")
    assert synthetic.images.shape == (20, 8, 8, 1)
    spent = synthetic.manifest["schedule"]["image_iterations"]
    early_late = config.recover.round_iterations > 0
    assert spent == 20 * config.recover.iterations * (0.75 if early_late else 1)
    printed = capsys.readouterr().out
    if not stages:
        assert re.search(r"conv3 +\| hard +\| recovered", printed)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["image_iterations"] == spent
    main.run(config, str(folder), stages)
    again = capsys.readouterr().out
    assert "not done yet" not in again
    assert len(re.findall("done, nothing changed|: left out, as", again)) == (len(stages) or 6)


def test_the_example_of_the_docs(ranked, tmp_path, monkeypatch):
    """A method of a few lines, with a start and a term from a package of one's own."""
    page = (CONFIGS.parent / "docs/methods.md").read_text()
    (method,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copytree(CONFIGS / "methods", tmp_path / "methods")
    (tmp_path / "methods/mine.py").write_text(method)
    shutil.copytree(PACKAGE / "delt_example", tmp_path / "mine")
    monkeypatch.syspath_prepend(tmp_path)
    folder, config = shutil.copytree(ranked, tmp_path / "run"), tiny("delt")
    vary(config, "mine", {}, str(tmp_path / "recipe.py"))
    config.recover.iterations = 4
    main.run(config, str(folder), ["recover"])
    assert (folder / "distilled/start_images.npz").is_file()
    with np.load(folder / "distilled/losses.npz") as losses:
        parts = losses["cross_entropy"] + config.recover.bn_weight * losses["bn"]
        parts += 0.1 * losses["term.mine.terms:COLOURS"]
        np.testing.assert_allclose(losses["loss"], parts, rtol=1e-4)
    plugins.forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.mark.parametrize("layout", ["class_major", "one_per_class"])
@pytest.mark.parametrize("kind", ["real", "noise", "rded"])
def test_without_iterations_the_set_is_its_start(ranked, tmp_path, kind, layout, capsys):
    """Class by class and rank by rank, whichever batches they were in."""
    folder = shutil.copytree(ranked, tmp_path / "run")
    config = tiny("delt")
    config.update_from_flattened_dict(
        {
            "select.start": kind,
            "select.mosaic": 2,
            "recover.layout": layout,
            "recover.iterations": 0,
            "recover.batch_size": 7,
        }
    )
    main.run(config, str(folder), ["recover"])
    assert "kept 20 images as they start" in capsys.readouterr().out
    synthetic = distilled.read(folder / "distilled")
    made = synthetic.manifest
    assert made["schedule"]["image_iterations"] == made["schedule"]["fraction"] == 0
    assert len(made["schedule"]["images"]) == (3 if layout == "class_major" else 4)
    source = open_source(from_config(config).data)
    if kind == "real":
        indices = np.array(made["start"]["indices"]).reshape(-1)
        np.testing.assert_array_equal(synthetic.images, source.train.images(indices))
        np.testing.assert_array_equal(synthetic.labels, source.train.labels[indices])
    normalisation = Normalisation(**{k: tuple(v) for k, v in made["normalisation"].items()})
    starts = start.recorded(made["start"], folder / "distilled", source, normalisation)
    np.testing.assert_array_equal(synthetic.images, starts.pixels(range(20)))
    if kind == "rded":
        assert made["start"]["mosaic"] == 2
        assert starts.patches.images.shape == (10, 8)
        of_class = source.train.labels[starts.patches.images]
        assert (of_class == np.arange(10)[:, None]).all()
        assert (np.diff(starts.patches.cross_entropy, axis=1) >= 0).all()


def test_mosaics_can_be_optimised_and_are_found_once(ranked, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(ranked, tmp_path / "run")
    config = tiny("delt")
    config.select.start = "rded"

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(driver, "finish", stop)
        with pytest.raises(Stop):
            main.run(config, str(folder), ["recover"])
    found = (folder / "distilled.partial/patches.npz").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(mosaics, "find", stop)  # it goes on with what it found
        main.run(config, str(folder), ["recover"])
    assert "(75.00% of full optimisation)" in capsys.readouterr().out
    made = distilled.read(folder / "distilled").manifest
    assert made["start"] == {"split": "train", "mosaic": 1, "patches": "patches.npz"}
    with np.load(folder / "distilled/patches.npz") as kept, np.load(io.BytesIO(found)) as first:
        for name in ("images", "boxes", "cross_entropy"):
            np.testing.assert_array_equal(kept[name], first[name])
        assert made["cost_seconds"] >= round(float(first["seconds"]), 1)
    config.select.crops = 4
    main.run(config, str(folder), ["recover"], dry_run=True)
    out = capsys.readouterr().out
    assert "redone because select.crops was 5, is 4" in out
    assert re.search(r"20 images, \d+ forward passes to find their starts", out)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"select.mosaic": 3}, r"select.mosaic \(3\) must divide the images' side, which is 8 px"),
        ({"ipc": 80, "select.mosaic": 2}, "takes 320 crops .* select.candidates is 300; raise it"),
        ({"ipc": 40, "select.mosaic": 2}, "class '8' has only 1.. training images; lower ipc or"),
    ],
)
def test_mosaics_that_cannot_be_made(tmp_path, changes, sentence):
    config = tiny("rded")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=sentence):
        main.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_plan_of_what_is_not_optimised(tmp_path, capsys):
    main.run(tiny("rded"), str(tmp_path / "run"), dry_run=True)
    out = capsys.readouterr().out
    assert "nothing is optimised: the distilled set is its start" in out
    assert "device memory of recover: a forward pass's" in out
    assert "image-iterations" not in out
