"""RDED's crops of image files: taken of the files as they are, whatever they are fitted to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from delt_jax import models
from delt_jax.data import Normalisation, Source, cache_in_memory, files_of, open_source
from delt_jax.data.file_crops import GivenCrops, RandomCrops, cut, square_boxes
from delt_jax.data.stream import batches
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec
from delt_jax.recipe import DataRecipe, Recipe, SelectRecipe
from delt_jax.recovery import initial_images, mosaics
from delt_jax.teachers.teacher import Teacher

SIZE = 8
NORMALISATION = Normalisation((0.4,), (0.3,))
RECIPE = SelectRecipe(start="rded", candidates=7, crops=3, mosaic=2)


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (50, 50)])
def test_boxes_are_squares_of_the_whole_file(size):
    boxes = square_boxes(np.random.default_rng(0), size, 4000, 0.08)
    top, left, height, width = boxes.T
    np.testing.assert_array_equal(height, width)
    area = height**2 / (size[0] * size[1])
    assert height.max() <= min(size)
    assert 0.075 < area.min() < 0.085
    # Areas are uniform up to the largest square; a larger one is drawn again.
    largest = min(size) ** 2 / (size[0] * size[1])
    assert abs(area.mean() - (0.08 + largest) / 2) < 0.01
    for corner, side in ((top, size[0]), (left, size[1])):
        assert corner.min() == 0
        assert (corner + height).max() == side
    again = square_boxes(np.random.default_rng(0), size, 4000, 0.08)
    np.testing.assert_array_equal(again, boxes)


def test_a_strip_gives_its_central_square():
    boxes = square_boxes(np.random.default_rng(0), (4, 1001), 3, 0.08)
    assert boxes.tolist() == [[0, 498, 4, 4]] * 3


def test_a_crop_is_cut_before_it_is_scaled():
    """Nothing of the image beside the box is in it; whole pixels stay as they are."""
    pixels = np.zeros((9, 12), np.uint8)
    pixels[2:6, 3:7] = np.arange(16).reshape(4, 4)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(cut(image, (2, 3, 4, 4), 4, 1)[..., 0], pixels[2:6, 3:7])
    pixels[:], pixels[2:6, 3:7] = 255, 40
    assert (cut(Image.fromarray(pixels), (2, 3, 4, 4), 2, 3) == 40).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of grey pictures of many sizes, in which every pixel tells where it is from."""
    root, draw = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for c, label in enumerate(("a", "b")):
        for split, count in (("train", 10), ("test", 1)):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                height, width = 20 + 3 * i, 45 - 2 * i + c
                pixels = draw.integers(0, 256, (height, width), np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return root


def source_of(folder, **settings) -> Source:
    recipe = DataRecipe(name="folder", path=str(folder), image_size=SIZE, channels=1, workers=0)
    return open_source(dataclasses.replace(recipe, **settings))


@pytest.fixture(scope="module")
def teacher():
    spec = ModelSpec("conv3", 2, SIZE, 1, width=8)
    shape = jnp.zeros((1, SIZE, SIZE, 1))
    variables = models.create(spec).init(jax.random.key(3), shape, train=False)
    host = jax.tree.map(np.asarray, {k: variables[k] for k in ("params", "batch_stats")})
    return Teacher(spec, host, NORMALISATION, ("a", "b"), 0.5)


@functools.cache
def pictures(folder):
    """Pixels of all training pictures, in the order of the source."""
    return [np.asarray(Image.open(path)) for path in sorted((folder / "train").glob("*/*"))]


def test_files_are_found_behind_caches(folder, tmp_path):
    source = source_of(folder)
    assert files_of(source.train) is source.train
    cached = cache_in_memory(source, 100, tmp_path)
    assert files_of(cached.train) is source.train
    assert files_of(dataclasses.replace(source.train, as_stored=True)) is None
    recipe = Recipe(select=RECIPE)
    parts = {"start.rded": 1, "start.rded_files": mosaics.FILES_VERSION}
    assert initial_images.parts(recipe, cached) == parts
    digits = open_source(DataRecipe(name="digits"))
    assert files_of(digits.train) is None
    assert initial_images.parts(recipe, digits) == {"start.rded": 1}
    assert initial_images.parts(Recipe(), cached) == {"start.real": 1}


def test_the_best_crops_of_files_as_they_are(folder, teacher, tmp_path):
    source, seen = cache_in_memory(source_of(folder), 100, tmp_path), []
    found = mosaics.find(teacher, source.train, 4, RECIPE, 5, seen.append)
    assert sum(seen) == 14
    assert found.images.shape == (2, 4)
    assert (np.diff(found.cross_entropy, axis=1) >= 0).all()
    beyond = 0
    for c in range(2):
        for index, box, loss in zip(
            found.images[c], found.boxes[c], found.cross_entropy[c], strict=True
        ):
            assert source.train.labels[index] == c
            picture = pictures(folder)[index]
            height, width = picture.shape
            top, left, side, _ = box
            assert max(top + side - height, left + side - width) <= 0
            # Fitted, the picture would show but its central square.
            spare = abs(width - height) // 2
            beyond += min(top, left) < spare or side > SIZE
            patch = cut(Image.fromarray(picture), box, SIZE // 2, 1)
            placed = mosaics.centred(NORMALISATION(patch[None]), SIZE)
            logits = teacher.model.apply(teacher.variables, placed, train=False)
            np.testing.assert_allclose(loss, -jax.nn.log_softmax(logits)[0, c], atol=1e-5)
    assert beyond > 4
    # One of one class each, of four patches of its files.
    made = mosaics.render(found, [0, 1], 2, source.train, NORMALISATION)
    assert made.shape == (2, SIZE, SIZE, 1)
    for c in range(2):
        corner = cut(Image.fromarray(pictures(folder)[found.images[c, 3]]), found.boxes[c, 3], 4, 1)
        np.testing.assert_allclose(made[c, 4:, 4:], NORMALISATION(corner), atol=1e-6)


def test_mosaics_of_files_are_found_again(folder, teacher, tmp_path):
    """By a recovery that goes on, and by what the manifest of the set says."""
    select = dataclasses.replace(RECIPE, candidates=10)
    source, recipe = source_of(folder), Recipe(ipc=2, seed=3, select=select)
    initial_images.check(recipe, source)
    starts = initial_images.prepare(recipe, source, teacher, None, tmp_path)
    made = starts.images(range(4))
    assert made.shape == (4, SIZE, SIZE, 1)
    resumed = initial_images.prepare(recipe, source, teacher, None, tmp_path)
    np.testing.assert_array_equal(resumed.images([2, 0]), made[[2, 0]])
    again = initial_images.recorded(starts.record(tmp_path), tmp_path, source, NORMALISATION)
    np.testing.assert_array_equal(again.images(range(4)), made)
    # As stored they lose nothing: crops are whole pixel values already.
    pixels = again.pixels(range(4))
    np.testing.assert_allclose(NORMALISATION(pixels), made, atol=1e-6)


def test_crops_depend_on_seed_and_file_alone(folder):
    files = files_of(source_of(folder).train)
    crops = RandomCrops(files, 4, 3, 0.08, 7)
    whole = crops.images(np.arange(20))
    assert len(crops) == 20
    order = np.array([17, 2, 5, 9, 11, 0, 3])
    streamed = list(batches(dataclasses.replace(crops, files=files), 2, order))
    assert [len(some) for _, some in streamed] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([some for _, some in streamed]), whole[order])
    other = dataclasses.replace(crops, seed=8).images(order)
    assert (other["boxes"] != whole["boxes"][order]).any()
    given = GivenCrops(files, 4, order, whole["boxes"][order, 1])
    assert len(given) == 7
    (_, again), *_ = batches(given, 7)
    np.testing.assert_array_equal(again, whole["pixels"][order, 1])


@pytest.mark.exhaustive  # workers are those of data/test_folder.py
def test_workers_cut_the_same_crops(folder, monkeypatch):
    monkeypatch.setattr("delt_jax.data.stream.SECONDS_WORTH_WORKERS", -1.0)
    files = files_of(source_of(folder, workers=1).train)
    crops, order = RandomCrops(files, 4, 2, 0.08, 7), np.arange(60) % 20
    read = np.concatenate([some for _, some in batches(crops, 8, order)])
    np.testing.assert_array_equal(read, crops.images(order))


def test_a_file_that_is_no_picture_is_named(folder, tmp_path):
    files = files_of(source_of(folder).train)
    names = files.names
    broken = tmp_path / names[0]
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no picture")
    encoded = dataclasses.replace(files.encoded, root=str(tmp_path).encode())
    with pytest.raises(UserError, match=r"0\.png cannot be read as an image"):
        RandomCrops(dataclasses.replace(files, encoded=encoded), 4, 1, 0.08, 0).images(
            np.array([0])
        )
