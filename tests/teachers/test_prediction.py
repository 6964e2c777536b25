"""Batches go round the local devices; answers and labels are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delt_jax import models
from delt_jax.augment.views import ViewSpec
from delt_jax.data import Normalisation
from delt_jax.labels.label_store import LabelPlan
from delt_jax.labels.labelling import EpochLabeller
from delt_jax.models import ModelSpec
from delt_jax.runtime import devices
from delt_jax.teachers import prediction
from delt_jax.teachers.teacher import Teacher


@pytest.fixture(scope="module")
def teacher():
    spec = ModelSpec("conv3", 5, 8, 1, 8)
    image = jnp.zeros((2, 8, 8, 1))
    variables = dict(models.create(spec).init(jax.random.key(0), image, train=False))
    variables.pop("features", None)
    names = tuple("abcde")
    return Teacher(spec, variables, Normalisation((0.5,), (0.2,)), names, accuracy=0.2)


@pytest.fixture(autouse=True)
def batches_of_ten(monkeypatch):
    monkeypatch.setattr(prediction, "batch_size", lambda size: 10)


def on(number, monkeypatch, work):
    """What some work returns where so many devices are there, and how many it used."""
    used, stack = [], devices.stack_jobs
    with monkeypatch.context() as patch:
        patch.setattr(devices, "device_count", lambda: number)
        patch.setattr(devices, "stack_jobs", lambda jobs, n: (used.append(n), stack(jobs, n))[1])
        return work(), set(used)


def pixels(count):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("count", [99, 29])  # more batches of ten than devices, and fewer
def test_any_number_of_devices_answers_in_equal_bits(teacher, count, monkeypatch):
    def answers():
        return prediction.predict(
            teacher.model, teacher.variables, teacher.normalisation, [pixels(count)]
        )

    one, _ = on(1, monkeypatch, answers)
    several, used = on(4, monkeypatch, answers)
    assert used == {4 if count == 99 else 1}
    for a, b in zip(one, several, strict=True):
        assert len(a) == count
        np.testing.assert_array_equal(a, b)


@pytest.mark.exhaustive  # answers are compared above
def test_any_number_of_devices_labels_views_in_equal_bits(teacher, monkeypatch):
    views = ViewSpec("", 1, 0.5, True, "cutmix", 1.0)
    plan = LabelPlan(0, 2, 57, 5, "logits", 2, 20.0, views, 5, 2)
    told = []

    def labels():
        labeller = EpochLabeller([teacher], pixels(57), plan)
        return labeller.label(1, told.append)

    one, _ = on(1, monkeypatch, labels)
    several, used = on(4, monkeypatch, labels)
    assert used == {4}  # for five chunks of ten, and one of seven
    assert told == 2 * [10, 10, 10, 10, 10, 7]
    np.testing.assert_array_equal(one.values, several.values)
    np.testing.assert_array_equal(one.classes, several.classes)
