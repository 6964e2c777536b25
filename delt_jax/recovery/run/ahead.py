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
    """Begins to compile all programs that some groups of batches need, in the order of their use.

    Args:
      outline: of the recovery.
      plan: how it runs.
      starts: of the groups.
      teachers: variables and constants, arrays or shapes.
    """
    count, spec = chunks.views_at_once(plan.chunk_steps), outline.specs[0]
    prepared = set()
    for start in starts:
        batch_size = len(outline.schedule[start.batch].indices)
        layout = start.num_devices, plan.batches_per_device
        for program in programs(outline, plan, start.batch, start.step):
            if (program, layout, batch_size) in prepared:
                continue
            prepared.add((program, layout, batch_size))
            draw = chunks.compile_views(
                outline.settings, spec.image_size, count, layout, batch_size
            )
            draw.prepare(*_of_views(outline, spec, batch_size, layout))
            chunk = chunks.compile_chunk(program, *layout, batch_size)
            chunk.prepare(*shapes.of_chunk(program, spec, teachers, batch_size, count, layout))


def programs(outline: Outline, plan: ExecutionPlan, index: int, step: int = 0) -> list[StepProgram]:
    """The programs that a batch needs after `step` iterations, in the order of their first use."""
    found = []
    for rnd in outline.schedule[index].rounds:
        for steps, first in sizes.calls(rnd, plan.chunk_steps, len(outline.specs), step):
            found.append(outline.program(index, rnd, plan, steps, first))
    return list(dict.fromkeys(found))


def _of_views(outline: Outline, spec: ModelSpec, batch_size: int, layout: tuple[int, int]) -> Any:
    inputs = shapes.of_inputs(outline.settings, spec, batch_size)._replace(starts=None)
    return jax.ShapeDtypeStruct(layout, jnp.int32), shapes.of_tree(inputs, layout), ()
