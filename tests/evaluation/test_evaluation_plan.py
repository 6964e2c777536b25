"""How students are spread over devices: a function of the devices an evaluation began with."""

from dataclasses import replace

import pytest
from test_student_loop import PROGRAM, PROTOCOL

from delt_jax.evaluation import execution
from delt_jax.evaluation.execution import EvaluationPlan
from delt_jax.models import ModelSpec
from delt_jax.recipe import EvaluateRecipe

E = EvaluateRecipe()
CPU, GPU, NODE = (EvaluationPlan(*plan) for plan in (("cpu", 8, 8), ("gpu", 1, 1), ("gpu", 8, 8)))
LARGE = replace(
    PROGRAM,
    student=ModelSpec("resnet18", 10, 32, 3),
    protocol=replace(PROTOCOL, batch_size=100),
    count=500,
)


@pytest.mark.parametrize(
    ("plan", "program", "students", "expected"),
    [
        (CPU, PROGRAM, 9, 1),
        (GPU, PROGRAM, 9, 9),
        (NODE, PROGRAM, 9, 2),
        (NODE, PROGRAM, 3, 1),
        (GPU, LARGE, 9, 1),
    ],
)
def test_small_students_are_spread_evenly_over_accelerators(plan, program, students, expected):
    assert execution.students_per_device(plan, E, program, students) == expected
    asked = replace(E, seeds_at_once=4)
    assert execution.students_per_device(plan, asked, program, students) == 4


@pytest.mark.parametrize(
    ("plan", "students", "changes", "expected"),
    [
        (NODE, 3, {}, 2),  # six of eight devices
        (NODE, 1, {}, 2),  # not four: 25 images a device are too few
        (NODE, 1, {"batch": 400, "count": 800}, 8),
        (NODE, 1, {"batch": 400, "count": 1000}, 8),  # batches of 400, 400 and 200
        (NODE, 1, {"batch": 400, "count": 1001}, 1),  # a last one of 201
        (NODE, 8, {}, 1),
        (EvaluationPlan("gpu", 32, 8), 3, {"batch": 1024, "count": 1024}, 8),  # of one host
        (GPU, 1, {}, 1),
        (CPU, 1, {}, 1),
    ],
)
def test_large_students_share_devices_that_would_be_idle(plan, students, changes, expected):
    program = LARGE
    if changes:
        protocol = replace(LARGE.protocol, batch_size=changes["batch"])
        program = replace(LARGE, protocol=protocol, count=changes["count"])
    assert execution.shared(plan, E, program, students).devices == expected
    assert execution.shared(plan, E, replace(PROGRAM, count=400), students).devices == 1
    asked = replace(E, devices_per_student=4, batch_norm="shared")
    both = execution.shared(plan, asked, program, students)
    assert (both.devices, both.shared_norm) == (4, True)


def test_the_plan_is_replayed_where_an_evaluation_goes_on(tmp_path):
    here = execution.resolve(tmp_path)
    assert (here.backend, here.devices, here.devices_per_host) == ("cpu", 8, 8)
    execution.write(tmp_path, NODE)
    assert execution.resolve(tmp_path) == NODE
    (tmp_path / "execution.json").write_text('{"backend": "gpu"}')
    assert execution.resolve(tmp_path) == here
