"""The stage that learns a set: what it makes, keeps, resumes and redoes, and what is left out."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from tiny_run import read_json

from delt_jax import main
from delt_jax.config import derive, from_config
from delt_jax.core import stopping
from delt_jax.data import describe_source, open_source
from delt_jax.formats import distilled
from delt_jax.formats.decoding import Decoding
from delt_jax.learned import driver, setups
from delt_jax.stages import learn, pipeline, plan
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers.cost import model_cost

DIGITS = Path(__file__).parents[2] / "configs/digits.py"
TINY = {
    "ipc": 1,
    "learn.steps": 6,
    "learn.width": 4,
    "learn.real_batch": 12,
    "evaluate.width": 4,
    "evaluate.epochs": 2,
    "evaluate.seeds": 1,
}


def config(method="frepo", **changes):
    made = runpy.run_path(str(DIGITS))["get_config"](method)
    with made.unlocked():
        made.update_from_flattened_dict(TINY | changes)
    return made


def complete(*args, **changes):
    recipe = from_config(config(*args, **changes))
    source = open_source(recipe.data)
    return derive.complete(recipe, source)[0], source


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    main.run(config(), str(folder), ["learn", "evaluate"])
    return folder


def test_a_set_is_learned_and_scored_without_a_teacher(finished):
    made = distilled.read(finished / "distilled")
    recipe, source = complete()
    assert made.images.shape == (10, 8, 8, 1)
    assert made.images.dtype == made.learned_labels.dtype == np.float32
    losses = np.load(finished / "distilled/losses.npz")["loss"]
    assert losses.shape == (6,)
    assert losses[-1] != losses[0]
    said = made.manifest
    assert (said["synthesis"], said["method"], said["validation"]) == ("learn", "frepo", [])
    assert said["network"]["name"] == "conv3_wide_bn"
    assert said["learned_labels"] == {"form": "centred"}
    assert said["inputs"]["learn.steps"] == 6
    assert said["execution"]["devices"] == 6  # of 8, which share 12 real images evenly
    rows = read_json(finished / "evaluation/manifest.json")["rows"]
    assert {(r["regime"], r["images"]) for r in rows} == {
        ("learned", "recovered"),
        ("learned", "random"),
    }
    assert not (finished / "teacher").exists()
    for stage in pipeline.of_recipe(recipe)[:-1]:
        assert not pipeline.status(stage, recipe, source, WorkDir(finished))[0]


def test_stages_that_need_a_teacher_are_left_out(finished):
    recipe, source = complete()
    lines = "\n".join(plan.describe(recipe, source, WorkDir(finished)))
    assert "squeeze   left out, as nothing asks for a teacher" in lines
    assert "learn     would be skipped: done, nothing changed" in lines
    assert "recover" not in lines
    assert "learned by frepo: 10 images, 6 steps, each with 12 real images" in lines
    assert "10 images, 6 steps" in lines
    assert "device memory of learn" in lines
    asked, _ = complete(**{"evaluate.images": ("recovered", "selected")})
    stages = {s.name: s.skipped(asked) for s in pipeline.of_recipe(asked)}
    assert not any(stages.values())
    assert pipeline.STAGES[2].skipped(asked) == "synthesis is 'learn'"


@pytest.mark.parametrize(
    ("method", "option", "copies"),
    [("ratbptt", "window", 3), ("mtt", "student_steps", 1), ("tesla", "student_steps", 0)],
)
def test_a_plan_counts_the_weights_that_an_unroll_keeps(tmp_path, method, option, copies):
    def planned(steps):
        recipe, source = complete(
            method, **{"learn.width": 512, "learn.options": (f"{option}={steps}",)}
        )
        lines = plan.describe(recipe, source, WorkDir(tmp_path))
        (line,) = (line for line in lines if line.startswith("device memory of learn"))
        number, unit = re.search(r"about ([\d.]+) ([MG])B", line).groups()
        setup, _ = learn.work(recipe, source)
        return float(number) * {"M": 1e6, "G": 1e9}[unit], 4 * model_cost(setup.spec).parameters

    (few, weights), (many, _) = planned(10), planned(30)
    assert many - few == pytest.approx(20 * copies * weights, rel=0.02, abs=1e6)


@pytest.mark.parametrize(
    ("method", "data", "changes", "decoding"),
    [
        ("rcig", "cifar10", {}, Decoding(1, True)),
        ("rcig", "cifar10", {"learn.mirrored": False}, None),
        ("rcig", "cifar10", {"data.flip": False}, None),
        ("rcig", "fashion_mnist", {}, None),
        ("frepo", "cifar10", {}, None),  # its copies are its loss's alone
        ("idc", "cifar10", {}, Decoding(2, False)),
    ],
)
def test_sets_say_what_their_images_become(method, data, changes, decoding):
    made = runpy.run_path(str(DIGITS.with_name(f"{data}.py")))["get_config"](method)
    with made.unlocked():
        made.update_from_flattened_dict({"ipc": 1} | changes)
    recipe = from_config(made)
    recipe = derive.complete(recipe, describe_source(recipe.data))[0]
    assert learn.decoding_of(recipe) == decoding


def test_other_settings_and_the_other_synthesis_redo_it(finished):
    stages = {stage.name: stage for stage in pipeline.STAGES}

    def why(stage, **changes):
        return pipeline.status(stages[stage], *complete(**changes), WorkDir(finished))

    assert why("learn", **{"learn.steps": 7}) == (True, "redone because learn.steps was 6, is 7")
    assert not why("learn", **{"learn.save_minutes": 1.0, "evaluate.seeds": 2})[0]
    recovers = {"synthesis": "recover", "evaluate.regimes": ("hard",)}
    assert why("learn", **recovers) == (False, "left out, as synthesis is 'recover'")
    redone = "redone because the set there was learned, not recovered"
    assert why("recover", **recovers) == (True, redone)


def test_the_best_set_depends_on_what_its_validation_reads_alone(tmp_path):
    def inputs(**changes):
        best = {"learn.validate_every": 3, "learn.keep": "best"}
        return learn.inputs(*complete(**best | changes), WorkDir(tmp_path))

    chosen = inputs()
    for name, value in {
        "evaluate.seeds": 7,
        "evaluate.images": ("recovered", "random"),
        "evaluate.plain": True,
        "evaluate.eval_every": 1,
        "evaluate.students": ("conv3_wide", "conv3"),
        "relabel.top_k": 3,
        "relabel.form": "probabilities",
    }.items():
        assert inputs(**{name: value}) == chosen, name
    for name, value in {
        "evaluate.epochs": 3,
        "evaluate.width": 8,
        "evaluate.dtype": "bfloat16",
        "evaluate.students": ("conv3",),
        "evaluate.regimes": ("hard",),
        "evaluate.learning_rates": (0.02, 0.01),
        "relabel.dsa": "one-crop",
    }.items():
        assert inputs(**{name: value}) != chosen, name


@pytest.mark.exhaustive  # as in learned/test_engine.py
def test_a_stopped_stage_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    """Stopped in every place at which it saves, also within the training of students."""
    asked = config("dm", **{"learn.validate_every": 3, "learn.keep": "best", "learn.steps": 5})
    main.run(asked, str(tmp_path / "whole"), ["learn"])
    improve, calls = driver.program.compile_improve, []

    def counted(*arguments):
        calls.append(arguments)
        if len(calls) in (2, 5):
            stopping.request(15)
        return improve(*arguments)

    monkeypatch.setattr(driver.program, "compile_improve", counted)
    for _ in range(2):
        with pytest.raises(stopping.Stopped):
            main.run(asked, str(tmp_path / "cut"), ["learn"])
    main.run(asked, str(tmp_path / "cut"), ["learn"])
    assert "learn goes on after" in capsys.readouterr().out
    assert len(calls) == 5  # no step was taken twice
    whole, cut = (tmp_path / name / "distilled" for name in ("whole", "cut"))
    for file in ("learned.npz", "last.npz", "losses.npz"):
        a, b = np.load(whole / file), np.load(cut / file)
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    said = [read_json(folder / "manifest.json") for folder in (whole, cut)]
    assert [step for step, _ in said[0]["validation"]] == [3, 5]
    assert said[0]["validation"] == said[1]["validation"]
    assert said[0]["kept"] == "best"
    assert said[0]["validated_on"].startswith("validation images")
    assert not list((tmp_path / "cut").glob("*.partial"))


def test_validation_holds_out_training_images():
    recipe, source = complete(**{"learn.validate_every": 3})
    held = setups.learned_from(recipe, source)
    assert len(held.train) + len(held.test) == len(source.train)
    assert len(held.test) == pytest.approx(0.1 * len(source.train), abs=10)
    assert not set(held.test.names) & set(held.train.names)
    recipe, source = complete(**{"learn.validate_every": 3, "data.validation_share": 0.2})
    assert setups.learned_from(recipe, source) is source
    recipe, source = complete()
    assert setups.learned_from(recipe, source) is source


def test_a_set_that_is_validated_depends_on_the_images_held_out(tmp_path):
    workdir = WorkDir(tmp_path)

    def names(**changes):
        recipe, source = complete(**changes)
        return set(learn.inputs(recipe, source, workdir))

    validated = names(**{"learn.validate_every": 3})
    assert "data.split_seed" in validated - names()
    shared = names(**{"learn.validate_every": 3, "data.validation_share": 0.2})
    assert "data.split_seed" not in shared  # the fingerprint says it


def test_sets_are_validated_at_the_rate_that_they_have_learned(tmp_path, monkeypatch):
    rates = []

    def accuracy(recipe, source, made, folder):
        rates.append(recipe.evaluate.learning_rates)
        return 0.5

    monkeypatch.setattr(learn.learned_score, "accuracy", accuracy)
    numbers = "experts=1 epochs=2 expert_epochs=1 first_start=0 last_start=1 student_steps=2"
    config_of = config(
        "mtt",
        **{"learn.validate_every": 3, "learn.options": tuple(numbers.split())},
    )
    main.run(config_of, str(tmp_path), ["experts", "learn"])
    extra = read_json(tmp_path / "distilled/manifest.json")["extra"]["student_rate"]
    assert len(rates) == 2
    assert rates[-1] == pytest.approx((extra,))
    assert rates[0] != rates[1]
