"""Memory of unrolled students: XLA's count beside what checkpoints promise and the plan says."""

import functools
import sys
from pathlib import Path

import pytest
from costly import costly

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import unroll_memory

from delt_jax.learned import methods, setups
from delt_jax.learned.method import Setup, Unroll
from delt_jax.models import ModelSpec
from delt_jax.stages.costs import learn_memory

SPEC = ModelSpec("dc_conv3", 10, 16, 1, 8)
IMAGES, STEPS = 20, 15
RULES = [False, costly(True)]  # plain descent, Adam


@functools.cache
def counted(steps, with_adam):
    """Bytes of XLA's temporary memory, and those of the weights that a step keeps."""
    return unroll_memory.temporary_bytes(SPEC, IMAGES, steps, with_adam)


@pytest.mark.parametrize("with_adam", RULES)
def test_many_steps_take_less_than_twice_one_and_what_they_keep(with_adam):
    (one, kept), (many, _) = counted(1, with_adam), counted(STEPS, with_adam)
    assert many < 2 * one + STEPS * kept
    # Without checkpoints every step would take as much as one.
    assert many < one * STEPS / 4


@pytest.mark.parametrize("with_adam", RULES)
@pytest.mark.parametrize("steps", [1, STEPS])
def test_the_plans_estimate_is_near_xlas_count(steps, with_adam):
    unroll = Unroll(IMAGES, steps * (3 if with_adam else 1))
    assert 1 / 1.3 < learn_memory(SPEC, 0, 0, unroll) / counted(steps, with_adam)[0] < 1.3


def test_what_methods_unroll():
    def unroll(name, **options):
        method = methods.find(name)
        given = [f"{key}={value}" for key, value in options.items()]
        return method.unroll(
            Setup(
                *(SPEC, 10, 2, 5, 4, 0, 0.1, 0.0, 0.0, 0, 1, "", 1, False, (), ()),
                options=setups.options_of(method, given),
            )
        )

    assert unroll("mtt", student_steps=7) == Unroll(20, 7)
    assert unroll("att", student_steps=7, student_batch=5) == Unroll(5, 7)
    assert unroll("tesla", student_steps=7, student_batch=50) == Unroll(20, 0)
    assert unroll("ratbptt", window=6, unroll=9) == Unroll(20, 18)
    assert unroll("dc") is None


def test_real_images_and_a_step_of_the_student_are_not_held_at_once():
    small, large = (learn_memory(SPEC, images, 1, Unroll(20, 0)) for images in (60, 120))
    assert small == learn_memory(SPEC, 0, 1, Unroll(20, 0)) == learn_memory(SPEC, 60, 1)
    assert large == learn_memory(SPEC, 120, 1)
