"""Device memory of recovery: what the compiler says a chunk needs, and what there is."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from delt_jax import engine, models, parallel, teacher
from delt_jax.engine import Job, RecoverState
from delt_jax.models import ModelSpec
from delt_jax.recipe import RecoverRecipe
from delt_jax.schedule import BatchSchedule

_USABLE = 0.85  # of the device's memory; the allocator needs room of its own
_MOST = 1024


def of_chunk(recipe: RecoverRecipe, spec: ModelSpec, batch: int, active: int, stack: int) -> int:
    """Bytes that a device needs at its peak, by the compiler's plan of the buffers.

    Args:
      recipe: of the recovery.
      spec: of the teacher, with the type of its activations.
      batch: images of a batch.
      active: of those, the ones that are optimised.
      stack: batches on the device.
    """

    def shape(dims, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((stack, *dims), dtype)

    images = shape((batch, spec.image_size, spec.image_size, spec.channels))
    states = RecoverState(shape((), jnp.int32), images, images, images)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), stack))
    bound = shape((spec.channels,))
    labels = shape((batch,), jnp.int32)
    jobs = Job(labels, labels, shape((), jnp.int32), key, bound, bound)
    chunk = functools.partial(
        engine.run_chunk,
        model=models.create(spec),
        recipe=recipe,
        flip=True,
        active=active,
        steps=1,
    )
    stacked = jax.jit(jax.vmap(chunk, in_axes=(0, 0, None)), donate_argnums=0)
    # Buffers are planned before LLVM optimises, which takes most of the time on CPU.
    quick: dict[str, str | bool] | None = (
        {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    )
    compiled = stacked.lower(states, jobs, teacher.init_shapes(spec)).compile(quick)
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
    most = max(schedule, key=lambda b: (max(len(r.active) for r in b.rounds), len(b.images)))
    return len(most.images), max(len(r.active) for r in most.rounds)


def per_stack(
    recipe: RecoverRecipe, spec: ModelSpec, schedule: Sequence[BatchSchedule]
) -> dict[int, int]:
    """Peak bytes of a device by batches on it: 1, 2, 4, ... while they fit and are of use.

    Two programs are compiled; the rest follows from them, as every batch adds the same. Only
    one entry where the device does not say how much memory it has.
    """
    batch, active = largest(schedule)
    one = of_chunk(recipe, spec, batch, active, 1)
    limit, share = parallel.memory_limit(), -(-len(schedule) // jax.device_count())
    if limit is None or share < 2:
        return {1: one}
    each = max(of_chunk(recipe, spec, batch, active, 2) - one, 1)
    choices, stack = {1: one}, 2
    while stack <= min(share, _MOST) and one + (stack - 1) * each <= _USABLE * limit:
        choices[stack] = one + (stack - 1) * each
        stack *= 2
    return choices
