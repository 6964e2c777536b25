"""Further terms of the objective: each against numpy by hand, and its gradient."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from delt_jax import models, terms
from delt_jax.core import losses as losses_lib
from delt_jax.data import ArrayExamples, Normalisation, Source, open_source
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.models.tap import apply_tapped
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.recipe.teacher import TeacherRecipe
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.terms import TeacherOutputs, barycentre, densification

SPEC = ModelSpec("conv3", 3, 8, 1, width=4)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(labels, ranks=None, features=None, images=None):
    """What a teacher sees of some images; what is not given is not looked at."""
    n = len(labels)
    return TeacherOutputs(
        images=jnp.zeros((n, 4, 4, 1)) if images is None else jnp.asarray(images),
        labels=jnp.array(labels, jnp.int32),
        ranks=jnp.zeros(n, jnp.int32) if ranks is None else jnp.array(ranks, jnp.int32),
        classes=tuple(np.unique(labels, return_inverse=True)[1].tolist()),
        logits=jnp.zeros((n, 3)),
        features=jnp.zeros((n, 2)) if features is None else jnp.asarray(features),
        norm_inputs=(),
        conv_inputs=(),
        key=jax.random.key(0),
    )


def test_terms_by_name():
    assert {"barycentre", "densification"} <= set(terms.names())
    assert terms.find("barycentre") is barycentre.TERM
    with pytest.raises(
        UserError,
        match=r"no term .barycenter. for .*; did you mean barycentre\? There are all_outputs, b",
    ):
        terms.find("barycenter")


# barycentre


def test_the_distance_to_the_points_of_class_and_rank():
    points = normal(3, 2, 4)
    look = seen([2, 0, 2], [1, 0, 0], normal(3, 4, seed=1))
    total, term_state = barycentre.TERM.value(look, points, ())
    lacking = np.asarray(look.features) - np.stack([points[2, 1], points[0, 0], points[2, 0]])
    np.testing.assert_allclose(total, np.sqrt((lacking.astype(np.float64) ** 2).sum()), rtol=1e-6)
    assert term_state == ()


def test_the_distance_has_a_gradient_everywhere():
    points, look = normal(3, 2, 4), seen([2, 0, 2], [1, 0, 0])

    def value(features):
        return barycentre.TERM.value(look._replace(features=features), points, ())[0]

    check_grads(value, (normal(3, 4, seed=1),), order=1, modes=["rev"], rtol=1e-2, eps=1e-2)
    at_the_points = jnp.asarray(points[look.labels, look.ranks])
    np.testing.assert_array_equal(jax.grad(value)(at_the_points), 0)


def test_one_point_is_the_mean():
    features = normal(7, 5)
    found = barycentre.barycentre(features, normal(1, 5, seed=1))
    np.testing.assert_allclose(found, features.mean(0, keepdims=True, dtype=np.float64), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(8)))
def test_every_point_stands_for_as_many_features(order):
    """Two of eight: four features each, whatever the clouds; kept in the place of their start."""
    low = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    features = np.concatenate([low, low + 10])[list(order)]
    for start in ([[-1, -1], [1, 1]], [[1, 1], [-1, -1]]):
        found = barycentre.barycentre(features, np.array(start, np.float32))
        expected = [[0.5, 0.5], [10.5, 10.5]]
        np.testing.assert_allclose(found, expected if start[0][0] < 0 else expected[::-1])


def test_clouds_of_unequal_size_share_a_point():
    """Six features near 0, two at 10: half of the mass is four, so one point mixes both."""
    features = np.array([[0], [0], [0], [0], [0], [0], [10], [10]], np.float32)
    found = barycentre.barycentre(features, np.array([[-1], [1]], np.float32))
    np.testing.assert_allclose(found, [[0], [5]])


@pytest.fixture(scope="module")
def teacher():
    model = models.create(SPEC)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    variables = jax.tree.map(np.asarray, {k: variables[k] for k in ("params", "batch_stats")})
    return Teacher(SPEC, variables, Normalisation((0.5,), (0.25,)), ("a", "b", "c"), 0.9, "weights")


@pytest.fixture(scope="module")
def source():
    """Classes of 5, 2 and 4 images in no order."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.repeat(np.arange(3, dtype=np.int32), (5, 2, 4)))
    pixels = draw.integers(0, 256, (11, 8, 8, 1), dtype=np.uint8)
    train = ArrayExamples(pixels, labels, [""] * 11)
    return Source("toy", ("a", "b", "c"), 8, 1, train, train, "pixels")


def test_points_of_every_class(teacher, source, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "BATCH", 3)  # classes lie across batches
    recipe = Recipe(ipc=2)
    points = barycentre.TERM.prepare(teacher, source, recipe, tmp_path / "cache")
    features = teacher_lib.features_of(teacher, source.train.pixels)
    assert (points.dtype, points.shape) == (np.float32, (3, 2, features.shape[1]))
    for c in range(3):
        # Points of equal mass: together they have the mean of their class.
        mean = features[source.train.labels == c].mean(0)
        np.testing.assert_allclose(points[c].mean(0), mean, atol=1e-5)
        assert np.abs(points[c, 0] - points[c, 1]).max() > 1e-3
    members = features[source.train.labels == 1]
    np.testing.assert_allclose(np.sort(points[1], 0), np.sort(members, 0), atol=1e-6)


def test_points_are_found_once(teacher, source, tmp_path, monkeypatch):
    recipe, cache = Recipe(ipc=2), tmp_path / "cache"
    first = barycentre.TERM.prepare(teacher, source, recipe, cache)
    (file,) = cache.iterdir()
    assert file.name == "barycentre-weights-pixels-2-0.npz"
    with monkeypatch.context() as patched:
        patched.setattr(teacher_lib, "features_of", None)
        again = barycentre.TERM.prepare(teacher, source, recipe, cache)
        np.testing.assert_array_equal(again, first)
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(barycentre.TERM.prepare(teacher, source, recipe, cache), first)
    other = dataclasses.replace(teacher, hash="others")
    for changed in ((other, recipe), (teacher, Recipe(ipc=1)), (teacher, Recipe(ipc=2, seed=1))):
        barycentre.TERM.prepare(changed[0], source, changed[1], cache)
    assert len(list(cache.iterdir())) == 4


# densification


def by_hand(rows, temperature=4.0):
    """KL of the softened spectrum from the spectrum, float64."""
    values = np.linalg.eigvalsh(rows.astype(np.float64) @ rows.T.astype(np.float64))

    def log_softmax(x):
        return x - x.max() - np.log(np.exp(x - x.max()).sum())

    target = log_softmax(values / temperature)
    return (np.exp(target) * (target - log_softmax(values))).sum()


def test_the_spectra_of_classes():
    """Per class, whatever the order of the images."""
    images = 0.3 * normal(5, 4, 4, 1)
    total, term_state = densification.TERM.value(seen([1, 0, 1, 2, 1], images=images), (), ())
    rows = images.reshape(5, -1)
    assert by_hand(rows[[1]]) == by_hand(rows[[3]]) == 0  # an image alone
    np.testing.assert_allclose(total, by_hand(rows[[0, 2, 4]]), rtol=1e-5)
    total, _ = densification.TERM.value(seen([1, 0, 1, 0, 1], images=images), (), ())
    np.testing.assert_allclose(total, by_hand(rows[[0, 2, 4]]) + by_hand(rows[[1, 3]]), rtol=1e-5)
    assert term_state == ()


@pytest.mark.parametrize("size", [64, 40])
def test_large_images_are_averaged_down(size):
    """To 32 px, in torch's bins where the sides are no multiple."""
    images = 0.1 * normal(3, size, size, 2)
    bins = [(i * size // 32, -(-(i + 1) * size // 32)) for i in range(32)]
    small = np.stack(
        [[images[:, a:b, c:d].mean((1, 2)) for c, d in bins] for a, b in bins]
    ).transpose(2, 0, 1, 3)
    total, _ = densification.TERM.value(seen([0, 0, 0], images=images), (), ())
    np.testing.assert_allclose(total, by_hand(small.reshape(3, -1)), rtol=1e-4)


def test_the_gradient_of_densification():
    """By differences, with the target held where it is."""
    rows = np.asarray(0.4 * normal(3, 6), np.float64)
    values = np.linalg.eigvalsh(rows @ rows.T)
    target = np.exp(values / 4) / np.exp(values / 4).sum()

    def loss(x):
        v = np.linalg.eigvalsh(x @ x.T)
        return -(target * (v - np.log(np.exp(v).sum()))).sum()

    expected = np.zeros_like(rows)
    for at in np.ndindex(rows.shape):
        step = np.zeros_like(rows)
        step[at] = 1e-5
        expected[at] = (loss(rows + step) - loss(rows - step)) / 2e-5
    ours = jax.grad(densification.densification)(jnp.float32(rows))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


def test_real_images_have_no_densification():
    """Their spectra saturate the softmax: value and gradient are exactly 0, as in released code."""
    source = open_source(DataRecipe(name="digits"))
    members = np.flatnonzero(source.train.labels == 3)[:10]
    images = jnp.asarray(Normalisation((0.3,), (0.4,))(source.train.images(members)))

    @jax.value_and_grad
    def value(images):
        return densification.TERM.value(seen([3] * 10, images=images), (), ())[0]

    total, gradient = jax.jit(value)(images)
    assert float(total) == 0
    assert not np.asarray(gradient).any()


def test_eigenvalues_have_their_derivative():
    def of_symmetric(x):
        return densification.eigenvalues(x @ x.T)

    check_grads(of_symmetric, (normal(4, 6),), order=1, modes=["fwd", "rev"], rtol=1e-2, eps=1e-2)


@pytest.mark.parametrize("scale", [0.0, 0.1, 30.0])
def test_the_gradient_is_finite_for_equal_images(scale):
    images = np.repeat(scale * normal(2, 4, 4, 1), 2, axis=0)

    def value(images):
        return densification.TERM.value(seen([0, 0, 0, 0], images=images), (), ())[0]

    total, gradient = jax.jit(jax.value_and_grad(value))(jnp.asarray(images))
    chex.assert_tree_all_finite((total, gradient))
    assert total >= -1e-6


# total variation


def total_variation(images):
    return terms.find("total_variation").value(seen([0, 1], images=images), (), ())[0]


def test_total_variation_by_hand():
    images = normal(2, 5, 5, 3)
    wide = images.astype(np.float64)
    each = (np.diff(wide, axis=1) ** 2).mean((1, 2, 3)) + (np.diff(wide, axis=2) ** 2).mean(
        (1, 2, 3)
    )
    np.testing.assert_allclose(total_variation(images), np.sqrt((each**2).mean()), rtol=1e-6)


def test_total_variation_is_least_where_images_share_the_detail():
    one = normal(1, 5, 5, 3)
    shared = np.concatenate([one, one])
    alone = np.concatenate([np.sqrt(2) * one, 0 * one])  # as much in all
    np.testing.assert_allclose(
        total_variation(alone), np.sqrt(2) * total_variation(shared), rtol=1e-5
    )


def test_total_variation_leaves_flat_images_alone():
    check_grads(total_variation, (normal(2, 4, 4, 1),), order=1, modes=["rev"], rtol=1e-2, eps=1e-2)
    np.testing.assert_array_equal(jax.grad(total_variation)(jnp.full((2, 4, 4, 1), 0.3)), 0)


# all outputs

WHOLE = ModelSpec("conv3", 7, 8, 1, width=4)
KEPT = (5, 0, 3)


@pytest.fixture
def cut_from(tmp_path):
    """Variables of a network of seven classes, and the file that has them."""
    variables = models.create(WHOLE).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    variables = {k: jax.device_get(variables[k]) for k in ("params", "batch_stats")}
    state = torch_weights.to_torch(variables, WHOLE)
    state["classifier.bias"] = normal(7)
    torch_files.write(tmp_path / "whole.safetensors", state)
    return state, tmp_path / "whole.safetensors"


def of_three_classes(state, weights):
    cut = torch_weights.from_torch(state, SPEC, KEPT)
    recipe = Recipe(teacher=TeacherRecipe(model="conv3", weights=str(weights)))
    return Teacher(SPEC, cut, Normalisation((0.0,), (1.0,)), tuple("abc"), None), recipe


def test_cross_entropy_over_the_outputs_that_were_cut(cut_from, tmp_path):
    state, weights = cut_from
    teacher, recipe = of_three_classes(state, weights)
    constants = terms.find("all_outputs").prepare(teacher, None, recipe, tmp_path)
    images, labels = normal(4, 8, 8, 1), np.array([2, 0, 1, 1])
    tapped = apply_tapped(teacher.model, teacher.variables, images)
    look = seen(labels, images=images)._replace(features=tapped.features, logits=tapped.logits)
    value, _ = terms.find("all_outputs").value(look, constants, ())
    logits = models.create(WHOLE).apply(torch_weights.from_torch(state, WHOLE), images, train=False)
    expected = losses_lib.cross_entropy(logits, np.asarray(KEPT)[labels])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value > losses_lib.cross_entropy(tapped.logits, labels)


def test_outputs_that_were_not_cut_are_refused(cut_from, tmp_path):
    state, weights = cut_from
    teacher, recipe = of_three_classes(state, weights)
    prepare = terms.find("all_outputs").prepare
    with pytest.raises(UserError, match=r"teacher.weights is '' and .* name such a file"):
        prepare(teacher, None, Recipe(), tmp_path)
    folder = Recipe(teacher=TeacherRecipe(weights=str(tmp_path)))
    with pytest.raises(UserError, match=r"have, as they are, but teacher.weights"):
        prepare(teacher, None, folder, tmp_path)
    whole = Teacher(
        WHOLE, torch_weights.from_torch(state, WHOLE), teacher.normalisation, tuple("abcdefg"), None
    )
    with pytest.raises(UserError, match=r"the data's 7, but the last layer of .* has 7"):
        prepare(whole, None, recipe, tmp_path)
    torch_files.write(weights, state | {"classifier.weight": state["classifier.weight"] + 1})
    with pytest.raises(UserError, match=r"that this teacher was cut from"):
        prepare(teacher, None, recipe, tmp_path)
