"""Extra terms, teachers in round robin: what a step does with them, and what it keeps."""

import dataclasses
import functools
import itertools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import BATCH, MODEL, SIZE, make_inputs, make_state, normal, variables, views
from tiny_run import manifest, recovered, stop_after, tiny

from delt_jax import config as config_lib
from delt_jax import models, terms
from delt_jax.augment import crop
from delt_jax.core import losses as losses_lib
from delt_jax.core.losses import Moments
from delt_jax.core.stopping import Stopped
from delt_jax.data import open_source
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec
from delt_jax.models.tap import TappedNetwork, apply_tapped
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram, step_settings
from delt_jax.recovery.run import checkpoint, memory
from delt_jax.recovery.run.checkpoint import BatchCheckpoint
from delt_jax.recovery.run.loss_history import columns, of_columns
from delt_jax.recovery.types import Losses, RecoverState, TeacherVariables, TermInputs
from delt_jax.runtime import devices
from delt_jax.stages import recover
from delt_jax.store import workdir
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.terms import Term, asked

SPEC = ModelSpec("conv3", 5, SIZE, 3, width=8)
OTHER = models.create(dataclasses.replace(SPEC, width=4))
PLAIN = step_settings(RecoverRecipe(learning_rate=0.1, bn_weight=0.1), flip=True)
SETTINGS = dataclasses.replace(PLAIN, terms=(("drift", 0.5),))
CLASSES = (0, 1, 1, 0)
FULL = crop.full_view(SIZE)
run_chunk = jax.jit(recovery_step.run_chunk, static_argnums=0)


def drift_value(seen, constants, term_state):
    """Distance of the features' running mean from a constant, with noise, over local classes."""
    groups = max(seen.classes) + 1
    mean = sum(seen.features[i].mean() * (c + 1) for i, c in enumerate(seen.classes)) / groups
    mean = mean + seen.ranks.sum() + 0.1 * jax.random.normal(seen.key)
    mean = mean + sum(x.astype(jnp.float32).mean() for x in seen.conv_inputs + seen.norm_inputs)
    now = jnp.where(term_state["begun"], 0.8 * term_state["mean"] + 0.2 * mean, mean)
    value = (now + (mean - jax.lax.stop_gradient(mean)) - constants.mean()) ** 2
    return value, {"begun": jnp.ones_like(term_state["begun"]), "mean": now}


DRIFT = Term(
    drift_value,
    prepare=lambda teacher, source, recipe, cache: np.float32(3 + teacher.accuracy),
    init=lambda constants: {"begun": np.zeros((), bool), "mean": np.float32(0)},
)


@pytest.fixture(autouse=True)
def drift(monkeypatch):
    """A term called "drift" beside those that there are."""
    real = terms.find
    monkeypatch.setattr(terms, "find", lambda name: DRIFT if name == "drift" else real(name))


@functools.cache
def other_variables():
    shapes = teacher_lib.init_shapes(dataclasses.replace(SPEC, width=4))
    return jax.tree.map(lambda s: jnp.float32(0.5 + 0.1 * normal(*s.shape)), shapes)


def teachers(count=1):
    given = (
        TeacherVariables(variables(), (np.float32(3),)),
        TeacherVariables(other_variables(), (np.float32(1),)),
    )
    return given[:count]


def state_of(count=1):
    term_state = recovery_step.init_term_state(SETTINGS, teachers(count))
    return make_state().replace(term_state=term_state)


def inputs():
    return make_inputs()._replace(ranks=jnp.array([0, 0, 1, 1], jnp.int32))


def chunk(state, steps, first=0, count=1, active=4):
    program = StepProgram((MODEL, OTHER)[:count], SETTINGS, active, steps, CLASSES, first)
    return run_chunk(program, state, inputs(), views(state, inputs()), teachers(count))


# The engine


def test_the_tap_sees_what_convolutions_and_the_last_layer_are_given():
    images = normal(BATCH, SIZE, SIZE, 3)
    seen = jax.jit(functools.partial(apply_tapped, MODEL))(variables(), images)
    chex.assert_trees_all_equal(seen.conv_inputs[0], images)
    assert [x.shape[1:] for x in seen.conv_inputs] == [(8, 8, 3), (4, 4, 8), (2, 2, 8)]
    assert [x.shape[1:] for x in seen.norm_inputs] == [(8, 8, 8), (4, 4, 8), (2, 2, 8)]
    dense = variables()["params"]["classifier"]
    chex.assert_trees_all_close(
        seen.features @ dense["kernel"] + dense["bias"], seen.logits, rtol=1e-5, atol=1e-5
    )


def test_a_term_is_weighed_differentiated_and_carried_on():
    images, labels, key = make_state().images, inputs().labels, jax.random.key(3)
    (term_state,) = state_of().term_state
    constants = teachers()[0].constants
    teacher = TappedNetwork(MODEL, variables())

    @functools.partial(jax.jit, static_argnames=("weight",))
    def gradient(images, weight=None):
        if weight is None:
            return jax.value_and_grad(recovery_step.loss, has_aux=True)(
                images, labels, FULL, teacher, PLAIN
            )
        weighted = dataclasses.replace(PLAIN, terms=(("drift", weight),))
        term_inputs = TermInputs(inputs().ranks, CLASSES, key, constants, term_state)
        return jax.value_and_grad(recovery_step.loss, has_aux=True)(
            images, labels, FULL, teacher, weighted, term_inputs
        )

    (without, (losses, layers, none)), base = gradient(images)
    assert (float(losses.further), none) == (0, ())
    (once, (first, same, after)), one = gradient(images, weight=1)
    (twice, (second, _, _)), two = gradient(images, weight=2)
    chex.assert_trees_all_equal(layers, same)
    assert float(first.further) > 1e-3
    chex.assert_trees_all_equal(first.terms, {"drift": first.further}, second.terms)
    chex.assert_trees_all_close(second.further, 2 * first.further, rtol=1e-6)
    chex.assert_trees_all_close([once, twice], [without + i * first.further for i in (1, 2)])
    assert float(jnp.abs(one - base).max()) > 1e-4
    chex.assert_trees_all_close(two - base, 2 * (one - base), rtol=1e-2, atol=1e-5)
    assert bool(after[0]["begun"])


def test_the_state_of_terms_changes_the_next_iteration():
    state, losses = chunk(state_of(), 2)
    first, alone = chunk(state_of(), 1)
    fresh = first.replace(term_state=state_of().term_state)
    again, forgotten = chunk(fresh, 1)
    chex.assert_trees_all_close(losses.further[0], alone.further[0], rtol=1e-4)
    assert abs(float(losses.further[1] - forgotten.further[0])) > 1e-4
    assert (np.asarray(again.images) != np.asarray(state.images)).any()


def test_teachers_guide_in_round_robin():
    """In one call or many, from any phase; five are two rounds in a loop and one more."""
    steps = 5
    together, losses = chunk(state_of(2), steps, first=1, count=2)
    state, alone = state_of(2), []
    for t in range(steps):
        state, one = chunk(state, 1, first=(1 + t) % 2, count=2)
        alone.append(one)
    chex.assert_shape(jax.tree.leaves(losses), (steps,))
    expected = jax.tree.map(lambda *x: jnp.concatenate(x), *alone)
    chex.assert_trees_all_close(losses, expected, rtol=1e-3)
    chex.assert_trees_all_close(together.images, state.images, rtol=1e-3, atol=1e-3)
    chex.assert_trees_all_close(together.term_state, state.term_state, rtol=1e-3)


def test_a_turn_is_that_teachers_alone():
    alone = TeacherVariables(other_variables(), teachers(2)[1].constants)
    state = make_state().replace(term_state=(state_of(2).term_state[1],))
    program = StepProgram((OTHER,), SETTINGS, 3, classes=CLASSES)
    expected, _ = run_chunk(program, state, inputs(), views(state, inputs()), (alone,))
    ours, _ = chunk(state_of(2), 1, first=1, count=2, active=3)
    chex.assert_trees_all_equal(ours.images, expected.images)
    chex.assert_trees_all_equal(
        ours.term_state, (state_of(2).term_state[0], expected.term_state[0])
    )


def test_variances_count_as_often_as_asked():
    ours, real = (Moments(normal(4, seed=i), normal(4, seed=i + 1)) for i in (0, 2))
    mean, variance = (np.linalg.norm(a - b) for a, b in zip(ours, real, strict=True))
    terms_of = [float(losses_lib.bn_terms([ours], [real], w)[0]) for w in (0.0, 1.0, 3.0)]
    assert terms_of == pytest.approx([mean, mean + variance, mean + 3 * variance], rel=1e-5)


# Asking for them


def test_terms_are_asked_for_by_name_and_weight():
    assert asked(("drift=0.25", "drift2=1")[:1]) == (("drift", 0.25),)
    assert asked(["drift"]) == (("drift", 1.0),)
    for wrong in ("drift=", "drift=0", "drift=-1", "drift=inf", "drift=x"):
        with pytest.raises(UserError, match=f"{wrong}.*must be a finite number above 0"):
            asked([wrong])
    with pytest.raises(UserError, match="names 'drift' twice"):
        asked(["drift", "drift=2"])
    with pytest.raises(UserError, match=r"no term 'bary' for recover.terms"):
        config_lib.from_config(tiny(**{"recover.terms": ("bary=1",)}))
    listed = config_lib.from_config(tiny(**{"recover.terms": ("drift=2",)}))
    assert listed.recover.terms == ("drift=2",)


# Checkpoints


def kept_batch(term_state):
    images = normal(2, 4, 4, 1)
    curves = Losses(*(normal(3, seed=i) for i in range(4)))
    state = RecoverState(np.int32(3), images, images + 1, images + 2, term_state)
    return BatchCheckpoint(state, curves, 1.5)


def test_the_state_of_terms_is_saved_bit_for_bit(tmp_path):
    term_state = (({"a": normal(5), "b": np.ones((), bool)}, ()), ({"a": normal(2, 2)},))
    batch = kept_batch(term_state)
    checkpoint.save(tmp_path, 4, batch)
    like = jax.tree.map(np.zeros_like, batch.state)
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, 4, like), batch)
    other = like.replace(term_state=(*like.term_state, (np.zeros(1),)))
    with pytest.raises(CorruptCheckpoint):
        checkpoint.restore(tmp_path, 4, other)


def test_losses_of_before_terms_had_columns_are_read(tmp_path):
    batch = kept_batch(())
    checkpoint.save(tmp_path, 4, batch)
    ours = checkpoint.restore(tmp_path, 4, jax.tree.map(np.zeros_like, batch.state), ["drift"])
    assert np.isnan(ours.losses.terms["drift"]).all()
    chex.assert_trees_all_equal(ours.losses._replace(terms={}), batch.losses)
    older = {k: v for k, v in columns(ours.losses).items() if k != "term.drift"}
    chex.assert_trees_all_equal(of_columns(older), batch.losses)
    chex.assert_trees_all_equal(of_columns(columns(ours.losses), ["drift"]), ours.losses)


# Whole recoveries


IN_TURN = {
    "recover.round_robin": True,
    "recover.terms": ("drift=0.1",),
    "teacher.others": ("conv3",),
}


@pytest.fixture
def in_turn(tiny_ranked, tmp_path, monkeypatch):
    """The same with a second teacher beside the first."""
    first = teacher_lib.load(tiny_ranked / "teacher")
    moved = jax.tree.map(lambda x: 1.01 * x, first.variables)
    second = dataclasses.replace(first, variables=moved, hash="second")
    monkeypatch.setattr(teacher_lib, "load_others", lambda folder: (second,))
    return shutil.copytree(tiny_ranked, tmp_path / "run")


@pytest.mark.exhaustive  # the state of terms is saved bit for bit above
def test_a_kill_changes_nothing(in_turn, tmp_path, monkeypatch):
    undisturbed = shutil.copytree(in_turn, tmp_path / "whole")
    images = recovered(undisturbed, **IN_TURN)
    assert manifest(undisturbed)["other_teachers"][0]["hash"] == "second"
    monkeypatch.setattr(devices, "device_count", lambda: 8)
    with monkeypatch.context() as m:
        stop_after(m, 3)
        with pytest.raises(Stopped):
            recovered(in_turn, **IN_TURN)
    assert len(list((in_turn / "distilled.partial").glob("state_*"))) == 5
    monkeypatch.setattr(devices, "device_count", lambda: 1)
    chex.assert_trees_all_equal(recovered(in_turn, **IN_TURN), images)
    with (
        np.load(undisturbed / "distilled/losses.npz") as old,
        np.load(in_turn / "distilled/losses.npz") as new,
    ):
        assert (old["further"] > 0).all()
        np.testing.assert_allclose(0.1 * old["term.drift"], old["further"], rtol=1e-6)
        chex.assert_trees_all_equal(dict(old), dict(new))


def test_alone_there_is_no_turn_to_take():
    with pytest.raises(UserError, match=r"take turns, but teacher\.others is empty"):
        config_lib.from_config(tiny(**{"recover.round_robin": True}))


def test_teachers_in_turn_take_the_same_images(in_turn, monkeypatch):
    (second,) = teacher_lib.load_others(in_turn)
    other = dataclasses.replace(second, normalisation=type(second.normalisation)((0.5,), (0.25,)))
    monkeypatch.setattr(teacher_lib, "load_others", lambda folder: (other,))
    monkeypatch.setattr(teacher_lib, "check_against", lambda *_: None)
    with pytest.raises(UserError, match="needs teachers of one normalisation"):
        recovered(in_turn, **IN_TURN)


def test_sets_of_before_are_not_made_again(tiny_ranked):
    def inputs_of(**changes):
        settings = config_lib.from_config(tiny(**changes))
        return recover.inputs(settings, open_source(settings.data), WorkDir(tiny_ranked))

    new = ("recover.terms", "recover.round_robin", "recover.bn_variance_weight")
    before = {name: value for name, value in inputs_of().items() if name not in new}
    assert workdir.changes(before, inputs_of()) == []
    assert "other_teachers" not in before
    assert inputs_of(**{"recover.terms": ("drift=1",)})["recover.terms"] == ("drift=1",)
    assert inputs_of(**IN_TURN)["other_teachers"] == []


def test_batches_with_other_patterns_of_classes_do_not_go_side_by_side(in_turn):
    settings = config_lib.from_config(tiny(**{"recover.batch_size": 5}))
    task = recover.task_of(settings, open_source(settings.data), WorkDir(in_turn), in_turn)
    assert {task.outline.classes(i) for i in range(len(task.schedule))} == {()}
    with_terms = dataclasses.replace(
        task, settings=dataclasses.replace(task.settings, terms=(("drift", 0.1),))
    )
    patterns = [with_terms.outline.classes(i) for i in range(len(task.schedule))]
    assert len(set(patterns)) > 1
    ordered = [patterns[i] for i in with_terms.in_device_order()]
    changes = sum(a != b for a, b in itertools.pairwise(ordered))
    assert changes == len({with_terms.outline.likeness(i) for i in range(len(patterns))}) - 1
    assert (task.inputs(1).ranks == np.array(task.schedule[1].indices) % 3).all()


def test_memory_counts_what_terms_and_other_teachers_hold(monkeypatch):
    teacher = TeacherVariables(teacher_lib.init_shapes(SPEC), (np.zeros(10**6, np.float32),))
    plain, with_term = (
        memory.of_chunk(StepProgram((MODEL,), s, 4, classes=CLASSES), SPEC, teacher, 4, 1)
        for s in (PLAIN, SETTINGS)
    )
    assert with_term - plain > 4e6
    schedule = recover.schedule_of(config_lib.from_config(tiny()), 5)
    wide = dataclasses.replace(SPEC, width=64)
    monkeypatch.setattr(memory, "of_chunk", lambda program, spec, *_: 10**9 * spec.width)
    held = sum(x.size * 4 for x in jax.tree.leaves(teacher_lib.init_shapes(SPEC)))
    assert memory.peak_bytes(PLAIN, [wide, SPEC], schedule) == {1: 64 * 10**9 + held}
