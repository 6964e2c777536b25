"""Begins to compile a recovery's programs before they are called, side by side in threads."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from delt_jax.models import ModelSpec
from delt_jax.recovery.program import StepProgram
from delt_jax.recovery.run import chunks, shapes, sizes
from delt_jax.recovery.run.outline import Outline
from delt_jax.recovery.run.plan import ExecutionPlan
from delt_jax.recovery.types import TeacherVariables
from delt_jax.runtime import devices
from delt_jax.teachers import teacher as teacher_lib

_MOST = 64


class Start(NamedTuple):
    """Where batches that run side by side begin.

    Attributes:
      batch: index of one of them.
      step: iterations that they have behind them.
      num_devices: that they run on.
    """

    batch: int
    step: int
    num_devices: int


def prepare(
    outline: Outline,
    plan: ExecutionPlan,
    indices: Sequence[int] = (),
    num_devices: int | None = None,
) -> None:
    """Begins to compile what a recovery needs, before its teachers are trained.

    Does nothing with extra loss terms, whose constants are not known yet, and where nothing is
    optimised.

    Args:
      outline: settings, networks and schedule.
      plan: how the recovery will run.
      indices: of the batches of this process; all if empty.
      num_devices: local devices; None takes those that there are.
    """
    if outline.settings.terms:
        return
    teachers = [TeacherVariables(teacher_lib.init_shapes(spec)) for spec in outline.specs]
    at_start = dict.fromkeys(indices or range(len(outline.schedule)), 0)
    groups = device_groups(outline, at_start, plan.batches_per_device, num_devices)
    begin(outline, plan, [Start(group[0], 0, width) for group, width in groups], teachers)


def device_groups(
    outline: Outline,
    steps: dict[int, int],
    batches_per_device: int,
    num_devices: int | None = None,
) -> list[tuple[list[int], int]]:
    """Splits batches into groups that run side by side, each with its number of devices.

    The batches of a group are alike, and have as many iterations behind them.

    Args:
      outline: of the recovery.
      steps: iterations behind each batch, by its index.
      batches_per_device: of the plan.
      num_devices: local devices; None takes those that there are.
    """
    most = num_devices or devices.device_count()
    alike: dict[Any, list[int]] = {}
    for i, step in steps.items():
        alike.setdefault((outline.likeness(i), step), []).append(i)
    groups = []
    for members in alike.values():
        width = min(most, -(-len(members) // batches_per_device))
        size = width * batches_per_device
        groups += [(group, width) for group in devices.device_groups(members, size)]
    return groups


def begin(
    outline: Outline,
    plan: ExecutionPlan,
    starts: Iterable[Start],
    teachers: Sequence[TeacherVariables],
) -> None:
    """Begins to compile the programs that some groups of batches need, in the order of their use.

    At most 64 of them: class budgets with extra terms need hundreds, which are compiled as they are
    called.

    Args:
      outline: of the recovery.
      plan: how it runs.
      starts: of the groups.
      teachers: variables and constants, arrays or shapes.
    """
    begun = 0
    distinct = {(outline.likeness(s.batch), s.step, s.num_devices): s for s in starts}
    for start in distinct.values():
        batch_size = len(outline.schedule[start.batch].indices)
        layout = start.num_devices, plan.batches_per_device
        needed = programs(outline, plan, start.batch, start.step)[: _MOST - begun]
        begun += len(needed)
        if needed:
            _begin(needed, outline.specs[0], teachers, batch_size, layout, plan.chunk_steps)


def _begin(
    needed: Sequence[StepProgram],
    spec: ModelSpec,
    teachers: Sequence[TeacherVariables],
    batch_size: int,
    layout: tuple[int, int],
    chunk_steps: int,
) -> None:
    """Begins to compile the programs of batches side by side, and the drawing of their views."""
    count, settings = chunks.views_at_once(chunk_steps), needed[0].settings
    draw = chunks.compile_views(settings, spec.image_size, count, layout, batch_size)
    inputs = shapes.of_inputs(settings, spec, batch_size)._replace(starts=None)
    draw.prepare(jax.ShapeDtypeStruct(layout, jnp.int32), shapes.of_tree(inputs, layout), ())
    arguments = shapes.of_chunk(settings, spec, teachers, batch_size, count, layout)
    for program in needed:
        chunks.compile_chunk(program, *layout, batch_size).prepare(*arguments)


def programs(outline: Outline, plan: ExecutionPlan, index: int, step: int = 0) -> list[StepProgram]:
    """The programs that a batch needs after `step` iterations, in the order of their first use."""
    found = []
    for rnd in outline.schedule[index].rounds:
        for steps, first in sizes.calls(rnd, plan.chunk_steps, len(outline.specs), step):
            found.append(outline.program(index, rnd, plan, steps, first))
    return list(dict.fromkeys(found))
