"""What compiled steps may read of a recipe, and which recipes therefore share programs."""

import dataclasses

import jax
import pytest
from test_step import MODEL, make_inputs, make_state, mapped_chunk, teachers, views

from delt_jax.errors import UserError
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery.program import StepProgram, StepSettings, active_of, step_settings
from delt_jax.recovery.run import driver

RECIPE = RecoverRecipe()
# What says how a recovery is driven, scheduled or stored, or is in the terms' constants.
UNREAD = {
    "iterations": 8,
    "round_iterations": 2,
    "min_iterations": 4,
    "batch_size": 10,
    "layout": "one_per_class",
    "statistics_momentum": 0.1,
    "conv_drop": 0.5,
    "round_robin": True,
    "storage": "jpeg75",
    "dtype": "bfloat16",
    "chunk_steps": 7,
    "batches_per_device": 3,
    "save_minutes": 1.0,
    "profile_chunks": 2,
}
READ = {
    "optimiser": "outside.steps:sign",
    "learning_rate": 0.5,
    "bn_weight": 0.5,
    "bn_variance_weight": 2.0,
    "first_bn_multiplier": 3.0,
    "terms": ("barycentre=2",),
    "perturbation": 0.1,
    "perturbation_steps": 3,
    "residual": 0.5,
    "residual_rounds": 2,
    "curriculum": "linear",
    "milestone": 0.5,
    "min_scale": 0.5,
    "jitter": 4,
    "jitter_both_ways": True,
    "crop_padding": 4,
    "flip": False,
    "crop": "image",
    "clock": "image",
}


def test_every_setting_is_read_or_not():
    """A new setting of recovery must be sorted into one of the two."""
    names = {field.name for field in dataclasses.fields(RecoverRecipe)}
    assert set(UNREAD).isdisjoint(READ)
    assert names == set(UNREAD) | set(READ)
    assert {field.name for field in dataclasses.fields(StepSettings)} == {*READ}


@pytest.mark.parametrize("name", UNREAD)
def test_recipes_share_programs_but_for_what_steps_read(name):
    other = dataclasses.replace(RECIPE, **{name: UNREAD[name]})
    ours, theirs = (step_settings(recipe, flip=True) for recipe in (RECIPE, other))
    assert ours == theirs
    compiled = [driver.compile_chunk(StepProgram((MODEL,), s, 3), 1, 1, 4) for s in (ours, theirs)]
    assert compiled[0] is compiled[1]


@pytest.mark.parametrize("name", READ)
def test_what_steps_read_makes_another_program(name):
    other = dataclasses.replace(RECIPE, **{name: READ[name]})
    ours, theirs = (step_settings(recipe, flip=True) for recipe in (RECIPE, other))
    assert getattr(ours, name) != getattr(theirs, name)
    compiled = [driver.compile_chunk(StepProgram((MODEL,), s, 3), 1, 1, 4) for s in (ours, theirs)]
    assert compiled[0] is not compiled[1]


@pytest.mark.parametrize(("of_data", "of_recovery"), [(True, True), (True, False), (False, True)])
def test_what_must_not_be_mirrored_is_not(of_data, of_recovery):
    recipe = dataclasses.replace(RECIPE, flip=of_recovery)
    assert step_settings(recipe, of_data).flip == (of_data and of_recovery)


def test_terms_are_names_and_weights():
    recipe = dataclasses.replace(RECIPE, terms=("barycentre=0.5", "densification"))
    assert step_settings(recipe, flip=True).terms == (("barycentre", 0.5), ("densification", 1.0))
    with pytest.raises(UserError, match="no term 'drift'"):
        step_settings(dataclasses.replace(RECIPE, terms=("drift",)), flip=True)


def test_the_number_of_iterations_is_an_input():
    """The step reads the batch's own, so that one program serves schedules of any length."""
    program = StepProgram((MODEL,), step_settings(RECIPE, flip=False), 3)
    run = jax.jit(mapped_chunk(program))
    moved = []
    for iterations in (12, 8):
        inputs = make_inputs()._replace(iterations=jax.numpy.int32(iterations))
        start = make_state(step=6)
        state, _ = run(start, (inputs, views(start, inputs)), teachers())
        moved.append(abs(state.images - make_state().images).max())
    assert run._cache_size() == 1
    assert moved[1] < 0.5 * moved[0]  # the rate is nearer to its end


def test_first_positions_are_a_count():
    assert [active_of(p) for p in ((), (0, 1, 2), (1, 2), (0, 2))] == [0, 3, (1, 2), (0, 2)]
