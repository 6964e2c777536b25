"""Training students: the same however it is cut up, up to rounding; and what it is made of."""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from costly import costly

from delt_jax import models
from delt_jax.augment.drawing import Drawn
from delt_jax.augment.views import Mixed, ViewProgram, ViewSpec, plan_epoch, student_views
from delt_jax.core import keys
from delt_jax.data import Normalisation
from delt_jax.data.source import ArrayExamples
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.label_store import LabelPlan
from delt_jax.models import ModelSpec
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import student_labels, student_layout, student_loop, student_step
from delt_jax.training.protocols import Protocol
from delt_jax.training.student_labels import LabelInputs
from delt_jax.training.student_loop import Saving, Student, StudentTask
from delt_jax.training.student_program import LabelledImages, StudentProgram
from delt_jax.training.student_step import Lesson, Own, learn_program

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


def task(program=PROGRAM, stored=None):
    teachers = (teacher(),) * len(program.teachers)
    return StudentTask(program, teachers, stored, examples())


def students(count=3, own=False):
    return [Student(f"s{i}", (0, i), 0.01, images(20 + i * own)) for i in range(count)]


def train(folder, program=PROGRAM, count=3, per_device=1, own=False, stored=None):
    results = student_loop.train(
        task(program, stored),
        students(count, own),
        per_device,
        Saving(folder, 1e9),
        lambda epochs, loss: None,
    )
    done = dict(results)
    return [done[i] for i in range(count)]


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


@pytest.mark.parametrize("lanes", ["unrolled", costly("vmap"), costly("in_turn")])
def test_students_at_once_become_what_they_become_alone(tmp_path, monkeypatch, lanes):
    """Up to rounding, which training then magnifies; so for two epochs.

    Unrolled and batch by batch, or the whole epoch at once, as on an accelerator: vmapped if they
    are small, else in turn.
    """
    program = replace(PROGRAM, protocol=replace(PROTOCOL, epochs=2))
    alone = train(tmp_path, program)
    monkeypatch.setattr(student_layout, "on_cpu", lambda: lanes == "unrolled")
    if lanes == "in_turn":
        monkeypatch.setattr(student_layout, "FILLS", 0)
    assert student_layout.of(program, 3, 3).of_jobs.lanes == lanes
    assert_close(train(tmp_path, program, per_device=3), alone)


def learn_epoch(program, count, batch, seed=0):
    """A student after an epoch of `count` views, in calls of one batch or of all at once."""
    draw = np.random.default_rng(seed)
    views = jnp.asarray(draw.standard_normal((count, 8, 8, 1)), jnp.float32)
    soft = jnp.asarray(draw.dirichlet(np.ones(3), count), jnp.float32)
    lesson = Lesson(views, soft, jnp.arange(count) % 3)
    own = Own(keys.stream(0, "dropout"), jnp.float32(0.01), jnp.int32(0))
    state, losses = student_step.init_student(program, jax.random.key(1)), []
    rates = student_step.rates(program)[2]
    learn = jax.jit(student_step.learn, static_argnums=(4, 5))
    for number, start in enumerate(range(0, count, batch)):
        part = jax.tree.map(lambda x, at=start: x[at : at + batch], lesson)
        steps = -(-len(part.images) // program.batch)
        pace = student_step.pace(program, rates[number : number + steps])
        state, loss = learn(state, own, part, pace, learn_program(program), program.batch)
        losses.append(loss)
    return state, jnp.concatenate(losses)


def test_an_epoch_is_its_batches():
    """Of which the last is smaller."""
    program = replace(PROGRAM, regime="fixed", count=10)
    whole, loss = learn_epoch(program, 10, 10)
    pieces, losses = learn_epoch(program, 10, 4)
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
    student_loop.check(many)
    with pytest.raises(UserError, match="there are only 8"):
        student_loop.check(replace(many, shared_norm=True))


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
        drawn = plan_epoch(key, COUNT, 4)
        drawing = ViewProgram(VIEWS, NORMALISATION, True)
        pixels = jnp.asarray(images(20).pixels)
        mixed = student_views(key, pixels, drawn, jnp.arange(COUNT), drawing)
        return drawn, models.create(SPEC).apply(teacher(), mixed.images, train=False)

    def stored(epoch):
        drawn, logits = label(plan.epoch(epoch).key)
        labels = compact.compress(logits, plan.top_k, plan.form, plan.temperature)
        back = np.argsort(drawn.order)
        return compact.Compact(*(np.asarray(part)[back] for part in labels))

    before = train(tmp_path, program, count=2, stored=stored)
    assert_close(before, in_place)


def test_views_come_again_after_the_labelled_epochs(tmp_path, monkeypatch):
    program, drawn = replace(PROGRAM, plan=label_plan(epochs=2), regime="stored"), []
    labels = compact.Compact(np.ones((COUNT, 3), np.float16), None)
    program = replace(program, plan=replace(program.plan, top_k=0))
    real = student_layout.StudentLayout.draw

    def draw(layout, *arguments):
        def call(nothing, wanted, epoch):
            drawn.append(real(layout, *arguments)(nothing, wanted, epoch))
            return drawn[-1]

        return call

    monkeypatch.setattr(student_layout.StudentLayout, "draw", draw)
    train(tmp_path, program, count=1, stored=lambda epoch: labels)
    chex.assert_trees_all_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0].own, drawn[1].own)


def test_averaged_weights_are_scored(tmp_path):
    averaged = train(tmp_path, replace(PROGRAM, protocol=replace(PROTOCOL, ema=0.9)), count=1)
    last = train(tmp_path, count=1)
    a, b = averaged[0].variables["params"], last[0].variables["params"]
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    model = models.create(SPEC)
    logits = teacher_lib.logits_of_examples(model, averaged[0].variables, NORMALISATION, examples())
    np.testing.assert_array_equal(logits, averaged[0].logits)
    # Of parameters alone: running statistics are the student's own.
    program = replace(PROGRAM, protocol=replace(PROTOCOL, ema=0.9))
    state, _ = learn_epoch(program, COUNT, COUNT)
    chex.assert_trees_all_equal_structs(state.average, state.params)
    scored = student_step.scored_variables(state)
    chex.assert_trees_all_equal(scored, {"params": state.average, "batch_stats": state.batch_stats})


def test_the_added_cross_entropy_is_that_of_the_own_class():
    """However much of another image is in the view."""
    protocol = replace(PROTOCOL, hard_weight=0.5)
    program = replace(PROGRAM, regime="fixed", protocol=protocol)
    draw = np.random.default_rng(0)
    own, partners = jnp.array([0, 3, 1]), jnp.array([3, 1, 0])
    share = jnp.array([0.2, 0.7, 0.5])
    soft = jnp.asarray(draw.dirichlet(np.ones(3), 4), jnp.float32)
    inputs = LabelInputs(jnp.array([2, 0, 1, 1]), soft)
    drawn = Drawn(Mixed(jnp.zeros((3, 8, 8, 1)), share), own, partners)
    targets, classes = student_labels.label(
        drawn, inputs, None, (), student_labels.label_program(program)
    )
    assert classes.tolist() == [2, 1, 0]
    part = np.asarray(share)[:, None]
    np.testing.assert_allclose(targets, part * soft[own] + (1 - part) * soft[partners], rtol=1e-6)
    logits = jnp.asarray(draw.standard_normal((3, 3)), jnp.float32)
    lesson, rates = Lesson(drawn.mixed.images, targets, classes), np.ones(1, np.float32)
    losses = [
        student_step.loss_of(learn_program(p), logits, lesson, student_step.pace(p, rates))
        for p in (program, replace(program, protocol=PROTOCOL))
    ]
    expected = -np.mean([jax.nn.log_softmax(z)[c] for z, c in zip(logits, classes, strict=True)])
    np.testing.assert_allclose(losses[0] - losses[1], 0.5 * expected, rtol=1e-4)


def test_only_what_has_changed_has_another_version():
    """Averages and the own class where a training has them, hard labels without the latter."""
    both = replace(PROTOCOL, ema=0.9, hard_weight=0.5)
    assert {k: v for k, v in PROGRAM.versions().items() if v > 1} == {}
    soft = replace(PROGRAM, regime="fixed", protocol=both).versions()
    assert {k: v for k, v in soft.items() if v > 1} == {"training.ema": 2, "training.own_class": 2}
    hard = replace(PROGRAM, protocol=both).versions()
    assert {k: v for k, v in hard.items() if v > 1} == {"training.ema": 2}


def test_accumulated_batches_are_one_gradient_step():
    program = replace(PROGRAM, protocol=replace(PROTOCOL, accumulate=2))
    before = student_step.init_student(program, jax.random.key(1))
    state, _ = learn_epoch(program, COUNT, 4)
    inner = state.opt_state.inner_opt_state
    counts = [leaf for leaf in jax.tree.leaves(inner) if leaf.dtype == jnp.int32]
    assert counts
    assert all(int(count) == 1 for count in counts)
    assert not np.array_equal(*(jax.tree.leaves(s.params)[0] for s in (before, state)))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_learning_rate_falls_by_epochs_however_batches_are_accumulated(accumulate):
    """12 batches in 6 epochs of two: gradients of one sign move weights by the rates' sum."""
    protocol = replace(PROTOCOL, accumulate=accumulate, epochs=6, weight_decay=0.0)
    program = replace(PROGRAM, protocol=protocol)
    optimiser = student_step.make_optimiser(learn_program(program))
    params = {"w": jnp.zeros(())}
    state, moved = optimiser.init(params), []
    for rate in student_step.rates(program).reshape(-1):
        updates, state = optimiser.update({"w": jnp.ones(())}, state, params)
        moved.append(-rate * float(updates["w"]))
    taken = [m for m in moved if m]
    epochs = np.arange(len(taken)) * accumulate // 2
    expected = 0.5 * (1 + np.cos(np.pi * epochs / 12))
    np.testing.assert_allclose(taken, expected, rtol=1e-4)


def test_sets_and_regimes_share_what_learns(tmp_path, monkeypatch):
    """And nothing is traced twice: hard and soft labels, from teachers or not, four epochs."""
    traces, learn = [], student_step.learn
    monkeypatch.setattr(student_step, "learn", lambda *a: traces.append(a[-1]) or learn(*a))
    fresh = replace(PROGRAM, protocol=replace(PROTOCOL, weight_decay=0.02))
    train(tmp_path, fresh, count=2)
    train(tmp_path, replace(fresh, regime="fixed"), count=2)
    train(tmp_path, replace(fresh, regime="online", teachers=(SPEC,)), count=2)
    assert traces == [4]


def test_students_of_the_hard_label_protocols(tmp_path):
    """SGD and DSA through the programs that train; a student without BatchNorm.

    The rate falls to a tenth in the last epoch of four, and with it what a step changes.
    """
    spec = ModelSpec("dc_conv3", 3, 8, 1, width=4)
    views = replace(VIEWS, min_scale=1.0, dsa="idc-color_crop", mix_probability=0.5)
    protocol = replace(PROTOCOL, views=views, schedule="step", optimiser="sgd", batch_size=COUNT)
    made = []
    for epochs in (2, 3, 4):
        own = replace(protocol, epochs=epochs, eval_every=epochs)
        made += train(tmp_path, replace(PROGRAM, student=spec, protocol=own, group_size=COUNT), 1)
    weights = [
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(one.variables["params"])])
        for one in made
    ]
    first, second = np.diff(weights, axis=0)
    assert 0 < np.abs(first).max() < np.inf
    assert np.linalg.norm(second) < 0.5 * np.linalg.norm(first)
    assert not made[0].variables.get("batch_stats")
