"""The stage that trains experts: groups, resuming, what it keeps, and what is said before."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_run import read_json

from delt_jax.config import derive, from_config
from delt_jax.core import stopping
from delt_jax.data import ArrayExamples, open_source
from delt_jax.learned import expert_groups, setups
from delt_jax.runtime import devices
from delt_jax.stages import experts, learn, room, summary
from delt_jax.stages.costs import amount
from delt_jax.store.workdir import WorkDir

DIGITS = Path(__file__).parents[2] / "configs/digits.py"
TINY = {"learn.width": 2, "learn.augment": "one-color", "learn.steps": 3}
OPTIONS = "experts=3 epochs=2 expert_batch=16 expert_epochs=1 first_start=0 last_start=1"


def complete(more=""):
    """The recipe on forty images, from which experts take two steps an epoch."""
    config = runpy.run_path(str(DIGITS))["get_config"]("mtt,ipc1")
    with config.unlocked():
        config.update_from_flattened_dict(TINY)
    recipe = from_config(config)
    source = open_source(recipe.data)
    first = source.train.images(np.arange(40))
    few = ArrayExamples(first, source.train.labels[:40], source.train.names[:40])
    recipe = replace(
        recipe, learn=replace(recipe.learn, options=tuple(f"{OPTIONS} {more}".split()))
    )
    source = replace(source, train=few)
    return derive.complete(recipe, source)[0], source


def train(path, more=""):
    """Runs the stage alone; returns the folder of its experts."""
    run_stage(*complete(more), path)
    return path / "experts"


def run_stage(recipe, source, path):
    workdir = WorkDir(path)
    workdir.open(recipe, logs=False)
    try:
        with stopping.listening():
            experts.run(recipe, source, workdir)
    finally:
        workdir.close()


def contents(folder):
    """Arrays of all experts, by file."""
    found = {}
    for path in sorted(folder.glob("*/*.npz")):
        with np.load(path) as stored:
            found[str(path.relative_to(folder))] = dict(stored)
    return found


def assert_equal(one, other):
    a, b = contents(one), contents(other)
    assert a.keys() == b.keys()
    for path, arrays in a.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, b[path][name], err_msg=path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("experts"))


def stop_after(epochs, monkeypatch):
    """Makes a signal come in an epoch of a group; returns the epochs that were trained."""
    real, seen = expert_groups.epoch, []

    def epoch(plan, images, layout, trained, number, on_steps):
        seen.append((tuple(trained), number))
        if len(seen) == epochs:
            stopping.request(15)
        return real(plan, images, layout, trained, number, on_steps)

    monkeypatch.setattr(expert_groups, "epoch", epoch)
    return seen


def test_experts_are_kept_at_the_start_and_after_every_epoch(whole):
    found = contents(whole)
    assert len(found) == 3 * 3
    starts = [found[f"{expert:04}/0000.npz"]["weights"] for expert in range(3)]
    ends = [found[f"{expert:04}/0002.npz"]["weights"] for expert in range(3)]
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(starts, ends, strict=True))
    assert np.abs(ends[0] - ends[1]).max() > 1e-2
    said = read_json(whole / "manifest.json")
    assert (said["experts"], said["epochs"], said["form"]) == (3, 2, "float32")
    assert said["seconds"] > 0
    assert not (whole.parent / "experts.partial").exists()


def test_stopped_experts_go_on_from_their_last_epoch(whole, tmp_path, monkeypatch, capsys):
    """On one device, one after another; those that were not stopped were on several."""
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    seen = stop_after(3, monkeypatch)
    with pytest.raises(stopping.Stopped):
        train(tmp_path)
    assert seen == [((0,), 0), ((0,), 1), ((1,), 0)]
    noted = tmp_path / "experts.partial/seconds-0.json"
    assert read_json(noted)["seconds"] > 0
    noted.write_text(json.dumps({"seconds": 1000.0}))  # as if more had been spent
    assert_equal(train(tmp_path), whole)
    assert seen[3:] == [((1,), 1), ((2,), 0), ((2,), 1)]  # none was trained twice
    assert "3 of 6 epochs were trained before" in capsys.readouterr().out
    assert read_json(tmp_path / "experts/manifest.json")["seconds"] > 1000


def test_groups_make_the_same_experts(whole, tmp_path, monkeypatch):
    """Also one that was stopped, and whose members have not come equally far."""
    monkeypatch.setattr(expert_groups, "per_device", lambda plan, count, bytes_each: 3)
    seen = stop_after(1, monkeypatch)
    with pytest.raises(stopping.Stopped):
        train(tmp_path)
    (tmp_path / "experts.partial/0001/0001.npz").unlink()  # killed before it was written
    monkeypatch.setattr(expert_groups, "per_device", lambda plan, count, bytes_each: 1)
    assert_equal(train(tmp_path), whole)
    assert seen == [((0, 1, 2), 0), ((0, 2), 1), ((1,), 0), ((1,), 1)]


def test_half_the_size_is_as_announced(tmp_path, capsys):
    folder = train(tmp_path, "float16=1")
    recipe, source = complete("float16=1")
    announced = room.disk(recipe, source)["experts"]
    assert f"their weights take {announced:,} bytes" in capsys.readouterr().out
    assert (
        sum(a.nbytes for arrays in contents(folder).values() for a in arrays.values()) == announced
    )
    size = sum(path.stat().st_size for path in folder.glob("*/*.npz"))
    assert announced < size < announced + 9 * 400  # headers
    ends = contents(folder)
    assert ends["0002/0002.npz"]["change"].dtype == np.float16


def test_the_plan_counts_experts_on_disk():
    recipe, source = complete()
    by_stage = room.disk(recipe, source)
    weights = room.parameters(learn.setup_of(recipe, source).spec)
    assert by_stage["experts"] == 4 * weights * 3 * 3
    assert room.plan_line(recipe, source).endswith(amount(sum(by_stage.values()), "B"))
    half = room.disk(complete("float16=1")[0], source)["experts"]
    assert half == weights * 3 * (4 + 2 * 2)
    plain = replace(recipe, learn=replace(recipe.learn, method="dm", options=()))
    assert room.disk(plain, source)["experts"] == 0


def test_the_plan_says_what_a_step_asks():
    (line, *_) = learn.words(*complete("last_start=2 student_steps=7"))
    assert line == (
        "learned by mtt: 10 images, 3 steps, each with 7 steps of a student (dc_conv3) towards 1 "
        "epoch(s) of one of 3 experts, from a start after 0 to 1 of its epochs"
    )


def test_what_a_set_cost_has_its_own_experts(whole):
    workdir = WorkDir(whole.parent)
    made = read_json(whole / "manifest.json")

    def seconds(**inputs):
        manifest = {
            "synthesis": "learn",
            "inputs": inputs,
            "settings": {"learn": {}},
            "class_names": ["a", "b"],
            "ipc": 1,
            "hash": "5e7",
            "cost_seconds": 4.0,
        }
        learned = SimpleNamespace(manifest=manifest, class_names=("a", "b"))
        return summary.summary_of(workdir, None, learned, None, {})["seconds"]

    assert seconds(experts=made["hash"])["experts"] == made["seconds"]
    assert seconds(experts="others")["experts"] is None
    assert "experts" not in seconds()


def test_experts_do_not_see_the_images_that_sets_are_validated_on(tmp_path, monkeypatch):
    recipe, source = complete("expert_batch=8")
    recipe = replace(recipe, learn=replace(recipe.learn, validate_every=2))
    seen, real = [], experts.ExpertImages

    def spied(examples, space):
        seen.append(examples)
        return real(examples, space)

    monkeypatch.setattr(experts, "ExpertImages", spied)
    run_stage(recipe, source, tmp_path)
    workdir = WorkDir(tmp_path)
    held_out = setups.learned_from(recipe, source)
    assert list(seen[0].names) == list(held_out.train.names)
    assert not set(seen[0].names) & set(held_out.test.names)
    other = replace(recipe, data=replace(recipe.data, split_seed=1))
    assert experts.inputs(recipe, source, workdir) != experts.inputs(other, source, workdir)
    alone = replace(recipe, learn=replace(recipe.learn, validate_every=0))
    assert experts.inputs(alone, source, workdir) == experts.inputs(
        replace(other, learn=alone.learn), source, workdir
    )
