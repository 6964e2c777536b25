"""Masked programs: what a round's own program computes, whatever lies in the images that wait."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from costly import costly
from test_step import MODEL, SETTINGS, SIZE, arrays, normal, variables

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.models.norm import input_moments
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views as views_lib
from delt_jax.recovery.program import StepProgram, active_of
from delt_jax.recovery.schedule import make_schedule
from delt_jax.recovery.types import BatchInputs, TeacherVariables
from delt_jax.teachers import teacher as teacher_lib

OTHER_SPEC = ModelSpec("conv3", 5, SIZE, 3, width=4)
OTHER = models.create(OTHER_SPEC)
PLAIN = make_schedule(3, 2, 4, 2, 6)[0]
BUDGETS = make_schedule(2, 3, 6, 2, 6, class_iterations=(4, 6))[0]
ALL_AT_ONCE = dataclasses.replace(
    SETTINGS, crop="image", clock="image", residual=0.3, residual_rounds=2, jitter=2
)


def test_weighted_moments_are_those_of_the_images_that_weigh():
    x, centre = jnp.asarray(normal(5, 3, 3, 4)) + 2, jnp.full(4, 1.5)
    weights = jnp.array([0, 0.5, 0, 0.5, 0], jnp.float32)
    ours, expected = input_moments(x, centre, weights), input_moments(x[jnp.array([1, 3])], centre)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5)
    flat = input_moments(x[:, 0, 0], centre, weights)
    chex.assert_trees_all_close(flat, input_moments(x[jnp.array([1, 3]), 0, 0], centre), rtol=1e-5)


@functools.cache
def teachers():
    draw = np.random.default_rng(2)
    shapes = teacher_lib.init_shapes(OTHER_SPEC)
    other = jax.tree.map(lambda s: jnp.float32(0.3 + 0.3 * draw.random(s.shape)), shapes)
    return TeacherVariables(variables()), TeacherVariables(other)


def inputs_of(batch, settings, seed=0):
    start = jnp.asarray(normal(len(batch.indices), SIZE, SIZE, 3, seed=seed))
    inputs = BatchInputs(
        labels=jnp.array(batch.labels, jnp.int32),
        ranks=jnp.zeros(len(batch.indices), jnp.int32),
        start_iterations=jnp.array(batch.start_iterations, jnp.int32),
        end_iterations=jnp.array(batch.end_iterations, jnp.int32),
        iterations=jnp.int32(batch.iterations),
        key=jax.random.key(seed),
        low=jnp.full(3, -3.0),
        high=jnp.full(3, 3.0),
        starts=start if settings.residual else None,
    )
    return recovery_step.init_state(start), inputs


@functools.cache
def compiled(program, stacked):
    chunk = functools.partial(recovery_step.run_chunk, program)
    return jax.jit(jax.vmap(chunk, in_axes=(0, 0, 0, None)) if stacked else chunk)


def recovered(batch, settings, masked, seeds, count=1):
    """States after every round, and all losses, of batches side by side."""
    both = [inputs_of(batch, settings, seed) for seed in seeds]
    state, inputs = jax.tree.map(lambda *x: jnp.stack(x) if len(x) > 1 else x[0], *both)
    draw = functools.partial(views_lib.draw_views, settings=settings, size=SIZE, count=6)
    first = jnp.zeros(len(seeds), jnp.int32)
    views = jax.vmap(draw)(first, inputs) if len(seeds) > 1 else draw(first[0], inputs)
    states, losses = [], []
    for rnd in batch.rounds:
        active = 6 if masked else active_of(rnd.active)
        program = StepProgram(
            (MODEL, OTHER)[:count], settings, active, rnd.iterations, masked=masked
        )
        run = compiled(program, len(seeds) > 1)
        state, now = run(state, inputs, views, teachers()[:count])
        states.append(state)
        losses.append(now)
    return states, losses


@pytest.mark.parametrize(
    ("batch", "settings", "count", "seeds"),
    [(PLAIN, SETTINGS, 1, (0,)), costly(BUDGETS, ALL_AT_ONCE, 2, (0, 1))],
)
def test_a_masked_program_is_every_rounds_own_up_to_rounding(batch, settings, count, seeds):
    """The second has crops and clocks of images, residuals, budgets, two teachers, two batches."""
    assert len({r.active for r in batch.rounds}) > 1
    ours, theirs = (recovered(batch, settings, m, seeds, count) for m in (True, False))
    chex.assert_trees_all_close(ours[1], theirs[1], rtol=1e-4)
    for state, expected in zip(ours[0], theirs[0], strict=True):
        # Adam divides by the gradient's size, which makes rounding visible where it is tiny.
        chex.assert_trees_all_close(state, expected, atol=5e-4)
    assert np.abs(np.asarray(ours[0][0].images - inputs_of(batch, settings)[0].images)).max() > 0.1


def test_what_waits_neither_changes_nor_matters():
    _, inputs = state, _ = inputs_of(BUDGETS, SETTINGS)
    state = state.replace(step=jnp.int32(4))  # some are frozen, others wait
    takes_part = (inputs.start_iterations <= 4) & (inputs.end_iterations > 4)
    assert 0 < takes_part.sum() < 6
    garbage = jnp.where(takes_part, 0.0, 3e38)[:, None, None, None]
    view = views_lib.draw_view(state.step, inputs, SETTINGS, SIZE)
    program = StepProgram((MODEL,), SETTINGS, 6, masked=True)
    update = jax.jit(functools.partial(recovery_step.update, program))
    other = state.replace(**{name: x + garbage for name, x in arrays(state).items()})
    ours, theirs = (update(s, inputs, view, teachers()[:1]) for s in (state, other))
    chex.assert_trees_all_equal(ours[1:], theirs[1:])
    for name in ("images", "mu", "nu"):
        new, same, old = (getattr(s, name) for s in (theirs[0], ours[0], other))
        chex.assert_trees_all_equal(new[~takes_part], old[~takes_part])
        chex.assert_trees_all_equal(new[takes_part], same[takes_part])
    assert (ours[0].images[takes_part] != state.images[takes_part]).any()
