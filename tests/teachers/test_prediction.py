"""Batches go round the local devices; the answers are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delt_jax import models
from delt_jax.data import Normalisation
from delt_jax.models import ModelSpec
from delt_jax.runtime import devices
from delt_jax.teachers import prediction


@pytest.mark.parametrize("count", [99, 29])  # more batches of ten than devices, and fewer
def test_any_number_of_devices_answers_in_equal_bits(count, monkeypatch):
    spec = ModelSpec("conv3", 5, 8, 1, 8)
    model = models.create(spec)
    variables = dict(model.init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), train=False))
    variables.pop("features", None)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)
    monkeypatch.setattr(prediction, "batch_size", lambda _: 10)
    used = []
    placed = devices.stack_jobs
    monkeypatch.setattr(
        devices, "stack_jobs", lambda trees, number: (used.append(number), placed(trees, number))[1]
    )
    answers = []
    for available in (1, 4):
        monkeypatch.setattr(devices, "device_count", lambda number=available: number)
        answers.append(
            prediction.predict(model, variables, Normalisation((0.5,), (0.2,)), [pixels])
        )
    assert max(used) == (4 if count == 99 else 1)
    for one, several in zip(*answers, strict=True):
        assert len(one) == count
        np.testing.assert_array_equal(one, several)
