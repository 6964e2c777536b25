"""Memory of unrolled students: XLA's count beside what checkpoints promise and the plan says."""

import functools
import sys
from pathlib import Path

import pytest
from costly import costly

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import learned_memory
import unroll_memory

from delt_jax.learned import methods, setups
from delt_jax.learned.method import Held, Setup
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
    held = Held(3 * IMAGES, steps * (3 if with_adam else 1))
    assert 1 / 1.3 < learn_memory(SPEC, held, 0) / counted(steps, with_adam)[0] < 1.3


def test_what_methods_hold():
    def held(name, **options):
        method = methods.find(name)
        given = [f"{key}={value}" for key, value in options.items()]
        return method.held(
            Setup(
                *(SPEC, 10, 2, 5, 40, 0, 0.1, 0.0, 0.0, 0, 1, "", 1, False, (), ()),
                options=setups.options_of(method, given),
            )
        )

    assert held("mtt", student_steps=7) == Held(60, 7)
    assert held("att", student_steps=7, student_batch=5) == Held(15, 7)
    assert held("tesla", student_steps=7, student_batch=50) == Held(60, 0)
    # A step of the student and the real images behind the window are not held at once.
    assert held("ratbptt", window=6, unroll=9) == Held(60, 18)
    assert held("ratbptt", window=6, unroll=9, student_batch=5) == Held(60, 18)
    assert held("ratbptt", window=6, unroll=9, student_batch=15) == Held(60, 18)
    assert held("dc") == held("idc") == Held(40 + 220)
    assert held("dm") == Held(160 + 60)


@pytest.mark.parametrize(
    "name", ["dm", "frepo", *map(costly, ["dsa", "idc", "mtt", "att", "tesla", "ratbptt", "rcig"])]
)
def test_the_plans_estimate_of_a_step_is_within_twice_xlas_count(name):
    found, planned = learned_memory.counted_and_planned("configs/digits.py", name, ipc=2)
    assert 1 / 2 < planned / found < 2
