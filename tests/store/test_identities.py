"""Identities hold whatever the code's names become: recorded ones of data, students and stages.

A change here makes every finished run of the kind be done again. Where that is meant, record the
new value and say so in the commit.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from delt_jax.augment.views import ViewSpec
from delt_jax.data import Normalisation, open_source
from delt_jax.evaluation.metrics import Score
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.stages.squeeze import parts
from delt_jax.store.identity import identity, versions
from delt_jax.training.protocols import Protocol
from delt_jax.training.student_program import StudentProgram

NORMALISATION = Normalisation((0.5,), (0.25,))
VIEWS = ViewSpec("rand-m6-n2-mstd1.0", 1, 0.5, False, "cutmix", 1.0)
PLAN = LabelPlan(0, 2, 20, 10, "logits", 3, 20.0, VIEWS, 10, 300)
PROTOCOL = Protocol(
    "delt", VIEWS, 20.0, "kl", 0.0, 1.0, 0.01, "half_cosine", 300, 10, 1, 0.0, 10, ("epochs 300",)
)
STUDENT = ModelSpec("conv3", 10, 8, 1, 32)
COURSE = StudentProgram(
    STUDENT, (STUDENT,), PROTOCOL, "stored", NORMALISATION, (NORMALISATION,), 20, 10, PLAN
)


def images(count: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (count, 8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes of four BMP files, whose bytes and times are always the same."""
    for i, pixels in enumerate(images(8)):
        path = tmp_path / f"images/{'ab'[i % 2]}/{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(10**18 + i, 10**18 + i))
    return DataRecipe("folder", str(tmp_path / "images"), image_size=8, channels=3)


@pytest.fixture
def npz(tmp_path):
    labels = np.arange(8) % 2
    np.savez(tmp_path / "set.npz", images=images(8), labels=labels)
    return DataRecipe("npz", str(tmp_path / "set.npz"))


def test_digits():
    source = open_source(DataRecipe("digits"))
    assert source.fingerprint == "cffbae7e6b12b7e5"


def test_validation_split():
    held_out = open_source(DataRecipe("digits", validation_share=0.2))
    assert held_out.fingerprint == "a2b8e33162ef7dcb"


def test_folder(folder):
    assert open_source(folder).fingerprint == "568f7fc92fe8c53e"


def test_folder_without_unreadable_files(folder, tmp_path):
    bad = tmp_path / "images/a/bad.bmp"
    bad.write_bytes(b"no image")
    os.utime(bad, ns=(10**18, 10**18))
    assert open_source(replace(folder, unreadable="skip")).fingerprint == "6fe423c7adb10c61"


def test_npz(npz):
    assert open_source(npz).fingerprint == "a9625e05c65e266f"


def test_teacher():
    source = open_source(DataRecipe("digits"))
    assert identity(parts(Recipe(), source)["teacher"]) == "52695a8e09457f12"


def test_student():
    assert identity(COURSE.as_dict()) == "54d4e90a5c1b6696"


def test_stored_labels():
    assert identity(PLAN.as_dict()) == "49c103cef8740309"


def test_scores_do_not_depend_on_time():
    score = Score(
        "id", "conv3", "hard", "recovered", 10, 0, 0.001, "delt", 0.5, 0.75, 10,
        [[10, 0.75], [20, 0.5]], [0.5, None], [[1, 1], [0, 0]], 0.125, 3.0,
    )  # fmt: skip
    assert replace(score, seconds=9.0).outcome() == score.outcome()
    assert identity(score.outcome()) == "68b35e6ca6046ab7"
    assert identity(replace(score, last=0.25).outcome()) != identity(score.outcome())


def test_order_of_keys_does_not_matter():
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity({"a": 1, "b": 2}) != identity({"a": 2, "b": 1})


@pytest.mark.parametrize("value", [STUDENT.__class__, np.int64(3), VIEWS, b"bytes"])
def test_only_plain_values(value):
    with pytest.raises(TypeError):
        identity({"value": value})


def test_first_version_adds_nothing():
    assert versions({"model.conv3": 1}) == {}
    assert versions({"model.conv3": 2}) == {"version of model.conv3": 2}
    assert COURSE.versions() == {
        "model.conv3": 1,
        "protocol.delt": 1,
        "augment.crop": 1,
        "augment.rand_augment": 1,
        "augment.cutmix": 1,
    }
