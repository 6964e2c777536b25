"""Shapes and types of what the compiled programs of recovery are given."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from delt_jax.core import keys
from delt_jax.models import ModelSpec
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views
from delt_jax.recovery.program import StepSettings
from delt_jax.recovery.types import BatchInputs, RecoverState, TeacherVariables


def of_inputs(settings: StepSettings, spec: ModelSpec, batch_size: int) -> BatchInputs:
    """Those of one batch's inputs, as `jax.ShapeDtypeStruct`; without parameters of its own."""
    numbers, bound = _array((batch_size,), jnp.int32), _array((spec.channels,))
    return BatchInputs(
        labels=numbers,
        ranks=numbers,
        start_iterations=numbers,
        end_iterations=numbers,
        iterations=_array((), jnp.int32),
        key=jax.eval_shape(lambda: keys.stream(0, "recover", 0)),
        low=bound,
        high=bound,
        starts=_images(spec, batch_size) if settings.residual else None,
    )


def of_state(settings: StepSettings, spec: ModelSpec, batch_size: int) -> RecoverState:
    """Those of one batch's state, without that of extra terms."""
    images = _images(spec, batch_size)
    return jax.eval_shape(lambda x: recovery_step.init_state(x, (), settings.optimiser), images)


def of_chunk(
    settings: StepSettings,
    spec: ModelSpec,
    teachers: Sequence[TeacherVariables],
    batch_size: int,
    count: int,
    lead: tuple[int, ...],
) -> tuple[Any, Any, Any]:
    """Arguments of a compiled chunk: states, (inputs, views), teachers.

    Args:
      settings: of the steps.
      spec: of one of the teachers.
      teachers: variables and constants, arrays or shapes.
      batch_size: images of a batch.
      count: of views that are drawn at once.
      lead: leading axes, of batches, of states, inputs and views.
    """
    term_state = jax.eval_shape(lambda: recovery_step.init_term_state(settings, teachers))
    state = of_state(settings, spec, batch_size).replace(term_state=term_state)
    inputs = of_inputs(settings, spec, batch_size)
    drawn = jax.eval_shape(
        lambda step, inputs: views.draw_views(step, inputs, settings, spec.image_size, count),
        state.step,
        inputs,
    )
    shared = of_tree(tuple(teachers))
    if settings.perturbation:
        inputs = inputs._replace(params=tuple(t.variables["params"] for t in shared))
    return of_tree(state, lead), of_tree((inputs, drawn), lead), shared


def of_tree(tree: Any, lead: tuple[int, ...] = ()) -> Any:
    """A pytree's shapes, with further leading axes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), tree)


def _images(spec: ModelSpec, batch_size: int) -> jax.ShapeDtypeStruct:
    return _array((batch_size, spec.image_size, spec.image_size, spec.channels))


def _array(dims: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)
