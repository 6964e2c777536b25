"""Device memory of recovery: what the compiler says a chunk needs, and what there is."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as engine
from delt_jax.recovery.schedule import BatchSchedule, relabel_from_zero
from delt_jax.recovery.types import Job, RecoverState, TeacherVariables
from delt_jax.runtime import devices as parallel
from delt_jax.teachers import teacher as teacher_lib

_USABLE = 0.85  # of the device's memory; the allocator needs room of its own
_MOST = 1024


def of_chunk(
    recipe: RecoverRecipe,
    spec: ModelSpec,
    batch: int,
    active: int,
    stack: int,
    constants: tuple[Any, ...] = (),
    classes: tuple[int, ...] = (),
) -> int:
    """Bytes that a device needs at its peak, by the compiler's plan of the buffers.

    Args:
      recipe: of the recovery.
      spec: of the teacher, with the type of its activations.
      batch: images of a batch.
      active: of those, the ones that are optimised.
      stack: batches on the device.
      constants: of each further term with this teacher; without them such terms do not count.
      classes: number of each image's class in the batch, where there are further terms.
    """
    if not constants:
        recipe = replace(recipe, terms=())

    def shape(dims, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((stack, *dims), dtype)

    images = shape((batch, spec.image_size, spec.image_size, spec.channels))
    term_state = jax.eval_shape(lambda: engine.init_term_state(recipe, [constants]))
    term_state = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), term_state)
    states = RecoverState(shape((), jnp.int32), images, images, images, term_state)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), stack))
    bound = shape((spec.channels,))
    labels = shape((batch,), jnp.int32)
    starts = images if recipe.residual else None
    jobs = Job(labels, labels, labels, shape((), jnp.int32), key, bound, bound, starts)
    chunk = functools.partial(
        engine.run_chunk,
        models=(models.create(spec),),
        recipe=recipe,
        flip=True,
        active=active,
        steps=1,
        classes=classes,
    )
    stacked = jax.jit(jax.vmap(chunk, in_axes=(0, 0, None)), donate_argnums=0)
    # Buffers are planned before LLVM optimises, which takes most of the time on CPU.
    quick: dict[str, str | bool] | None = (
        {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    )
    guide = TeacherVariables(teacher_lib.init_shapes(spec), constants)
    compiled = stacked.lower(states, jobs, (guide,)).compile(quick)
    plan = compiled.memory_analysis()
    if plan is None:
        return 0
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def largest(schedule: Sequence[BatchSchedule]) -> tuple[int, int]:
    """Images and active images of the batch that needs most."""
    most = _largest(schedule)
    return len(most.images), max(len(r.active) for r in most.rounds)


def _largest(schedule: Sequence[BatchSchedule]) -> BatchSchedule:
    return max(schedule, key=lambda b: (max(len(r.active) for r in b.rounds), len(b.images)))


def per_stack(
    recipe: RecoverRecipe,
    specs: Sequence[ModelSpec],
    schedule: Sequence[BatchSchedule],
    constants: Sequence[tuple[Any, ...]] = (),
) -> dict[int, int]:
    """Peak bytes of a device by batches on it: 1, 2, 4, ... while they fit and are of use.

    Two programs are compiled for each teacher; the rest follows from them, as every batch adds
    the same. Only one entry where the device does not say how much memory it has.

    Args:
      recipe: of the recovery.
      specs: of the teachers that take turns.
      schedule: all batches.
      constants: of further terms, by teacher; without them such terms do not count.
    """
    one = _of_turns(recipe, specs, schedule, constants, 1)
    limit, share = parallel.memory_limit(), -(-len(schedule) // jax.device_count())
    # Batches with weights of their own go one after the other: no use in more of them at once.
    if limit is None or share < 2 or recipe.perturbation:
        return {1: one}
    each = max(_of_turns(recipe, specs, schedule, constants, 2) - one, 1)
    choices, stack = {1: one}, 2
    while stack <= min(share, _MOST) and one + (stack - 1) * each <= _USABLE * limit:
        choices[stack] = one + (stack - 1) * each
        stack *= 2
    return choices


def _of_turns(
    recipe: RecoverRecipe,
    specs: Sequence[ModelSpec],
    schedule: Sequence[BatchSchedule],
    constants: Sequence[tuple[Any, ...]],
    stack: int,
) -> int:
    """Peak bytes while teachers take turns: of the greediest, and what the others hold."""
    batch, active = largest(schedule)
    classes = relabel_from_zero(_largest(schedule).labels)
    held, peaks = [], []
    for spec, each in zip(specs, constants or [()] * len(specs), strict=True):
        peaks.append(of_chunk(recipe, spec, batch, active, stack, each, classes))
        leaves = jax.tree.leaves((teacher_lib.init_shapes(spec), each))
        held.append(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
    return max(peak + sum(held) - own for peak, own in zip(peaks, held, strict=True))
