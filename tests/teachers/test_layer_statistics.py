"""Statistics of layers and the terms that match them, against plain numpy."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from delt_jax import models
from delt_jax.core.losses import Moments
from delt_jax.data import ArrayExamples, Normalisation, Source
from delt_jax.models import ModelSpec
from delt_jax.models.tap import apply_tapped
from delt_jax.recipe import Recipe, RecoverRecipe
from delt_jax.teachers import layer_statistics, prediction, statistics_matching
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.layer_statistics import RealStatistics, Statistics
from delt_jax.teachers.statistics_matching import Target
from delt_jax.teachers.teacher import Teacher
from delt_jax.terms import TeacherOutputs, class_bn, class_statistics, find, global_statistics

SIZE, CLASSES = 8, 3
SPEC = ModelSpec("conv3", CLASSES, SIZE, 1, width=4)
LABELS = np.array([2, 0, 0, 2, 1], np.int32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# --- of images ---


def numpy_cells(x, side):
    """Mean and variance of every cell over batch, pixels and channels; sides are multiples."""
    corners = [(i, j) for i in range(0, x.shape[1], side) for j in range(0, x.shape[2], side)]
    cells = [x[:, i : i + side, j : j + side] for i, j in corners]
    return np.array([cell.mean() for cell in cells]), np.array([cell.var() for cell in cells])


def numpy_channels(x):
    rows = x.reshape(-1, x.shape[-1])
    return rows.mean(0), rows.var(0)


def test_statistics_of_a_batch():
    norm, conv = np.float32(normal(5, 4, 4, 3)), np.float32(normal(5, 8, 12, 2, seed=1))
    ours = layer_statistics.of_batch((norm,), (conv,), SIZE)
    assert [m.mean.shape for m in (*ours.norms, *ours.convs, *ours.cells)] == [(3,), (2,), (6,)]
    chex.assert_trees_all_close(tuple(ours.norms[0]), numpy_channels(norm), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(tuple(ours.convs[0]), numpy_channels(conv), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(tuple(ours.cells[0]), numpy_cells(conv, 4), rtol=1e-4, atol=1e-6)


def test_sides_are_rounded_up_to_whole_cells():
    assert (layer_statistics.cell_side(64), layer_statistics.cell_side(128)) == (4, 16)
    ramp = np.arange(7, dtype=np.float32)[None, :, None, None] * np.ones((1, 7, 2, 1), np.float32)
    cut = np.asarray(layer_statistics.in_cells(ramp, 4)).reshape(2, 4, 4)
    rows = np.clip((np.arange(8) + 0.5) * 7 / 8 - 0.5, 0, 6)  # where bilinear samples lie
    chex.assert_trees_all_close(cut[..., 0].ravel(), np.float32(rows), atol=1e-5)


# --- of real images ---


@functools.cache
def toy():
    """A teacher, and data of which a class has one image."""
    draw = np.random.default_rng(3)
    labels = np.array([0] * 9 + [1] * 13 + [2], np.int32)[draw.permutation(23)]
    pixels = draw.integers(0, 256, (23, SIZE, SIZE, 1), np.uint8)
    train = ArrayExamples(pixels, labels, [""] * 23)
    source = Source("toy", ("a", "b", "c"), SIZE, 1, train, train, "data")
    shapes = teacher_lib.init_shapes(SPEC)
    variables = jax.tree.map(lambda s: np.float32(0.5 + 0.2 * draw.random(s.shape)), shapes)
    normalisation = Normalisation((0.4,), (0.3,))
    return Teacher(SPEC, variables, normalisation, source.class_names, 0.5, "weights"), source


def test_real_statistics_are_numpys_class_by_class(tmp_path, monkeypatch):
    teacher, source = toy()
    monkeypatch.setattr(prediction, "batch_size", lambda size: 5)  # the last batch is padded
    real = layer_statistics.of_real_images(teacher, source, tmp_path / "cache")
    assert real.counts.tolist() == [9, 13, 1]
    everything = layer_statistics.over_classes(real)

    look = jax.jit(functools.partial(apply_tapped, models.create(SPEC)))
    seen = look(teacher.variables, teacher.normalisation(source.train.pixels))
    norms, convs = jax.tree.map(np.float64, (seen.norm_inputs, seen.conv_inputs))

    def check(found, chosen):
        expected = [numpy_channels(x[chosen]) for x in (*norms, *convs)]
        expected += [numpy_cells(x[chosen], 4) for x in convs[:2]]  # the third is resized
        for ours, theirs in zip(sum(found, ())[:-1], expected, strict=True):
            chex.assert_trees_all_close(tuple(ours), jax.tree.map(np.float32, theirs), rtol=2e-4)

    for c in range(CLASSES):
        of_class = jax.tree.map(lambda x, c=c: x[c], real.by_class)
        check(of_class, source.train.labels == c)
    check(everything, source.train.labels >= 0)


def test_real_statistics_are_measured_once(tmp_path, monkeypatch):
    teacher, source = toy()
    measured, real = [], layer_statistics.measure
    monkeypatch.setattr(layer_statistics, "measure", lambda *a: (measured.append(a), real(*a))[1])
    first = layer_statistics.of_real_images(teacher, source, tmp_path)
    chex.assert_trees_all_equal(layer_statistics.of_real_images(teacher, source, tmp_path), first)
    assert len(measured) == 1
    (file,) = tmp_path.iterdir()
    assert {"weights", "data"} <= set(file.stem.split("-"))
    file.write_bytes(file.read_bytes()[:-50])
    chex.assert_trees_all_equal(layer_statistics.of_real_images(teacher, source, tmp_path), first)
    layer_statistics.of_real_images(dataclasses.replace(teacher, hash="other"), source, tmp_path)
    assert (len(measured), len(list(tmp_path.iterdir()))) == (3, 2)


# --- the terms ---


def seen_of(norms, convs, key=0):
    """A look at images of which only the inputs of layers count."""
    images = np.zeros((len(LABELS), SIZE, SIZE, 1), np.float32)
    nothing = np.zeros((len(LABELS), 2), np.float32)
    return TeacherOutputs(
        images=images,
        labels=LABELS,
        ranks=np.zeros_like(LABELS),
        classes=(0, 1, 1, 0, 2),
        logits=nothing,
        features=nothing,
        norm_inputs=tuple(norms),
        conv_inputs=tuple(convs),
        key=jax.random.key(key),
    )


def inputs(seed=0):
    norms = [normal(5, 4, 4, 3, seed=seed), normal(5, 2, 2, 2, seed=seed + 1)]
    return norms, [normal(5, 8, 8, 1, seed=seed + 2), normal(5, 4, 4, 3, seed=seed + 3)]


def real_statistics(leading=()):
    """Random ones of the right shapes."""
    draw = np.random.default_rng(9)

    def moments(size):
        return Moments(draw.standard_normal((*leading, size)), 1 + draw.random((*leading, size)))

    sizes = ((3, 2), (1, 3), (4, 1))
    return Statistics(*(tuple(moments(size) for size in group) for group in sizes))


def numpy_statistics(norms, convs):
    """The layers' means and variances in the order of `Statistics`."""
    return [numpy_channels(x) for x in (*norms, *convs)] + [numpy_cells(x, 4) for x in convs]


def numpy_residual(matched, real, first=1.0):
    """Two BatchNorms, two convolutions, their cells; the first convolution counts more."""
    off = [
        np.linalg.norm(mean - theirs.mean) + np.linalg.norm(variance - theirs.variance)
        for (mean, variance), theirs in zip(matched, sum(real, ()), strict=True)
    ]
    return sum(off) + (first - 1) * (off[2] + off[4])


def target(real, momentum=0.8, drop=0.0, first=1.0):
    return Target(real, np.float32(momentum), np.float32(drop), np.float32(first))


def averaged(labels, real):
    return jax.tree.map(lambda x: x[labels].mean(0), real)


@pytest.mark.parametrize("name", ["global_statistics", "class_statistics"])
def test_running_statistics_are_matched(name):
    term = find(name)
    real = real_statistics((CLASSES,) if name == "class_statistics" else ())
    aim = averaged(LABELS, real) if name == "class_statistics" else real
    constants = target(jax.tree.map(np.float32, real), momentum=0.7, first=3.0)
    term_state, average = term.init(constants), None

    @jax.jit
    def run(norms, convs, term_state):
        return term.value(seen_of(norms, convs), constants, term_state)

    for t in range(3):
        now = numpy_statistics(*inputs(10 * t))
        average = (
            now
            if average is None
            else jax.tree.map(lambda old, new: 0.7 * old + 0.3 * new, average, now)
        )
        value, term_state = run(*inputs(10 * t), term_state)
        assert float(value) == pytest.approx(numpy_residual(average, aim, 3.0), rel=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(term_state, term.init(constants))


@pytest.mark.parametrize("name", ["global_statistics", "class_statistics", "class_bn"])
def test_gradients_are_finite_differences(name):
    term = find(name)
    with jax.enable_x64(True):
        real = real_statistics(() if name == "global_statistics" else (CLASSES,))
        constants = real.norms if name == "class_bn" else target(real)
        start = term.init(constants)
        given = tuple(jnp.asarray(x) for group in inputs() for x in group)
        value = jax.jit(lambda *x: term.value(seen_of(x[:2], x[2:]), constants, start)[0])
        check_grads(value, given, order=1, modes=["rev"])


def test_the_gradient_is_the_newest_statistics_whatever_the_momentum():
    """Moving along it changes the average as if only the newest statistics were in it."""
    real, term = real_statistics(), global_statistics.TERM
    with jax.enable_x64(True):
        constants = target(real)
        run = jax.jit(lambda n, c, before: term.value(seen_of(n, c), constants, before)[1])
        term_state = run(*inputs(10), term.init(constants))
        given = [jnp.asarray(x) for group in inputs() for x in group]

        def value(x):
            return term.value(seen_of(x[:2], x[2:]), constants, term_state)[0]

        after = run(given[:2], given[2:], term_state)
        fixed = jax.jit(lambda x: layer_statistics.of_batch(x[:2], x[2:], SIZE))(given)

        def straight(x):
            now = layer_statistics.of_batch(x[:2], x[2:], SIZE)
            moved = jax.tree.map(lambda a, s, f: a + s - f, after.average, now, fixed)
            off = jax.tree.map(lambda a, b: jnp.linalg.norm(a - b), moved, real)
            return sum(jax.tree.leaves(off))

        ours, expected = jax.jit(lambda x: (jax.grad(value)(x), jax.grad(straight)(x)))(given)
        chex.assert_trees_all_close(ours, expected, rtol=1e-6)


def test_convolutions_are_dropped_by_the_key():
    real, term = real_statistics(), global_statistics.TERM
    found = set()
    for key in range(12):
        constants = target(real, drop=0.5)
        value, _ = term.value(seen_of(*inputs(), key=key), constants, term.init(constants))
        found.add(round(float(value), 4))
    assert len(found) == 4  # both, one, the other, none
    everything = numpy_residual(numpy_statistics(*inputs()), real)
    assert max(found) == pytest.approx(everything, abs=1e-3)


def test_averages_of_dropped_convolutions_stand_still():
    """Also where the first iterations are left out: an average begins with what it first sees."""
    now, term = [layer_statistics.of_batch(*inputs(10 * t), SIZE) for t in range(3)], None
    state = statistics_matching.begin(real_statistics())
    states = []
    for statistics, counted in zip(now, ([False, True], [True, False], [True, True]), strict=True):
        _, state = statistics_matching.follow(statistics, state, 0.7, np.array(counted))
        states.append(state)
    assert [s.begun.tolist() for s in states] == [[1, 0, 1], [1, 1, 1], [1, 1, 1]]

    def mixed(old, new):
        return jax.tree.map(lambda a, b: 0.7 * a + 0.3 * b, old, new)

    for kind in ("convs", "cells"):
        seen = [getattr(statistics, kind) for statistics in now]
        ends = getattr(states[2].average, kind)
        chex.assert_trees_all_close(ends[0], mixed(seen[1][0], seen[2][0]), rtol=1e-5)
        chex.assert_trees_all_close(ends[1], mixed(seen[0][1], seen[2][1]), rtol=1e-5)
        chex.assert_trees_all_close(getattr(states[1].average, kind)[1], seen[0][1], rtol=1e-5)
    norms = mixed(mixed(now[0].norms, now[1].norms), now[2].norms)
    chex.assert_trees_all_close(states[2].average.norms, norms, rtol=1e-5)
    for name in ("global_statistics", "class_statistics"):
        term = find(name)
        assert term.parts(Recipe(recover=RecoverRecipe(conv_drop=0.4))) == {
            "statistics.conv_drop": 2
        }
        assert term.parts(Recipe()) == {}


def test_each_class_against_its_own():
    norms, convs = inputs()
    real = real_statistics((CLASSES,)).norms
    value, term_state = class_bn.TERM.value(seen_of(norms, convs), real, ())
    expected = 0.0
    for x, theirs in zip(norms, real, strict=True):
        for c in range(CLASSES):
            mean, variance = numpy_channels(x[c == LABELS])
            off = np.linalg.norm(mean - theirs.mean[c])
            expected += (off + np.linalg.norm(variance - theirs.variance[c])) / CLASSES
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert term_state == ()


def test_terms_are_prepared_from_teacher_and_data(tmp_path):
    teacher, source = toy()
    recover = RecoverRecipe(statistics_momentum=0.25, conv_drop=0.5, first_bn_multiplier=7.0)
    recipe = Recipe(recover=recover)
    real: RealStatistics = layer_statistics.of_real_images(teacher, source, tmp_path)
    ours = global_statistics.TERM.prepare(teacher, source, recipe, tmp_path)
    assert [float(x) for x in ours[1:]] == [0.25, 0.5, 7.0]
    stats = teacher.variables["batch_stats"]
    for i, moments in enumerate(ours.real.norms):
        layer = stats[f"norm_{i}"]
        chex.assert_trees_all_equal(moments, Moments(layer["mean"], layer["var"]))
    chex.assert_trees_all_equal(ours.real.convs, layer_statistics.over_classes(real).convs)
    per_class = class_statistics.TERM.prepare(teacher, source, recipe, tmp_path)
    chex.assert_trees_all_equal(per_class.real, real.by_class)
    norms = class_bn.TERM.prepare(teacher, source, recipe, tmp_path)
    chex.assert_trees_all_equal(norms, real.by_class.norms)
