"""How an evaluation runs: students per device, and devices per student.

Both may change the last bits of a student, or the images behind its BatchNorm statistics. So they
follow from the devices that were there when the evaluation began, which are written beside its
unfinished students, and read again wherever it resumes.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax

from delt_jax.recipe import EvaluateRecipe
from delt_jax.runtime import devices
from delt_jax.runtime import processes as hosts
from delt_jax.store import files
from delt_jax.store.schema import mismatch
from delt_jax.training import student_step
from delt_jax.training.student_program import StudentProgram

_FILE = "execution.json"
_SHAPE = {"backend": str, "devices": int, "devices_per_host": int}
_SMALL = 5e6  # parameters, up to which students are too small to fill an accelerator
_LEAST_SHARE = 32  # images of a batch on a device, from which on BatchNorm's statistics do


@dataclass(frozen=True)
class EvaluationPlan:
    """The devices that an evaluation was planned for.

    Attributes:
      backend: their kind, as `jax.default_backend` has it.
      devices: their number, of all hosts.
      devices_per_host: of one host.
    """

    backend: str
    devices: int
    devices_per_host: int


def resolve(partial: Path) -> EvaluationPlan:
    """The plan that an evaluation began with; that of these devices where it has not begun."""
    try:
        stored = files.read_object(partial / _FILE)
        if not mismatch(stored, _SHAPE) and len(stored) == len(_SHAPE):
            return EvaluationPlan(**stored)
    except (OSError, ValueError):
        pass
    each = devices.device_count()
    return EvaluationPlan(jax.default_backend(), hosts.count() * each, each)


def write(partial: Path, plan: EvaluationPlan) -> None:
    """Writes the plan beside the unfinished students."""
    files.write_json(partial / _FILE, asdict(plan))


def students_per_device(
    plan: EvaluationPlan, recipe: EvaluateRecipe, program: StudentProgram, num_students: int
) -> int:
    """Number of students that train together on a device.

    Small networks leave an accelerator idle, so there all of them train at once, evenly spread over
    the devices. A CPU gains nothing from it.

    Args:
      plan: of the evaluation.
      recipe: its settings.
      program: that of the students.
      num_students: of that program, finished ones included.
    """
    if recipe.seeds_at_once or program.devices > 1:
        return recipe.seeds_at_once or 1
    if plan.backend == "cpu" or not _is_small(program):
        return 1
    return -(-num_students // plan.devices)


def shared(
    plan: EvaluationPlan, recipe: EvaluateRecipe, program: StudentProgram, num_students: int
) -> StudentProgram:
    """The program with the number of devices that share a student.

    Where `evaluate.devices_per_student` leaves it to the machine, a large student takes several
    devices of a host if there are fewer students than devices. Every device then normalises its
    share of a batch by itself, as torch's DataParallel does, unless `evaluate.batch_norm` says
    otherwise.
    """
    shares = recipe.devices_per_student or _shares(plan, program, num_students)
    return replace(program, devices=shares, shared_norm=recipe.batch_norm == "shared")


def _shares(plan: EvaluationPlan, program: StudentProgram, num_students: int) -> int:
    if plan.backend == "cpu" or _is_small(program):
        return 1
    most = min(plan.devices_per_host, plan.devices // num_students)
    even = math.gcd(program.batch, program.count % program.batch)
    most = min(most, program.batch // _LEAST_SHARE)
    return max((n for n in range(1, most + 1) if even % n == 0), default=1)


def _is_small(program: StudentProgram) -> bool:
    shapes = student_step.shapes_of_student(program)
    return sum(p.size for p in jax.tree.leaves(shapes.params)) <= _SMALL
