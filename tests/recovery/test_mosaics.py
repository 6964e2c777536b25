"""RDED's mosaics: crops, their scores and their places against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delt_jax import models
from delt_jax.data import ArrayExamples, Normalisation
from delt_jax.models import ModelSpec
from delt_jax.recipe import SelectRecipe
from delt_jax.recovery import mosaics
from delt_jax.recovery.mosaics import Patches
from delt_jax.teachers import prediction
from delt_jax.teachers.teacher import Teacher

PLAIN = Normalisation((0.0,), (1.0,))
# Compiled as a whole: op by op the tests would mostly compile.
random_boxes = jax.jit(mosaics.random_boxes, static_argnums=(1, 2))
patches_of = jax.jit(mosaics.patches_of, static_argnums=2)
best_crops = jax.jit(mosaics.best_crops, static_argnums=(3, 4))


@pytest.mark.parametrize(
    ("asked", "size", "factor"),
    [(0, 224, 2), (0, 128, 2), (0, 129, 1), (0, 64, 1), (0, 28, 1), (3, 28, 3), (1, 224, 1)],
)
def test_mosaics_are_for_large_images(asked, size, factor):
    assert mosaics.factor_of(SelectRecipe(mosaic=asked), size) == factor


def test_candidates_are_drawn_within_each_class():
    labels = np.array([0, 1, 2] * 40 + [1] * 30, np.int32)
    chosen = mosaics.candidates(labels, 20, 3, seed=0)
    assert len(set(chosen)) == 60
    assert labels[chosen].tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert all((np.diff(chosen[i : i + 20]) > 0).all() for i in (0, 20, 40))
    assert chosen.tolist() != mosaics.candidates(labels, 20, 3, seed=1).tolist()
    assert (
        len(mosaics.candidates(labels, 50, 3, seed=0)) == 40 + 50 + 40
    )  # all where there are fewer


def test_boxes_are_squares_of_8_to_100_percent():
    boxes = np.asarray(random_boxes(jax.random.key(0), 50, 2000))
    top, left, height, width = boxes.T
    np.testing.assert_array_equal(height, width)
    assert (height.min(), height.max()) == (14, 50)  # sqrt(0.08) is 0.283
    assert abs((height**2 / 2500).mean() - 0.54) < 0.02  # areas are uniform
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 50).all()
    assert (left + width <= 50).all()
    assert len(np.unique(top[height == 20])) > 5
    again = np.asarray(random_boxes(jax.random.key(0), 50, 3))
    np.testing.assert_array_equal(again, boxes[:3])  # however many are drawn


def test_patches_amid_zeros():
    image = jnp.arange(36.0).reshape(1, 6, 6, 1)
    patch = patches_of(image, jnp.array([[2, 1, 3, 3]]), 3)
    np.testing.assert_allclose(patch[0, :, :, 0], [[13, 14, 15], [19, 20, 21], [25, 26, 27]])
    placed = np.asarray(mosaics.centred(patch, 6))[0, :, :, 0]
    np.testing.assert_allclose(placed[1:4, 1:4], patch[0, :, :, 0])
    assert np.count_nonzero(placed) == 9
    whole = patches_of(image, jnp.array([[0, 0, 6, 6]]), 6)
    np.testing.assert_allclose(mosaics.centred(whole, 6), image, atol=1e-5)


def test_the_best_crop_has_the_lowest_cross_entropy():
    # Four quarters of constants; the "teacher" has the sum of what it sees as logit of class 1.
    quarters = np.kron(np.array([[0.1, 0.4], [0.3, 0.2]]), np.ones((2, 2)))
    images = jnp.array([quarters, quarters])[..., None]
    corners = [[top, left, 2, 2] for top in (0, 2) for left in (0, 2)]

    def teacher(seen):
        assert seen.shape == (8, 4, 4, 1)
        return jnp.stack([jnp.zeros(8), seen.sum(axis=(1, 2, 3))], axis=1)

    boxes, losses = best_crops(images, jnp.array([0, 1]), jnp.array([corners, corners]), 2, teacher)
    assert np.asarray(boxes).tolist() == [corners[0], corners[1]]  # sums 0.4 and 1.6
    expected = [np.log(1 + np.exp(0.4)), np.log(1 + np.exp(-1.6))]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_a_mosaic_takes_every_ipc_th_patch_row_by_row():
    # Class 1, rank 2 of ipc 5: patches 2, 7, 12, 17.
    assert mosaics.positions(7, 5, 2) == [(1, 2), (1, 7), (1, 12), (1, 17)]
    assert mosaics.positions(7, 5, 1) == [(1, 2)]
    patches = jnp.arange(8.0).reshape(8, 1, 1, 1) * jnp.ones((1, 2, 2, 1))
    made = np.asarray(mosaics.mosaics_of(patches, 2))[..., 0]
    assert made[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert made[1].tolist() == [[4, 4, 5, 5], [4, 4, 5, 5], [6, 6, 7, 7], [6, 6, 7, 7]]


def test_rendering_cuts_the_boxes_out_of_the_images():
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (300, 4, 4, 1), np.uint8)
    examples = ArrayExamples(pixels, np.zeros(300, np.int32), [""] * 300)
    images = draw.integers(0, 300, (2, 200))  # 2 classes of 50 images of 4 patches
    boxes = np.tile(np.array([0, 2, 2, 2], np.int32), (2, 200, 1))
    patches = Patches(images, boxes, np.zeros((2, 200), np.float32))
    made = mosaics.render(patches, tuple(range(3, 60)), 2, examples, PLAIN)
    assert made.shape == (57, 4, 4, 1)
    for image, content in zip(range(3, 60), made, strict=True):
        c, k = divmod(image, 50)
        cut = [pixels[images[c, j * 50 + k], 0:2, 2:4] / 255 for j in range(4)]
        rows = [np.concatenate(pair, axis=1) for pair in (cut[:2], cut[2:])]
        np.testing.assert_allclose(content, np.concatenate(rows), atol=1e-6)


@pytest.fixture(scope="module")
def teacher():
    spec = ModelSpec("conv3", 2, 8, 1, width=8)
    variables = models.create(spec).init(jax.random.key(3), jnp.zeros((1, 8, 8, 1)), train=False)
    host = jax.tree.map(np.asarray, {k: variables[k] for k in ("params", "batch_stats")})
    return Teacher(spec, host, PLAIN, ("a", "b"), 0.5)


def test_finding_reads_once_and_keeps_the_best(teacher, monkeypatch):
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (40, 8, 8, 1), np.uint8)
    labels = np.array([0, 1] * 20, np.int32)
    examples = ArrayExamples(pixels, labels, [""] * 40)
    recipe, seen = SelectRecipe(start="rded", candidates=15, crops=3, mosaic=2), []
    found = mosaics.find(teacher, examples, 8, recipe, 5, seen.append)
    assert sum(seen) == 30
    assert found.images.shape == found.cross_entropy.shape == (2, 8)
    assert (labels[found.images] == np.arange(2)[:, None]).all()
    assert all(len(set(row)) == 8 for row in found.images)  # one crop of an image at most
    # Every loss is the teacher's on the crop amid zeros, by its ordinary forward pass.
    for c in range(2):
        patches = patches_of(PLAIN(pixels[found.images[c]]), found.boxes[c], 4)
        logits = teacher.model.apply(teacher.variables, mosaics.centred(patches, 8), train=False)
        expected = -jax.nn.log_softmax(logits)[:, c]
        np.testing.assert_allclose(found.cross_entropy[c], expected, atol=1e-5)
        assert (np.diff(found.cross_entropy[c]) >= 0).all()
    # Batches of another size, as elsewhere, find the same.
    monkeypatch.setattr(prediction, "batch_size", lambda _: 12)
    again = mosaics.find(teacher, examples, 8, recipe, 5, lambda _: None)
    np.testing.assert_array_equal(again.images, found.images)
    np.testing.assert_array_equal(again.boxes, found.boxes)
