"""Residuals: where blocks begin, what is mixed, and a recovery by hand with it."""

import dataclasses
import functools
import itertools
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from costly import costly
from hypothesis import given, settings
from hypothesis import strategies as st
from test_step import BATCH, FULL, MODEL, SIZE, make_inputs, make_state, teachers, variables
from tiny_run import losses_of, manifest, recovered, stop_after, tiny

from delt_jax import config as config_lib
from delt_jax.core.stopping import Stopped
from delt_jax.data import open_source
from delt_jax.formats import distilled
from delt_jax.models import ModelSpec
from delt_jax.models.tap import TappedNetwork
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import residual
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram, step_settings
from delt_jax.recovery.run import checkpoint, memory
from delt_jax.recovery.types import Clock, TeacherVariables
from delt_jax.runtime import devices
from delt_jax.stages import recover
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import teacher as teacher_lib


def int32(*values):
    return jnp.array(values, jnp.int32)


def moments(mu, nu):
    """Adam's state, of which the count is not read."""
    return optax.ScaleByAdamState(None, mu, nu)


@pytest.mark.parametrize(
    ("total", "blocks", "begins"),
    [
        (2000, 4, [0, 500, 1000, 1500]),  # as released
        (10, 4, [0, 3, 5, 8]),
        (7, 1, [0]),
        (3, 5, [0, 1, 2]),  # more blocks than iterations: every one begins a block
    ],
)
def test_blocks_are_as_equal_as_they_can_be(total, blocks, begins):
    done = jnp.arange(total, dtype=jnp.int32)
    ages = np.asarray(residual.age(done, jnp.full_like(done, total), blocks))
    assert np.flatnonzero(ages == 0).tolist() == begins


@settings(deadline=None, max_examples=50)
@given(total=st.integers(1, 400), blocks=st.integers(1, 12))
def test_ages_count_up_from_every_start(total, blocks):
    done = jnp.arange(400, dtype=jnp.int32)  # one shape, so compiled once
    whole = jnp.full_like(done, total)
    starts = np.asarray(residual.block_start(done, whole, blocks))[:total]
    assert set(starts) <= {-(-k * total // blocks) for k in range(blocks)}
    assert (starts <= np.arange(total)).all()
    ages = np.asarray(residual.age(done, whole, blocks))[:total]
    assert all(b in (0, a + 1) for a, b in itertools.pairwise(ages))


def test_only_images_whose_block_begins_are_mixed_and_forget_their_moments():
    draw = np.random.default_rng(0)
    x, start, mu, nu = jnp.asarray(draw.standard_normal((4, 4, 2, 2, 1)), jnp.float32)
    # Its first iteration; a block begins; amid a block; a block begins on a shorter clock.
    done, total = int32(0, 4, 3, 2), int32(8, 8, 8, 4)
    images, adam = residual.mix(x, start, moments(mu, nu), Clock(done, total), 0.25, 2)
    m, v = adam.mu, adam.nu
    assert adam.count.tolist() == [0, 0, 3, 0]
    for i in (0, 2):
        chex.assert_trees_all_equal((images[i], m[i], v[i]), (x[i], mu[i], nu[i]))
    for i in (1, 3):
        np.testing.assert_allclose(images[i], 0.75 * x[i] + 0.25 * start[i], rtol=1e-6)
        assert not np.any(m[i])
        assert not np.any(v[i])


def test_an_image_that_has_not_moved_keeps_every_bit():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 5, 3)), jnp.float32)
    images, _ = residual.mix(x, x, moments(x, x), Clock(int32(4), int32(8)), 0.3, 2)
    chex.assert_trees_all_equal(images, x)


@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_pixels_stay_in_range(share):
    draw = np.random.default_rng(2)
    low, high = np.float32(-1.7), np.float32(2.3)
    x, start = (draw.choice([low, high], (6, 4, 4, 1)) for _ in range(2))
    done, total = jnp.full(6, 4, jnp.int32), jnp.full(6, 8, jnp.int32)
    zeros = jnp.zeros_like(x)
    images, _ = residual.mix(
        jnp.asarray(x), jnp.asarray(start), moments(zeros, zeros), Clock(done, total), share, 2
    )
    slack = 1e-6
    assert images.min() >= low - slack
    assert images.max() <= high + slack


def test_four_blocks_by_hand():
    """As the released loop: a new Adam per block, the rate going on, a residual between blocks."""
    total, blocks, share, peak = 8, 4, 0.5, 0.1
    start = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (2, 3, 3, 1)), jnp.float32)
    low, high = jnp.full(1, -2.0), jnp.full(1, 2.0)

    def gradient(x):
        return x - 0.3

    def step(x, mu, nu, age, t):
        rate = recovery_step.learning_rate(peak, jnp.full(2, t), jnp.full(2, total))
        adam = optax.ScaleByAdamState(jnp.full(2, age), mu, nu)
        x, adam = recovery_step.adam_step(x, gradient(x), adam, rate, (low, high))
        return x, adam.mu, adam.nu

    x, t = start, 0
    for block in range(blocks):
        mu = nu = jnp.zeros_like(start)
        for i in range(total // blocks):
            x, mu, nu = step(x, mu, nu, i, t)
            t += 1
        if block < blocks - 1:
            x = (1 - share) * x + share * start

    images, adam = start, moments(jnp.zeros_like(start), jnp.zeros_like(start))
    for t in range(total):
        clock = Clock(jnp.full(2, t, jnp.int32), jnp.full(2, total, jnp.int32))
        images, adam = residual.mix(images, start, adam, clock, share, blocks)
        rate = recovery_step.learning_rate(peak, *clock)
        images, adam = recovery_step.adam_step(images, gradient(images), adam, rate, (low, high))
    np.testing.assert_allclose(images, x, atol=1e-6)
    assert np.abs(np.asarray(images - start)).max() > 0.05


# In recovery


SETTINGS = step_settings(RecoverRecipe(learning_rate=0.1, bn_weight=0.1, residual=0.3), flip=True)
JOINS = (0, 0, 5, 5)
update = jax.jit(recovery_step.update, static_argnums=0)


@functools.partial(jax.jit, static_argnames=("settings",))
def gradient(images, labels, weights, settings):
    teacher = TappedNetwork(MODEL, weights)
    return jax.grad(recovery_step.loss, has_aux=True)(images, labels, FULL, teacher, settings)[0]


@pytest.mark.parametrize(
    ("clock", "begins"),
    [
        # Iterations of the batch at which the images that join first and last are mixed.
        ("batch", ({2, 4, 6}, {6})),
        costly("image", ({2, 4, 6}, {6, 7})),
    ],
)
def test_recovery_by_hand(clock, begins):
    """Adam and the residual in numpy, image by image, with two that join amid a block."""
    step = dataclasses.replace(SETTINGS, clock=clock)
    inputs, state = make_inputs(joins=JOINS), make_state()
    inputs = inputs._replace(starts=state.images, iterations=jnp.int32(8))
    start = np.asarray(state.images, np.float64)
    x, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    age = np.zeros(BATCH, int)
    for t in range(8):
        active = 2 if t < 5 else 4
        if clock == "batch" and t == 5:
            age[2:] = 1  # counted from 4 on, where the batch's third block begins
        for i in range(active):
            if t in begins[JOINS[i] > 0]:
                x[i] = 0.7 * x[i] + 0.3 * start[i]
                m[i], v[i], age[i] = 0, 0, 0
        images = jnp.asarray(x[:active], jnp.float32)
        g = np.asarray(gradient(images, inputs.labels[:active], variables(), step), np.float64)
        for i in range(active):
            join = JOINS[i] if clock == "image" else 0
            rate = 0.1 * 0.5 * (1 + np.cos(np.pi * (t - join) / (8 - join)))
            age[i] += 1
            m[i] = 0.5 * m[i] + 0.5 * g[i]
            v[i] = 0.9 * v[i] + 0.1 * g[i] ** 2
            move = m[i] / (1 - 0.5 ** age[i])
            x[i] -= rate * move / (np.sqrt(v[i] / (1 - 0.9 ** age[i])) + 1e-8)
        program = StepProgram((MODEL,), step, active)
        state, *_ = update(program, state, inputs, FULL, teachers())
        np.testing.assert_allclose(state.images, x, atol=2e-4)
    assert np.abs(x - start).max() > 0.05


def test_without_a_residual_there_is_nothing_of_it(monkeypatch):
    def traced(inputs, **changes):
        program = StepProgram((MODEL,), dataclasses.replace(SETTINGS, **changes), active=3)
        step = functools.partial(recovery_step.update, program)
        return jax.make_jaxpr(step)(make_state(), inputs, FULL, teachers())

    assert len(jax.tree.leaves(make_inputs())) == 8  # no starts
    mixed = traced(make_inputs()._replace(starts=make_state().images))
    monkeypatch.setattr(residual, "mix", None)
    monkeypatch.setattr(residual, "age", None)
    plain = traced(make_inputs(), residual=0.0)
    assert len(plain.eqns) < len(mixed.eqns)
    assert str(plain) == str(traced(make_inputs(), residual=0.0, residual_rounds=7))


CHANGES = {"recover.residual": 0.5, "recover.residual_rounds": 2}


@pytest.fixture(scope="module")
def whole(tiny_ranked, tmp_path_factory):
    """A finished recovery on one device."""
    folder = shutil.copytree(tiny_ranked, tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(devices, "device_count", lambda: 1)
        recovered(folder, **CHANGES)
    return folder


def test_the_first_block_is_as_without(whole, tiny_ranked, tmp_path):
    """Four iterations in two blocks; the last images join with the second, at their starts."""
    folder = shutil.copytree(tiny_ranked, tmp_path / "run")
    images = recovered(folder)
    ours, plain = losses_of(whole)["loss"], losses_of(folder)["loss"]
    chex.assert_trees_all_close(ours[:, :2], plain[:, :2], rtol=1e-5)  # other programs
    assert (ours[:, 2:] != plain[:, 2:]).all()
    assert (images != distilled.read(whole / "distilled").images).any()
    assert manifest(whole)["inputs"]["recover.residual"] == 0.5


@pytest.mark.parametrize("step", [2, 3])  # before the residual and after it
def test_a_kill_and_more_devices_change_nothing(whole, tiny_ranked, tmp_path, monkeypatch, step):
    folder = shutil.copytree(tiny_ranked, tmp_path / "run")
    monkeypatch.setattr(devices, "device_count", lambda: 8)
    with monkeypatch.context() as m:
        stop_after(m, step)
        with pytest.raises(Stopped):
            recovered(folder, **CHANGES)
    assert checkpoint.step_of(folder / "distilled.partial", 0) == step
    images = recovered(folder, **CHANGES)
    chex.assert_trees_all_equal(images, distilled.read(whole / "distilled").images)
    chex.assert_trees_all_equal(losses_of(folder), losses_of(whole))


@pytest.mark.exhaustive  # as without it in test_driver.py
def test_bfloat16_is_tried_with_it(tiny_ranked, tmp_path, capsys):
    folder = shutil.copytree(tiny_ranked, tmp_path / "run")
    recovered(folder, **CHANGES, **{"recover.dtype": "bfloat16"})
    assert manifest(folder)["execution"]["dtype"] == "bfloat16"
    assert "float32 is used" not in capsys.readouterr().out


def test_the_settings_count_where_they_are_used(tiny_ranked):
    def inputs_of(**changes):
        recipe = config_lib.from_config(tiny(**changes))
        return recover.inputs(recipe, open_source(recipe.data), WorkDir(tiny_ranked))

    before = {k: v for k, v in inputs_of().items() if "residual" not in k}
    assert changes(before, inputs_of()) == []
    assert inputs_of(**{"recover.residual_rounds": 7}) == inputs_of()
    ours = inputs_of(**CHANGES)
    assert (ours["recover.residual"], ours["recover.residual_rounds"]) == (0.5, 2)


@pytest.mark.exhaustive  # test_driver.py has what else counts
def test_memory_counts_the_starts():
    spec = ModelSpec("conv3", 5, SIZE, 3, width=8)
    teacher = TeacherVariables(teacher_lib.init_shapes(spec))
    plain, mixed = (
        memory.of_chunk(
            StepProgram((MODEL,), step_settings(RecoverRecipe(residual=share), flip=True), 2),
            spec,
            teacher,
            batch_size=50,
            batches_per_device=1,
        )
        for share in (0.0, 0.5)
    )
    assert mixed - plain >= 50 * SIZE * SIZE * 3 * 4
