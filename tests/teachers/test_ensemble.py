"""Labels by the mean of all the run's teachers, in every regime, and who is named for them."""

import re

import chex
import numpy as np
import pytest
from tiny_run import read_json, tiny

from delt_jax import config as config_lib
from delt_jax import main
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.formats import distilled
from delt_jax.labels import label_store, labelling, soft_labels
from delt_jax.stages import pipeline, plan
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import student_loop


def setting(ensemble: bool, others=("conv3:6",)):
    return tiny(
        **{
            "ipc": 1,
            "teacher.epochs": 1,
            "teacher.others": others,
            "recover.iterations": 1,
            "recover.round_iterations": 0,
            "recover.batch_size": 10,
            "relabel.ensemble": ensemble,
            "relabel.rand_augment": "",
            "relabel.mix": "none",
            "evaluate.epochs": 2,
            "evaluate.batch_size": 10,
            "evaluate.seeds": 1,
            "evaluate.images": ("recovered",),
            "evaluate.regimes": ("online", "stored", "fixed"),
            "report.nearest": False,
        }
    )


def recipe_of(ensemble: bool):
    return config_lib.from_config(setting(ensemble))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was labelled by two teachers, and the tasks of its students by regime."""
    folder, tasks = tmp_path_factory.mktemp("ensemble") / "run", {}
    real = student_loop.train

    def train(task, *args):
        tasks[task.program.regime] = task
        return real(task, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student_loop, "train", train)
        main.run(setting(True), str(folder))
    return folder, tasks


@pytest.fixture(scope="module")
def source():
    return open_source(recipe_of(True).data)


@pytest.fixture(scope="module")
def teachers(finished):
    first = finished[0] / "teacher"
    return teacher_lib.load(first), *teacher_lib.load_others(first)


def test_fixed_labels_are_the_mean(finished, teachers):
    synthetic = distilled.read(finished[0] / "distilled")
    logits = soft_labels.read(finished[0] / "soft_labels", synthetic.manifest["hash"])
    each = [teacher_lib.logits_of(teacher, synthetic.images) for teacher in teachers]
    assert len(each) == 2
    chex.assert_trees_all_close(logits, (each[0] + each[1]) / 2, rtol=1e-5, atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 0.1


def test_stored_labels_are_of_the_same_teachers(finished, teachers, source):
    synthetic = distilled.read(finished[0] / "distilled")
    store = label_store.open_store(
        finished[0] / "soft_labels", synthetic.manifest["hash"], source.class_names
    )
    labelled = labelling.EpochLabeller(teachers, synthetic.images, store.plan)
    expected = labelled.label(0, lambda count: None)
    np.testing.assert_array_equal(store.read(0).values, expected.values)
    by_one = labelling.EpochLabeller(teachers[:1], synthetic.images, store.plan)
    assert (by_one.label(0, lambda count: None).values != expected.values).any()


def test_online_labels_are_of_the_same_teachers(finished, teachers):
    task = finished[1]["online"]
    assert task.program.teachers == tuple(teacher.spec for teacher in teachers)
    chex.assert_trees_all_equal(task.teachers, tuple(teacher.variables for teacher in teachers))
    assert len(task.program.teacher_normalisations) == 2
    assert finished[1]["stored"].program.teachers == ()


def test_manifests_and_report_name_the_teachers(finished, teachers):
    folder, other = finished[0], teachers[1]
    named = {"hash": other.hash, "accuracy": other.accuracy}
    for stage in ("soft_labels", "evaluation"):
        manifest = read_json(folder / stage / "manifest.json")
        assert manifest["more_teachers"] == [named]
        assert manifest["inputs"]["relabel.ensemble"] == [other.hash]
    stored = read_json(folder / "soft_labels/manifest.json")["stored"]
    assert stored["teachers"] == [teacher.hash for teacher in teachers]
    summary = read_json(folder / "summary.json")
    assert summary["other_teachers"] == [{"model": "conv3_6", **named}]
    squeezed = [read_json(folder / n / "manifest.json") for n in ("teacher", "teachers/conv3_6")]
    assert summary["seconds"]["squeeze"] == pytest.approx(sum(m["seconds"] for m in squeezed))
    page = (folder / "report/report.html").read_text()
    assert "Other teachers" in page
    assert f"conv3_6 {100 * other.accuracy:.2f} %" in page


def test_only_what_the_others_touch_is_made_again(finished, source):
    workdir = WorkDir(finished[0])

    def states(recipe):
        return {s.name: pipeline.status(s, recipe, source, workdir) for s in pipeline.STAGES}

    assert not any(needed for needed, _ in states(recipe_of(True)).values())
    without = states(recipe_of(False))
    assert [name for name, (needed, _) in without.items() if needed] == ["relabel", "evaluate"]
    assert without["relabel"][1] == "redone because relabel.ensemble is gone"


def test_a_run_without_others_has_the_inputs_it_always_had(finished, source):
    workdir = WorkDir(finished[0])
    config = setting(False, others=())
    config.evaluate.images = ("recovered", "full")
    recipe = config_lib.from_config(config)
    for stage in pipeline.of_recipe(recipe)[1:]:
        names = stage.inputs(recipe, source, workdir).keys()
        assert not {name for name in names if "ensemble" in name or name == "teacher.others"}


def test_dry_run_counts_what_the_others_cost(finished, source, tmp_path):
    def rows(recipe):
        lines = plan.describe(recipe, source, WorkDir(tmp_path / "new"))
        found = [
            re.match(r"(squeeze|relabel|evaluate) .*? ([\d.]+ \w)FLOP  (.*)", x) for x in lines
        ]
        return {m[3]: m[2] for m in found if m}

    both, one = rows(recipe_of(True)), rows(recipe_of(False))
    assert "conv3, 1 epochs" in both
    assert "other teacher conv3_6, 1 epochs" in both
    changed = {what for what in both if both[what] != one[what]}
    assert changed == {"2 epochs of views, stored", "3 trainings of conv3, 2 epochs each"}


def test_an_ensemble_of_one_is_refused(finished, tmp_path):
    with pytest.raises(UserError, match=r"but teacher\.others is empty; name others there"):
        config_lib.from_config(setting(True, others=()))
    workdir = WorkDir(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/manifest.json").write_text('{"inputs": {}, "hash": "x"}')
    with pytest.raises(UserError, match=r"teacher lists none; run the squeeze stage first"):
        labelling.ensemble_inputs(recipe_of(True), workdir)
