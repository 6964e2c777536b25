"""The loss of G-VBSM's and EDC's students against their released code."""

import jax
import jax.numpy as jnp
import method_files
import numpy as np
import pytest
from method_files import RELATIVE, assert_close, cases

from delt_jax.models import ModelSpec
from delt_jax.training import student_step
from delt_jax.training.student_step import LearnProgram, Lesson, Pace


@pytest.mark.parametrize("path", cases("student loss"))
def test_the_cross_entropy_is_that_of_the_own_class(path):
    """The released error is of raw logits; that of centred ones is less by the offsets."""
    record, arrays = method_files.read(path)
    student, teacher = jnp.array(arrays["student"]), jnp.array(arrays["teacher"])
    temperature, weight = record["temperature"], record["ce_weight"]
    program = LearnProgram(ModelSpec("conv3", student.shape[1], 8, 3), 0.0, 1, 0.0, "mse", True)
    targets = jax.nn.softmax(teacher / temperature)
    lesson = Lesson(jnp.zeros((len(student), 8, 8, 3)), targets, jnp.array(arrays["own"]))

    @jax.jit
    @jax.value_and_grad
    def loss(logits, hard_weight):
        pace = Pace(jnp.ones(1), jnp.float32(temperature), hard_weight)
        offsets = (logits - teacher).mean(-1)
        return student_step.loss_of(program, logits, lesson, pace) + jnp.mean(offsets**2)

    error, with_own = loss(student, 0.0)[0], loss(student, 1.0)[0]
    np.testing.assert_allclose(error, record["mse"], rtol=RELATIVE)
    np.testing.assert_allclose(with_own - error, record["cross_entropy"], rtol=RELATIVE)
    value, gradient = loss(student, weight)
    np.testing.assert_allclose(value, record["loss"], rtol=RELATIVE)
    assert_close(gradient, arrays["gradient"])
