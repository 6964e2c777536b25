"""The views of recovery: drawn for many iterations at once, in a program of their own.

A view is a function of the batch's key, the iteration and the images' clocks. Nothing in it depends
on teachers or on which images take part, so one small program serves all rounds of a batch.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.augment import crop
from delt_jax.recovery.active import take
from delt_jax.recovery.program import StepSettings
from delt_jax.recovery.types import Active, BatchInputs, Clock


class Views(NamedTuple):
    """The views of some iterations in a row of one batch.

    Attributes:
      first: int32 scalar, the iteration of the first view.
      drawn: with a leading axis of iterations; where images have views of their own, an axis of all
        B images follows.
    """

    first: chex.Array
    drawn: crop.View


def curriculum(settings: StepSettings, t: chex.Array, total: chex.Array) -> chex.Array:
    """Smallest area of a crop at iteration t of T (CDA, arXiv 2311.18838).

    Falls from 1 to `min_scale` over the first `milestone` of the iterations.

    Args:
      settings: of the step.
      t: int32 [n].
      total: int32 [n], T.

    Returns:
      float32 [n].
    """
    span = 1.0 - settings.min_scale
    if settings.milestone == 0:
        return jnp.full(jnp.shape(t), settings.min_scale, jnp.float32)
    end = settings.milestone * total
    # By the reciprocal: whether XLA does so depends on the device count, and results must be
    # bit-identical.
    share = t * (1.0 / end)
    bound = {
        "cosine": settings.min_scale + span * 0.5 * (1.0 + jnp.cos(jnp.pi * share)),
        "linear": settings.min_scale + span * (1.0 - share),
        "step": jnp.ones_like(share),
    }[settings.curriculum]
    return jnp.where(t < end, bound, settings.min_scale).astype(jnp.float32)


def clocks(step: chex.Array, inputs: BatchInputs, settings: StepSettings) -> Clock:
    """All images' clocks, which count from the batch's start or from each image's own.

    The clock of an image that has not joined yet stands at 0.

    Args:
      step: int32 scalar, the batch's iterations so far.
      inputs: of the batch.
      settings: of the step.
    """
    start = inputs.start_iterations
    if settings.clock == "batch":
        start = jnp.zeros_like(start)
    return Clock(done=jnp.maximum(step - start, 0), total=inputs.iterations - start)


def draw_view(
    step: chex.Array, inputs: BatchInputs, settings: StepSettings, size: int
) -> crop.View:
    """Draws an iteration's view of images of size x size pixels.

    One view for the batch, or one for each of its B images if `settings.crop` is "image" or if
    images count their own time (then the crop's scale differs, though the draw may be shared).
    """
    key = jax.random.fold_in(inputs.key, step)
    scale = curriculum(settings, *clocks(step, inputs, settings))
    shifts = (-settings.jitter if settings.jitter_both_ways else 0, settings.jitter)

    def draw(key, scale):
        return crop.random_view(key, size, scale, settings.flip, shifts, settings.crop_padding)

    if settings.crop == "image":
        positions = jnp.arange(len(scale))
        return jax.vmap(draw)(jax.vmap(lambda i: jax.random.fold_in(key, i))(positions), scale)
    if settings.clock == "image":
        return jax.vmap(lambda s: draw(key, s))(scale)
    return draw(key, scale[0])


def draw_views(
    first: chex.Array, inputs: BatchInputs, settings: StepSettings, size: int, count: int
) -> Views:
    """Draws the views of `count` iterations from `first` on, as `draw_view` draws each."""
    steps = first + jnp.arange(count, dtype=jnp.int32)
    return Views(first, jax.vmap(lambda step: draw_view(step, inputs, settings, size))(steps))


def view_at(views: Views, step: chex.Array, active: Active) -> crop.View:
    """The active images' view of an iteration, which must be among those drawn."""
    view = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, step - views.first, keepdims=False), views.drawn
    )
    return of_active(view, active)


def of_active(view: crop.View, active: Active) -> crop.View:
    """The active images' part of an iteration's view."""
    if view.box.ndim == 1:  # shared by the batch
        return view
    return jax.tree.map(lambda x: take(x, active), view)
