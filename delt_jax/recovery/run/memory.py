"""Device memory of recovery: what the compiler says a chunk needs, and what there is."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram, StepSettings
from delt_jax.recovery.run import chunks, shapes
from delt_jax.recovery.run.sizes import padded_size
from delt_jax.recovery.schedule import BatchSchedule, relabel_from_zero
from delt_jax.recovery.types import TeacherVariables
from delt_jax.runtime import devices
from delt_jax.teachers import teacher as teacher_lib

USABLE = 0.85  # share of the device's memory; the allocator needs the rest
_MOST = 1024  # batches on a device


def of_chunk(
    program: StepProgram,
    spec: ModelSpec,
    teacher: TeacherVariables,
    batch_size: int,
    batches_per_device: int,
) -> int:
    """Bytes that a device needs at its peak, by the compiler's plan of the buffers.

    Args:
      program: with the model of one teacher.
      spec: of that teacher, with the type of its activations.
      teacher: its variables and constants, arrays or shapes.
      batch_size: images of a batch.
      batches_per_device: batches on the device at once.
    """

    count = chunks.views_at_once(program.steps)
    states, (inputs, views), teachers = shapes.of_chunk(
        program.settings, spec, (teacher,), batch_size, count, (batches_per_device,)
    )
    jobs = inputs._replace(params=None), views  # those that vary would be grouped convolutions

    def chunk(state, job, teachers):
        return recovery_step.run_chunk(program, state, *job, teachers)

    stacked = jax.jit(jax.vmap(chunk, in_axes=(0, 0, None)), donate_argnums=0)
    # Buffers are planned before LLVM optimises, which takes most of the time on CPU.
    quick: dict[str, str | bool] | None = (
        {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    )
    plan = stacked.lower(states, jobs, teachers).compile(quick).memory_analysis()
    if plan is None:
        return 0
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def largest(schedule: Sequence[BatchSchedule], sizes: Sequence[int] = ()) -> BatchSchedule:
    """The batch that needs most memory: that of which most images are computed at once.

    Args:
      schedule: of all batches.
      sizes: of masked programs; empty for exact ones.
    """
    return max(schedule, key=lambda b: (_most_computed(b, sizes), len(b.indices)))


def _most_computed(batch: BatchSchedule, sizes: Sequence[int]) -> int:
    if not sizes:
        return max(len(r.active) for r in batch.rounds)
    return max(padded_size(r, len(batch.indices), sizes) for r in batch.rounds)


def peak_bytes(
    settings: StepSettings,
    specs: Sequence[ModelSpec],
    schedule: Sequence[BatchSchedule],
    teachers: Sequence[TeacherVariables] = (),
    sizes: Sequence[int] = (),
) -> dict[int, int]:
    """Peak bytes of a device by batches on it: 1, 2, 4, ... while they fit and are of use.

    Two programs are compiled for each teacher; the rest follows from them, as every batch adds
    the same. Only one entry where the device does not say how much memory it has.

    Args:
      settings: of the step.
      specs: of the teachers, with the type of their activations.
      schedule: of all batches.
      teachers: variables and constants of the teachers; if left out, their shapes follow from the
        specs, and extra terms, whose constants are not known then, do not count.
      sizes: of masked programs; empty for exact ones.
    """
    if not teachers:
        settings = replace(settings, terms=())
        teachers = [TeacherVariables(teacher_lib.init_shapes(spec)) for spec in specs]
    batch = largest(schedule, sizes)
    peak = functools.partial(
        _round_robin_peak,
        StepProgram((), settings, _most_computed(batch, sizes), masked=bool(sizes)),
        specs,
        teachers,
        batch,
    )
    one = peak(1)
    limit, share = devices.memory_limit(), -(-len(schedule) // jax.device_count())
    # Batches with their own parameters run one after the other: more at once are of no use.
    if limit is None or share < 2 or settings.perturbation:
        return {1: one}
    each = max(peak(2) - one, 1)
    peaks, batches = {1: one}, 2
    while batches <= min(share, _MOST) and one + (batches - 1) * each <= USABLE * limit:
        peaks[batches] = one + (batches - 1) * each
        batches *= 2
    return peaks


def _round_robin_peak(
    program: StepProgram,
    specs: Sequence[ModelSpec],
    teachers: Sequence[TeacherVariables],
    batch: BatchSchedule,
    batches_per_device: int,
) -> int:
    """Peak bytes over the teachers: of one at work, and what the others hold meanwhile.

    The program's models and classes are not read.
    """
    classes = relabel_from_zero(batch.labels)
    held, peaks = [], []
    for spec, teacher in zip(specs, teachers, strict=True):
        own = replace(program, models=(models.create(spec),), classes=classes)
        peaks.append(of_chunk(own, spec, teacher, len(batch.indices), batches_per_device))
        held.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(teacher)))
    return max(peak + sum(held) - own for peak, own in zip(peaks, held, strict=True))
