"""What the ceiling on all real images depends on, and when the teacher is that network."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from tiny_run import tiny

from delt_jax.config import derive, from_config
from delt_jax.data import open_source
from delt_jax.evaluation import real_ceiling
from delt_jax.evaluation.rows import student_spec
from delt_jax.recipe import DataRecipe
from delt_jax.recipe.teacher import TeacherRecipe
from delt_jax.store import artefact
from delt_jax.store.workdir import WorkDir

SOURCE = open_source(DataRecipe("digits"))


def recipe(**changes):
    return derive.complete(from_config(tiny(**changes)), SOURCE)[0]


def id_of(run):
    return real_ceiling.score_id(run, student_spec(run.recipe, "conv3", run.source))


def evaluation(asked, teachers=(), folder=None):
    sets = SimpleNamespace(workdir=WorkDir(folder) if folder else None)
    return SimpleNamespace(recipe=asked, source=SOURCE, teachers=teachers, sets=sets)


def with_teacher(asked, **changes):
    return replace(asked, teacher=replace(asked.teacher, **changes))


OTHERS = {
    "model": "resnet18",
    "width": 16,
    "weights": "renamed.pth",
    "others": ("conv3",),
    "head_classes": (1, 2),
    "fine_tune": True,
    "body_rate": 0.5,
    "freeze_norm": True,
}
READ = {
    "epochs": 9,
    "batch_size": 64,
    "learning_rate": 0.3,
    "schedule": "one_cycle",
    "weight_decay": 0.0,
    "crop_padding": 2,
    "momentum": 0.5,
}


def test_every_setting_of_teachers_counts_or_does_not():
    assert OTHERS.keys() | READ.keys() == {f.name for f in fields(TeacherRecipe)}


@pytest.mark.parametrize("name", OTHERS)
def test_another_teacher_leaves_the_ceiling_as_it_is(name):
    asked = recipe()
    other = with_teacher(asked, **{name: OTHERS[name]})
    assert id_of(evaluation(other)) == id_of(evaluation(asked))
    assert real_ceiling.training_settings(other) == real_ceiling.training_settings(asked)


@pytest.mark.parametrize("name", READ)
def test_what_its_training_reads_makes_another_ceiling(name):
    asked = recipe()
    other = with_teacher(asked, **{name: READ[name]})
    assert id_of(evaluation(other)) != id_of(evaluation(asked))
    assert real_ceiling.training_settings(other) != real_ceiling.training_settings(asked)


def test_the_teacher_is_the_ceiling_if_it_was_trained_as_one(tmp_path):
    asked = recipe()
    spec = student_spec(asked, "conv3", SOURCE)
    run = evaluation(asked, (SimpleNamespace(spec=spec),), tmp_path)
    (tmp_path / "teacher").mkdir()
    manifest = {"spec": spec.as_dict(), "normalisation": {"mean": [0.5], "std": [0.2]}}
    manifest |= {"class_names": list(SOURCE.class_names), "accuracy": 0.9, "hash": "a"}

    def is_teacher(**changes):
        made_from = real_ceiling.made_from(run, spec) | changes
        artefact.seal(tmp_path / "teacher/manifest.json", manifest | {"inputs": made_from})
        return real_ceiling.is_teacher(run, spec)

    assert is_teacher()
    assert is_teacher(**{"teacher.model": "conv3"})
    for name, value in {
        "teacher.epochs": 1,
        "data": "others",
        "source of model.conv3": "x",
    }.items():
        assert not is_teacher(**{name: value})
    assert not real_ceiling.is_teacher(evaluation(asked), spec)
