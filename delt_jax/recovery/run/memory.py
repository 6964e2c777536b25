"""Device memory of recovery: what the compiler says a chunk needs, and what there is."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram, StepSettings
from delt_jax.recovery.schedule import BatchSchedule, relabel_from_zero
from delt_jax.recovery.types import BatchInputs, RecoverState, TeacherVariables
from delt_jax.runtime import devices
from delt_jax.teachers import teacher as teacher_lib

_USABLE = 0.85  # share of the device's memory; the allocator needs the rest
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

    def shape(dims, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((batches_per_device, *dims), dtype)

    settings = program.settings
    images = shape((batch_size, spec.image_size, spec.image_size, spec.channels))
    term_state = jax.eval_shape(lambda: recovery_step.init_term_state(settings, [teacher]))
    term_state = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), term_state)
    states = RecoverState(shape((), jnp.int32), images, images, images, term_state)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batches_per_device))
    bound = shape((spec.channels,))
    labels = shape((batch_size,), jnp.int32)
    starts = images if settings.residual else None
    inputs = BatchInputs(labels, labels, labels, shape((), jnp.int32), key, bound, bound, starts)
    chunk = functools.partial(recovery_step.run_chunk, program)
    stacked = jax.jit(jax.vmap(chunk, in_axes=(0, 0, None)), donate_argnums=0)
    # Buffers are planned before LLVM optimises, which takes most of the time on CPU.
    quick: dict[str, str | bool] | None = (
        {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    )
    plan = stacked.lower(states, inputs, (teacher,)).compile(quick).memory_analysis()
    if plan is None:
        return 0
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def largest(schedule: Sequence[BatchSchedule]) -> BatchSchedule:
    """The batch that needs most memory: that of the most active images."""
    return max(schedule, key=lambda b: (_most_active(b), len(b.indices)))


def _most_active(batch: BatchSchedule) -> int:
    return max(len(r.active) for r in batch.rounds)


def peak_bytes(
    settings: StepSettings,
    specs: Sequence[ModelSpec],
    schedule: Sequence[BatchSchedule],
    teachers: Sequence[TeacherVariables] = (),
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
    """
    if not teachers:
        settings = replace(settings, terms=())
        teachers = [TeacherVariables(teacher_lib.init_shapes(spec)) for spec in specs]
    peak = functools.partial(_round_robin_peak, settings, specs, teachers, largest(schedule))
    one = peak(1)
    limit, share = devices.memory_limit(), -(-len(schedule) // jax.device_count())
    # Batches with their own parameters run one after the other: more at once are of no use.
    if limit is None or share < 2 or settings.perturbation:
        return {1: one}
    each = max(peak(2) - one, 1)
    peaks, batches = {1: one}, 2
    while batches <= min(share, _MOST) and one + (batches - 1) * each <= _USABLE * limit:
        peaks[batches] = one + (batches - 1) * each
        batches *= 2
    return peaks


def _round_robin_peak(
    settings: StepSettings,
    specs: Sequence[ModelSpec],
    teachers: Sequence[TeacherVariables],
    batch: BatchSchedule,
    batches_per_device: int,
) -> int:
    """Peak bytes over the teachers: of one at work, and what the others hold meanwhile."""
    active, classes = _most_active(batch), relabel_from_zero(batch.labels)
    held, peaks = [], []
    for spec, teacher in zip(specs, teachers, strict=True):
        program = StepProgram((models.create(spec),), settings, active, classes=classes)
        peaks.append(of_chunk(program, spec, teacher, len(batch.indices), batches_per_device))
        held.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(teacher)))
    return max(peak + sum(held) - own for peak, own in zip(peaks, held, strict=True))
