"""The recovery step: its schedules and Adam against numpy, and who is touched by it."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.core import losses as losses_lib
from delt_jax.models import ModelSpec
from delt_jax.models.tap import apply_tapped
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import schedule
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views as views_lib
from delt_jax.recovery.program import StepProgram, active_of, step_settings
from delt_jax.recovery.types import BatchInputs, RecoverState, TeacherVariables
from delt_jax.runtime import devices as devices_lib

SIZE, BATCH = 8, 4
MODEL = models.create(ModelSpec("conv3", 5, SIZE, 3, width=8))
ITERATIONS = 12
SETTINGS = step_settings(RecoverRecipe(learning_rate=0.1, bn_weight=0.1), flip=True)
PER_IMAGE = dataclasses.replace(SETTINGS, crop="image")
OWN_CLOCK = dataclasses.replace(SETTINGS, clock="image")
FULL = crop.full_view(SIZE)

update = jax.jit(recovery_step.update, static_argnums=0)
run_chunk = jax.jit(recovery_step.run_chunk, static_argnums=0)
draw_view = jax.jit(views_lib.draw_view, static_argnames=("settings", "size"))
draw_views = jax.jit(views_lib.draw_views, static_argnames=("settings", "size", "count"))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def variables():
    """A teacher drawn by numpy, with running statistics away from those of the images."""
    images = jnp.zeros((1, SIZE, SIZE, 3))
    shaped = jax.eval_shape(lambda k: MODEL.init(k, images, train=False), jax.random.key(0))
    draw = np.random.default_rng(1)
    return {
        "params": jax.tree.map(
            lambda x: jnp.float32(0.3 * draw.standard_normal(x.shape)), shaped["params"]
        ),
        "batch_stats": jax.tree.map(
            lambda x: jnp.float32(0.5 + draw.random(x.shape)), shaped["batch_stats"]
        ),
    }


def teachers():
    return (TeacherVariables(variables()),)


def make_state(seed=0, step=0):
    state = recovery_step.init_state(jnp.asarray(normal(BATCH, SIZE, SIZE, 3, seed=seed)))
    return state.replace(step=jnp.int32(step))


def make_inputs(seed=0, joins=(0, 0, 0, 0), bound=100.0, ends=(ITERATIONS,) * BATCH):
    return BatchInputs(
        labels=jnp.array([0, 1, 2, 3 + seed % 2], jnp.int32),
        ranks=jnp.zeros(4, jnp.int32),
        start_iterations=jnp.array(joins, jnp.int32),
        end_iterations=jnp.array(ends, jnp.int32),
        iterations=jnp.int32(ITERATIONS),
        key=jax.random.key(seed),
        low=jnp.full(3, -bound),
        high=jnp.full(3, bound),
    )


def program(active, steps=1, settings=SETTINGS):
    return StepProgram((MODEL,), settings, active, steps)


def step(state, inputs, active, settings=SETTINGS, view=FULL):
    return update(program(active, settings=settings), state, inputs, view, teachers())


def views(state, inputs, settings=SETTINGS, count=ITERATIONS):
    return draw_views(state.step, inputs, settings=settings, size=SIZE, count=count)


def chunk(state, inputs, active, steps):
    return run_chunk(program(active, steps), state, inputs, views(state, inputs), teachers())


def mapped_chunk(step_program):
    """The program as a function of state, (inputs, views) and teachers, for `devices.map_jobs`."""

    def fn(state, inputs_and_views, teachers):
        return recovery_step.run_chunk(step_program, state, *inputs_and_views, teachers)

    return fn


def make_job(seed=0):
    inputs = make_inputs(seed)
    return inputs, views(make_state(seed), inputs)


def arrays(state):
    return {k: np.asarray(getattr(state, k)) for k in ("images", "mu", "nu")}


# Schedules


def test_the_learning_rate_is_a_cosine_to_zero():
    t = np.arange(41)
    expected = [0.25 * 0.5 * (1 + np.cos(np.pi * i / 40)) for i in t]
    ours = np.asarray(recovery_step.learning_rate(0.25, jnp.asarray(t), jnp.int32(40)))
    chex.assert_trees_all_close(ours, np.array(expected, np.float32), atol=1e-7)
    assert ours[0] == 0.25
    assert abs(ours[-1]) < 1e-8


def scale_bound(kind, milestone, low, t, total):
    if t >= milestone * total:
        return low
    share = t / (milestone * total)
    fall = {"cosine": (1 + np.cos(np.pi * share)) / 2, "linear": 1 - share, "step": 1.0}[kind]
    return low + (1 - low) * fall


@pytest.mark.parametrize("kind", ["cosine", "linear", "step"])
@pytest.mark.parametrize("milestone", [0.0, 0.5, 1.0])
def test_curriculum(kind, milestone):
    recipe = RecoverRecipe(curriculum=kind, milestone=milestone, min_scale=0.2)
    settings = step_settings(recipe, flip=True)
    t = np.arange(41)
    expected = [scale_bound(kind, milestone, 0.2, i, 40) for i in t]
    ours = views_lib.curriculum(settings, jnp.asarray(t), jnp.int32(40))
    chex.assert_trees_all_close(np.asarray(ours), np.array(expected, np.float32), atol=1e-6)


def test_published_start_values_of_the_groups():
    t, total = jnp.arange(8) * 500, jnp.int32(4000)
    chex.assert_trees_all_close(
        np.asarray(recovery_step.learning_rate(1.0, t, total)),
        np.array([1, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038], np.float32),
        atol=6e-4,
    )
    chex.assert_trees_all_close(
        np.asarray(views_lib.curriculum(step_settings(RecoverRecipe(), flip=True), t, total)),
        np.array([1, 0.965, 0.865, 0.716, 0.54, 0.364, 0.215, 0.115], np.float32),
        atol=6e-4,
    )


# Adam


def numpy_adam(images, grads, ages, rates, low, high):
    """Adam(0.5, 0.9, 1e-8) of one image in float64; one gradient, age and rate per step."""
    x, mu, nu = images.astype(np.float64), 0.0, 0.0
    for g, age, rate in zip(grads.astype(np.float64), ages, rates, strict=True):
        mu = 0.5 * mu + 0.5 * g
        nu = 0.9 * nu + 0.1 * g**2
        x = x - rate * (mu / (1 - 0.5 ** (age + 1))) / (np.sqrt(nu / (1 - 0.9 ** (age + 1))) + 1e-8)
        x = np.clip(x, low, high)
    return np.float32(x), np.float32(mu), np.float32(nu)


@pytest.mark.parametrize("clock", ["batch", "image"])
@pytest.mark.parametrize("bound", [100.0, 0.6])
def test_adam_is_numpys_for_images_that_join_late(clock, bound):
    joins, steps = np.array([0, 0, 2]), 6
    images, grads = normal(3, 4, 4, 2), normal(steps, 3, 4, 4, 2, seed=1)
    low, high = np.array([-bound, -2 * bound]), np.array([bound, 3 * bound])
    adam_step = jax.jit(recovery_step.adam_step)
    ours = np.stack([images, np.zeros_like(images), np.zeros_like(images)])
    for t in range(steps):
        n = int((joins <= t).sum())
        ages = np.array([t - (join if clock == "image" else 0) for join in joins[:n]])
        x, mu, nu = ours[:, :n]
        adam = optax.ScaleByAdamState(jnp.int32(ages), mu, nu)
        rate, bounds = jnp.float32(0.3 / (1 + ages)), (jnp.float32(low), jnp.float32(high))
        x, adam = adam_step(x, grads[t, :n], adam, rate, bounds)
        ours[:, :n] = x, adam.mu, adam.nu
    for i, join in enumerate(joins):
        ages = np.arange(join, steps) - (join if clock == "image" else 0)
        expected = numpy_adam(images[i], grads[join:, i], ages, 0.3 / (1 + ages), low, high)
        chex.assert_trees_all_close(tuple(ours[:, i]), expected, rtol=1e-5, atol=2e-6)


def test_clocks_count_from_the_batchs_start_or_the_images():
    state, inputs = make_state(step=7), make_inputs(joins=(0, 3, 3, 6))
    done, total = views_lib.clocks(state.step, inputs, SETTINGS)
    assert (done.tolist(), total.tolist()) == ([7, 7, 7, 7], [12, 12, 12, 12])
    done, total = views_lib.clocks(state.step, inputs, OWN_CLOCK)
    assert (done.tolist(), total.tolist()) == ([7, 4, 4, 1], [12, 9, 9, 6])
    done, _ = views_lib.clocks(jnp.int32(4), inputs, OWN_CLOCK)
    assert done.tolist() == [4, 1, 1, 0]  # the last one has not joined


def first_move(rate, age):
    """Size of Adam's first step with the bias correction of a given age."""
    return rate * 0.5 / (1 - 0.5 ** (age + 1)) / np.sqrt(0.1 / (1 - 0.9 ** (age + 1)))


@pytest.mark.parametrize(
    ("settings", "move"), [(SETTINGS, first_move(0.05, 6)), (OWN_CLOCK, first_move(0.1, 0))]
)
def test_an_image_that_joins_at_half_time(settings, move):
    state, inputs = make_state(step=6), make_inputs(joins=(0, 0, 0, 6))
    after, _, _ = step(state, inputs, 4, settings)
    moves = np.abs(np.asarray(after.images - state.images))
    clear = np.abs(np.asarray(after.mu)) > 1e-4  # where epsilon is nothing
    assert clear[3].mean() > 0.8
    chex.assert_trees_all_close(
        moves[3][clear[3]], np.full(clear[3].sum(), move, np.float32), rtol=1e-3
    )
    old = np.full(clear[:3].sum(), first_move(0.05, 6), np.float32)
    chex.assert_trees_all_close(moves[:3][clear[:3]], old, rtol=1e-3)


# One iteration


@pytest.mark.parametrize("active", [2, (0, 1), (1, 3)])
def test_inactive_images_are_untouched(active):
    state, _, _ = step(make_state(), make_inputs(), 4)  # so that Adam's moments are not zero
    after, _, _ = step(state, make_inputs(), active)
    chosen = list(range(active)) if isinstance(active, int) else list(active)
    rest = [i for i in range(BATCH) if i not in chosen]
    assert int(after.step) == int(state.step) + 1
    for name, old in arrays(state).items():
        new = arrays(after)[name]
        chex.assert_trees_all_equal(new[rest], old[rest])
        assert ((new[chosen] != old[chosen]).mean(axis=(1, 2, 3)) > 0.5).all()


def test_positions_of_the_first_images_are_the_same_as_their_count():
    inputs = make_inputs()
    state, _, _ = step(make_state(), inputs, 4)
    chex.assert_trees_all_close(step(state, inputs, (0, 1)), step(state, inputs, 2), atol=1e-6)


def test_inactive_images_do_not_influence_the_active_ones():
    state, inputs = make_state(), make_inputs()
    other = state.replace(images=state.images.at[2:].set(9.0))
    ours, theirs = step(state, inputs, 2), step(other, inputs, 2)
    chex.assert_trees_all_equal(ours[0].images[:2], theirs[0].images[:2])
    chex.assert_trees_all_equal(ours[1:], theirs[1:])


def test_the_loss_is_its_terms():
    state, inputs = make_state(), make_inputs()
    _, losses, terms = step(state, inputs, 4)

    @jax.jit
    def reference(images):
        logits, batch, running = apply_tapped(MODEL, variables(), images)[:3]
        return losses_lib.cross_entropy(logits, inputs.labels), losses_lib.bn_terms(batch, running)

    cross_entropy, expected = reference(state.images)
    chex.assert_shape(terms, (3,))
    chex.assert_trees_all_close(terms, expected, rtol=1e-5)
    chex.assert_trees_all_close(losses.cross_entropy, cross_entropy, rtol=1e-5)
    chex.assert_trees_all_close(losses.bn, 10 * terms[0] + terms[1] + terms[2], rtol=1e-5)
    chex.assert_trees_all_close(losses.loss, losses.cross_entropy + 0.1 * losses.bn, rtol=1e-5)


def test_iterations_reduce_the_loss():
    state, inputs, losses = make_state(), make_inputs(), []
    for _ in range(12):
        state, terms, _ = step(state, inputs, 4)
        losses.append(float(terms.loss))
    chex.assert_tree_all_finite(state.images)
    assert losses[-1] < 0.8 * losses[0]


def test_iterations_carry_adams_moments_on():
    """The gradient that explains the new mean also explains the new square and the move."""
    inputs = make_inputs()
    old, _, _ = step(make_state(), inputs, 4)
    new, _, _ = step(old, inputs, 4)
    old, new = (jax.tree.map(lambda x: np.asarray(x, np.float64), arrays(s)) for s in (old, new))
    gradient = 2 * new["mu"] - old["mu"]
    assert np.abs(gradient - 2 * old["mu"]).max() > 1e-2  # not that of the first step
    chex.assert_trees_all_close(
        new["nu"], 0.9 * old["nu"] + 0.1 * gradient**2, rtol=1e-4, atol=1e-9
    )
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi / 12))
    move = new["mu"] / (1 - 0.5**2) / (np.sqrt(new["nu"] / (1 - 0.9**2)) + 1e-8)
    chex.assert_trees_all_close(new["images"], old["images"] - rate * move, atol=1e-5)


def test_pixels_stay_in_the_valid_range():
    low, high = np.float32([-0.1, -0.2, -1.0]), np.float32([0.3, 0.05, 1.0])
    inputs = make_inputs()._replace(low=jnp.asarray(low), high=jnp.asarray(high))
    state = make_state()
    state = state.replace(images=jnp.clip(state.images, inputs.low, inputs.high))
    for _ in range(3):
        state, _, _ = step(state, inputs, 4)
    images = np.asarray(state.images)
    assert (images >= low).all()
    assert (images <= high).all()
    for channel in range(3):
        assert (images[..., channel] == low[channel]).any()
        assert (images[..., channel] == high[channel]).any()


# Views


def view_of(state, inputs, settings, active=4):
    view = draw_view(state.step, inputs, settings=settings, size=SIZE)
    return jax.tree.map(np.asarray, views_lib.of_active(view, active))


def test_a_batch_shares_its_view():
    inputs = make_inputs()
    views = [view_of(make_state(step=t), inputs, SETTINGS) for t in range(12)]
    for view in views:
        chex.assert_shape([view.box, view.flip, view.roll], [(4,), (), (2,)])
    assert views[0].box.tolist() == [0, 0, SIZE, SIZE]  # the curriculum starts at the full image
    assert len({tuple(v.box.tolist()) for v in views}) > 4
    assert len({bool(v.flip) for v in views}) == 2
    chex.assert_trees_all_equal(view_of(make_state(seed=1, step=8), inputs, SETTINGS), views[8])
    others = [view_of(make_state(step=t), make_inputs(seed=1), SETTINGS) for t in range(12)]
    assert any((a.box != b.box).any() for a, b in zip(views, others, strict=True))


def test_images_have_views_of_their_own():
    state, inputs = make_state(step=9), make_inputs()
    views = view_of(state, inputs, PER_IMAGE)
    chex.assert_shape([views.box, views.flip, views.roll], [(4, 4), (4,), (4, 2)])
    assert len({tuple(box) for box in views.box.tolist()}) == 4
    some = view_of(state, inputs, PER_IMAGE, active=(1, 3))
    chex.assert_trees_all_equal(some, jax.tree.map(lambda x: x[[1, 3]], views))


def test_own_clocks_scale_the_crop_by_the_images_age():
    """The draw is the batch's, but a younger image is still seen whole."""
    inputs = make_inputs(joins=(0, 0, 9, 9))
    at_nine = [view_of(make_state(step=9), inputs._replace(key=k), OWN_CLOCK) for k in KEYS]
    for view in at_nine:
        chex.assert_shape([view.box, view.flip], [(4, 4), (4,)])
        chex.assert_trees_all_equal(view.box[0], view.box[1])
        assert view.box[2:].tolist() == [[0, 0, SIZE, SIZE]] * 2
        assert len(set(view.flip.tolist())) == 1
    areas = [int(view.box[0, 2] * view.box[0, 3]) for view in at_nine]
    assert np.mean(areas) < 0.8 * SIZE**2


KEYS = [jax.random.key(i) for i in range(10)]


@pytest.mark.parametrize("settings", [SETTINGS, PER_IMAGE, OWN_CLOCK])
def test_views_drawn_together_are_those_drawn_one_by_one(settings):
    inputs = make_inputs(joins=(0, 0, 3, 9))
    together = views(make_state(step=2), inputs, settings, count=9)
    for t in range(2, 11):
        ours = views_lib.view_at(together, jnp.int32(t), (1, 3))
        chex.assert_trees_all_equal(ours, view_of(make_state(step=t), inputs, settings, (1, 3)))


# Many iterations, many batches


def test_three_iterations_in_one_call_are_three_calls():
    state, inputs = make_state(), make_inputs(joins=(0, 0, 0, 3))
    together, losses = chunk(state, inputs, 3, steps=3)
    chex.assert_shape(jax.tree.leaves(losses), (3,))
    for i in range(3):
        state, alone = chunk(state, inputs, 3, steps=1)
        chex.assert_shape(jax.tree.leaves(alone), (1,))
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i : i + 1], losses), alone, rtol=1e-4
        )
    assert int(together.step) == int(state.step) == 3
    chex.assert_trees_all_close(arrays(together), arrays(state), rtol=1e-3, atol=1e-4)


def test_batches_on_four_devices_are_bit_for_bit_what_they_are_alone():
    devices = 4
    states, batches = ([make(seed) for seed in range(devices)] for make in (make_state, make_job))
    mapped = devices_lib.map_jobs(mapped_chunk(program(3)), devices)
    together = devices_lib.stack_jobs(states, devices)
    for _ in range(2):
        together, losses = mapped(together, devices_lib.stack_jobs(batches, devices), teachers())
    assert len(together.images.devices()) == devices
    for i, (state, (inputs, _)) in enumerate(zip(states, batches, strict=True)):
        for _ in range(2):
            state, alone = chunk(state, inputs, 3, steps=1)
        chex.assert_trees_all_equal(devices_lib.job(together, i), jax.tree.map(np.asarray, state))
        chex.assert_trees_all_equal(devices_lib.job(losses, i), jax.tree.map(np.asarray, alone))


def test_a_short_group_repeats_its_last_batch():
    assert devices_lib.device_groups(list("abcde"), 2) == [["a", "b"], ["c", "d"], ["e"]]
    stacked = devices_lib.stack_jobs([make_inputs(0), make_inputs(1)], 4)
    assert stacked.labels[:, 0, 3].tolist() == [3, 4, 4, 4]
    keys = jax.random.key_data(stacked.key)[:, 0]
    chex.assert_trees_all_equal(keys[2], keys[1])
    chex.assert_trees_all_equal(keys[3], keys[1])


def test_equal_active_counts_are_traced_once():
    batches = schedule.make_schedule(4, 2, 12, 3, BATCH)
    counts = {len(r.active) for batch in batches for r in batch.rounds}
    assert len(batches) * len(batches[0].rounds) > len(counts)
    traced = chex.assert_max_traces(recovery_step.run_chunk, n=len(counts))
    jitted = jax.jit(traced, static_argnums=0)

    def lower(seed, first, joins, active):
        state, inputs = make_state(seed, first), make_inputs(seed, joins)
        return jitted.lower(program(active), state, inputs, views(state, inputs), teachers())

    for seed, batch in enumerate(batches):
        for r in batch.rounds:
            for first in range(r.start, r.start + r.iterations):
                lower(seed, first, batch.start_iterations, active_of(r.active))
    with pytest.raises(AssertionError, match="traced"):
        lower(0, 0, (0, 0, 0, 0), (1, 3))


def test_the_state_starts_with_empty_moments():
    state = make_state()
    assert isinstance(state, RecoverState)
    assert int(state.step) == 0
    chex.assert_trees_all_equal([state.mu, state.nu], [jnp.zeros_like(state.images)] * 2)
    with pytest.raises(AssertionError):
        recovery_step.init_state(jnp.zeros((8, 8, 3)))
