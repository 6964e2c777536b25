"""Training students: the same however it is cut up, up to rounding; and what it is made of."""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delt_jax import models
from delt_jax.augment.views import ViewSpec
from delt_jax.core import keys
from delt_jax.data import Normalisation
from delt_jax.data.source import ArrayExamples
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import student_loop, student_step
from delt_jax.training.protocols import Protocol
from delt_jax.training.student_loop import Saving, Student, StudentTask
from delt_jax.training.student_step import (
    LabelledImages,
    SharedInputs,
    StudentInputs,
    StudentProgram,
)

SPEC = ModelSpec("conv3", 3, 8, 1, width=4)
NORMALISATION = Normalisation((0.4,), (0.3,))
VIEWS = ViewSpec("", 1, 0.5, False, "cutmix", 1.0)
COUNT = 8  # two batches; tests with a smaller last one say so
PROTOCOL = Protocol(
    name="delt",
    views=VIEWS,
    temperature=4.0,
    loss="kl",
    hard_weight=0.0,
    learning_rate=1.0,
    weight_decay=0.01,
    schedule="half_cosine",
    epochs=4,
    batch_size=4,
    accumulate=1,
    ema=0.0,
    eval_every=2,
)
PROGRAM = StudentProgram(SPEC, (), PROTOCOL, "hard", NORMALISATION, (NORMALISATION,), COUNT, 4)


def images(seed=0, count=COUNT):
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, 8, 8, 1), np.uint8)
    targets = draw.dirichlet(np.ones(3), count).astype(np.float32)
    return LabelledImages(pixels, (np.arange(count) % 3).astype(np.int32), targets)


@functools.cache
def teacher():
    shapes = models.create(SPEC).init(jax.random.key(9), jnp.zeros((1, 8, 8, 1)), train=False)
    return {k: jax.device_get(shapes[k]) for k in ("params", "batch_stats")}


def examples():
    test = images(5, 12)
    return ArrayExamples(test.pixels, test.labels, [str(i) for i in range(12)])


def task(program=PROGRAM, own=False, stored=None):
    teachers = (teacher(),) * len(program.teachers)
    return StudentTask(program, teachers, None if own else images(), stored, examples())


def students(count=3, own=False):
    return [Student(f"s{i}", (0, i), 0.01, images(20 + i) if own else None) for i in range(count)]


def train(folder, program=PROGRAM, count=3, per_device=1, own=False, stored=None):
    return student_loop.train(
        task(program, own, stored),
        students(count, own),
        per_device,
        Saving(folder, 1e9),
        lambda epochs, loss: None,
    )


def far_off(ours, theirs):
    """Share of the weights that differ by more than rounding.

    AdamW makes a whole step of a gradient that is zero but for rounding: all biases before a
    BatchNorm have such, and a few weights.
    """
    flat = jax.tree_util.tree_leaves_with_path
    off = [
        np.abs(a - b).reshape(-1) > 1e-4
        for (path, a), (_, b) in zip(flat(ours["params"]), flat(theirs["params"]), strict=True)
        if path[-1].key != "bias"
    ]
    return np.concatenate(off).mean()


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert far_off(a.variables, b.variables) < 0.03


@pytest.mark.parametrize("on_cpu", [True, False])
def test_students_at_once_become_what_they_become_alone(tmp_path, monkeypatch, on_cpu):
    """Up to rounding, which training then magnifies; so for two epochs.

    Unrolled and batch by batch, or vmapped and the whole epoch at once, as on an accelerator.
    """
    program = replace(PROGRAM, protocol=replace(PROTOCOL, epochs=2))
    alone = train(tmp_path, program)
    monkeypatch.setattr(student_loop, "on_cpu", lambda: on_cpu)
    assert_close(train(tmp_path, program, per_device=3), alone)


def run_epoch_by(program, how):
    state = student_step.init_student(program, jax.random.key(1))
    own = StudentInputs(keys.stream(0, "views"), keys.stream(0, "dropout"), jnp.float32(0.01), None)
    teachers = (teacher(),) * len(program.teachers)
    shared = SharedInputs(teachers, images(count=program.count), None, jnp.int32(2), jnp.int32(0))
    if how == "epoch":
        run_epoch = functools.partial(student_step.run_epoch, program=program)
        return jax.jit(run_epoch)(state, own, shared)
    run = jax.jit(student_step.run_batch, static_argnames=("program", "batch"))
    losses = []
    for start in program.starts:
        batch = min(program.batch, program.count - start)
        here = shared._replace(start=jnp.int32(start))
        state, loss = run(state, own, here, program=program, batch=batch)
        losses.append(loss)
    return state, jnp.stack(losses).mean()


@pytest.mark.parametrize("regime", ["fixed", "online"])
def test_an_epoch_is_its_batches(regime):
    """Of which the last is smaller."""
    teachers = (SPEC,) if regime == "online" else ()
    program = replace(PROGRAM, regime=regime, teachers=teachers, count=10)
    whole, loss = run_epoch_by(program, "epoch")
    pieces, losses = run_epoch_by(program, "batches")
    assert int(whole.step) == int(pieces.step) == 3
    assert far_off(whole.variables, pieces.variables) < 0.03
    chex.assert_trees_all_close(loss, losses, rtol=1e-4)


@pytest.mark.parametrize("norm", ["own", "shared"])
def test_devices_that_share_a_batch(tmp_path, norm):
    """With shared statistics they are one device; with their own they are not."""
    protocol = replace(PROTOCOL, epochs=1, batch_size=8, eval_every=1)
    program = replace(PROGRAM, protocol=protocol)
    alone = train(tmp_path, program, count=1)
    shared = replace(program, devices=2, shared_norm=norm == "shared")
    together = train(tmp_path, shared, count=1)
    off = far_off(alone[0].variables, together[0].variables)
    assert off < 0.01 if norm == "shared" else off > 0.03


def test_devices_must_divide_batches():
    with pytest.raises(UserError, match=r"devices_per_student is 4, which does not divide .* of 2"):
        student_loop.check(replace(PROGRAM, devices=4, count=10))
    many = replace(PROGRAM, devices=10, count=10, protocol=replace(PROTOCOL, batch_size=10))
    with pytest.raises(UserError, match="there are only 8 devices"):
        student_loop.check(many)


def label_plan(**changes):
    plan = LabelPlan(0, 2, COUNT, 3, "logits", 2, 4.0, VIEWS, 4, 4)
    return replace(plan, **changes)


def test_stored_labels_are_those_that_the_teacher_gives_in_their_place(tmp_path):
    """The views of an epoch, labelled before, teach what labelling them in the step does."""
    plan = label_plan()
    program = replace(PROGRAM, regime="stored", plan=plan)
    asking = replace(program, teachers=(SPEC,))
    in_place = train(tmp_path, asking, count=2)

    @jax.jit
    def label(key):
        drawn = student_step.plan_epoch(key, COUNT, 4)
        drawing = student_step.ViewProgram(VIEWS, NORMALISATION, False)
        pixels = jnp.asarray(images().pixels)
        mixed = student_step.student_views(key, pixels, drawn, 0, COUNT, drawing)
        return drawn, models.create(SPEC).apply(teacher(), mixed.images, train=False)

    def stored(epoch):
        drawn, logits = label(plan.epoch(epoch).key)
        labels = compact.compress(logits, plan.top_k, plan.form, plan.temperature)
        back = np.argsort(drawn.order)
        return compact.Compact(*(np.asarray(part)[back] for part in labels))

    before = train(tmp_path, program, count=2, stored=stored)
    assert_close(before, in_place)


def test_views_come_again_after_the_labelled_epochs():
    program = replace(PROGRAM, plan=label_plan(epochs=2), regime="stored")

    def plan_of(epoch):
        shared = SharedInputs((), images(), None, jnp.int32(epoch), jnp.int32(0))
        own = StudentInputs(program.plan.view_key, keys.stream(0, "d"), jnp.float32(1), None)
        return student_step.epoch_views(own, shared, program).plan.order

    chex.assert_trees_all_equal(plan_of(0), plan_of(2))
    assert not np.array_equal(plan_of(0), plan_of(1))


def test_averaged_weights_are_scored(tmp_path):
    averaged = train(tmp_path, replace(PROGRAM, protocol=replace(PROTOCOL, ema=0.9)), count=1)
    last = train(tmp_path, count=1)
    a, b = averaged[0].variables["params"], last[0].variables["params"]
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    model = models.create(SPEC)
    logits = teacher_lib.logits_of_examples(model, averaged[0].variables, NORMALISATION, examples())
    np.testing.assert_array_equal(logits, averaged[0].logits)


def test_accumulated_batches_are_one_gradient_step():
    program = replace(PROGRAM, protocol=replace(PROTOCOL, accumulate=2))
    before = student_step.init_student(program, jax.random.key(1))
    state, _ = run_epoch_by(program, "batches")
    inner = state.opt_state.inner_opt_state
    counts = [leaf for leaf in jax.tree.leaves(inner) if leaf.dtype == jnp.int32]
    assert counts
    assert all(int(count) == 1 for count in counts)
    assert not np.array_equal(*(jax.tree.leaves(s.params)[0] for s in (before, state)))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_learning_rate_falls_by_epochs_however_batches_are_accumulated(accumulate):
    """12 batches in 6 epochs of two: gradients of one sign move weights by the rates' sum."""
    protocol = replace(PROTOCOL, accumulate=accumulate, epochs=6, weight_decay=0.0)
    optimiser = student_step.make_optimiser(replace(PROGRAM, protocol=protocol))
    params = {"w": jnp.zeros(())}
    state, moved = optimiser.init(params), []
    for _ in range(12):
        updates, state = optimiser.update({"w": jnp.ones(())}, state, params)
        moved.append(-float(updates["w"]))
    taken = [m for m in moved if m]
    epochs = np.arange(len(taken)) * accumulate // 2
    expected = 0.5 * (1 + np.cos(np.pi * epochs / 12))
    np.testing.assert_allclose(taken, expected, rtol=1e-4)


def test_nothing_is_traced_twice(tmp_path, monkeypatch):
    traces, step = [], student_step.step
    monkeypatch.setattr(student_step, "step", lambda *a: traces.append(a[-1]) or step(*a))
    never_compiled_before = replace(PROGRAM, protocol=replace(PROTOCOL, weight_decay=0.02))
    train(tmp_path, never_compiled_before, count=2)
    assert traces == [4]  # in four epochs of two batches


def test_a_row_of_small_students_trains_at_once_on_an_accelerator(monkeypatch):
    resolve = student_loop.resolve_students_per_device
    assert resolve(PROGRAM, 0, 5) == 1
    assert resolve(PROGRAM, 2, 5) == 2
    monkeypatch.setattr(student_loop, "on_cpu", lambda: False)
    assert resolve(PROGRAM, 0, 5) == 5
    assert resolve(replace(PROGRAM, devices=2), 0, 5) == 1
