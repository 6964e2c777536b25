"""Every operation of RandAugment against Pillow, on noise, ramps, flat and few-level images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from delt_jax.augment import affine, enhance, rand_augment, tables
from delt_jax.augment.rand_augment import OPERATIONS, Operations

FILL = {1: (128,), 3: (124, 116, 104)}
augment = jax.jit(rand_augment.augment, static_argnums=2)


def samples(size: int, channels: int) -> np.ndarray:
    """uint8 [10, S, S, C]."""
    draw = np.random.default_rng(size)
    shape = (size, size, channels)
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] * np.arange(1, channels + 1)
    images = [draw.integers(0, 256, shape) for _ in range(3)]
    images += [draw.integers(90, 110, shape), draw.choice([3, 250], shape), ramp % 256]
    images += [np.full(shape, 77), np.where(ramp == 0, 5, 200), ramp * 255 // ramp.max()]
    images += [draw.integers(0, 256, (1, 1, channels)) * np.ones(shape, int)]
    return np.stack(images).astype(np.uint8)


SETS = [pytest.param(s, c, id=f"{s}px{c}") for s, c in ((28, 1), (31, 3))]


def to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def from_pillow(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def theirs(images: np.ndarray, function, arguments) -> np.ndarray:
    pairs = zip(images, arguments, strict=True)
    return np.stack([from_pillow(function(to_pillow(i), a)) for i, a in pairs])


def ours(images: np.ndarray, name: str, arguments, bicubic=False) -> np.ndarray:
    count = len(images)
    operations = Operations(
        jnp.full((count, 1), OPERATIONS.index(name)),
        jnp.asarray(arguments, jnp.float32)[:, None],
        jnp.full((count, 1), bicubic),
    )
    out = augment(jnp.asarray(images), operations, FILL[images.shape[3]])
    assert out.dtype == jnp.uint8
    return np.asarray(out)


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


def solarize_add(image: Image.Image, addend: int) -> Image.Image:
    table = [min(255, i + addend) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


EXACT = {
    "equalize": (lambda i, _: ImageOps.equalize(i), [0] * 10),
    "invert": (lambda i, _: ImageOps.invert(i), [0] * 10),
    "posterize": (ImageOps.posterize, [1, 2, 3, 4, 5, 6, 7, 8, 2, 4]),
    "solarize": (ImageOps.solarize, [0, 1, 60, 100, 128, 200, 255, 256, 77, 30]),
    "solarize_add": (solarize_add, [0, 1, 30, 60, 77, 90, 109, 110, 110, 50]),
}


@pytest.mark.parametrize(("size", "channels"), SETS)
@pytest.mark.parametrize("name", EXACT)
def test_integer_operations_are_pillows(name, size, channels):
    images, (function, arguments) = samples(size, channels), EXACT[name]
    np.testing.assert_array_equal(
        ours(images, name, arguments), theirs(images, function, arguments)
    )


def factors() -> list[float]:
    """Of blends; what `draw` makes are multiples of 2^-14."""
    drawn = np.random.default_rng(0).uniform(0.1, 1.9, 7)
    return [0.0, 1.0, 1.9, *(np.round(drawn * 2**14) / 2**14)]


@pytest.mark.parametrize(("size", "channels"), SETS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_blends_are_pillows(name, size, channels):
    images = samples(size, channels)
    kind = getattr(ImageEnhance, name.capitalize())
    arguments = [round(f * 2**14) / 2**14 for f in factors()]
    expected = theirs(images, lambda image, factor: kind(image).enhance(factor), arguments)
    np.testing.assert_array_equal(ours(images, name, arguments), expected)


@pytest.mark.parametrize(("size", "channels"), SETS)
def test_autocontrast_is_pillows_but_for_whole_levels(size, channels):
    images = samples(size, channels)
    expected = theirs(images, lambda i, _: ImageOps.autocontrast(i), [0] * 10)
    made = ours(images, "autocontrast", [0] * 10)
    assert apart(made, expected).max() <= 1
    lowest = images.min((1, 2), keepdims=True).astype(int)
    span = np.maximum(images.max((1, 2), keepdims=True) - lowest, 1)
    whole = (images - lowest) * 255 % span == 0
    np.testing.assert_array_equal(made[~whole], expected[~whole])


def test_a_black_image_stays_black_without_bits():
    assert (ours(samples(28, 1), "posterize", [0] * 10) == 0).all()


MATRICES = {
    "shear_x": lambda v, size: (1, v, 0, 0, 1, 0),
    "shear_y": lambda v, size: (1, 0, 0, v, 1, 0),
    "translate_x": lambda v, size: (1, 0, v * size, 0, 1, 0),
    "translate_y": lambda v, size: (1, 0, 0, 0, 1, v * size),
}
VALUES = np.round(np.random.default_rng(1).uniform(-0.45, 0.45, 10) * 2**10) / 2**10


@pytest.mark.parametrize(("size", "channels"), SETS)
@pytest.mark.parametrize("bicubic", [False, True], ids=["linear", "cubic"])
@pytest.mark.parametrize("name", MATRICES)
def test_shear_and_translation_are_pillows(name, bicubic, size, channels):
    images = samples(size, channels)
    filter_ = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    fill = FILL[channels] if channels == 3 else FILL[1][0]

    def move(image, value):
        matrix = MATRICES[name](value, size)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, filter_, fillcolor=fill)

    difference = apart(ours(images, name, VALUES, bicubic), theirs(images, move, VALUES))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= (2e-3 if bicubic else 0)


@pytest.mark.parametrize(("size", "channels"), SETS)
@pytest.mark.parametrize("bicubic", [False, True], ids=["linear", "cubic"])
def test_rotation_is_pillows(bicubic, size, channels):
    """The same matrix: the same pixels; the same angle: but for the matrix's 1/4096 steps."""
    images, degrees = samples(size, channels), [0, 30, -30, 1, -7.5, 12.25, 22, -18, 5, -0.5]
    filter_ = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    fill = FILL[channels] if channels == 3 else FILL[1][0]

    def stepped(image, angle):
        matrix = np.asarray(affine.rotate(jnp.float32(angle), size)).tolist()
        return image.transform(image.size, Image.Transform.AFFINE, matrix, filter_, fillcolor=fill)

    def turn(image, angle):
        return image.rotate(angle, filter_, fillcolor=fill)

    made = ours(images, "rotate", degrees, bicubic)
    difference = apart(made, theirs(images, stepped, degrees))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 2e-3
    difference = apart(made, theirs(images, turn, degrees))
    assert difference.max() <= 2
    assert (difference > 0).mean() <= 0.06


@pytest.mark.parametrize("size", [28, 224])
def test_coordinates_are_exact(size):
    angles = jnp.linspace(-30, 30, 31)
    matrices = np.asarray(affine.rotate(angles, size))
    assert (matrices * 4096 == np.round(matrices * 4096)).all()
    turned = [math.cos(a) for a in np.deg2rad(np.asarray(angles, np.float64))]
    np.testing.assert_allclose(matrices[:, 0], turned, atol=2**-13 + 1e-6)


def test_histogram_counts_pixels():
    images = samples(28, 3)
    counts = np.asarray(jax.jit(tables.histogram)(jnp.asarray(images)))
    for image, row in zip(images, counts, strict=True):
        for channel in range(3):
            expected = np.bincount(image[..., channel].ravel(), minlength=256)
            np.testing.assert_array_equal(row[channel], expected)


def test_luminance_is_pillows():
    images = samples(31, 3)
    expected = np.stack([np.asarray(to_pillow(i).convert("L")) for i in images])
    np.testing.assert_array_equal(enhance.luminance(jnp.asarray(images)), expected)


def test_color_leaves_greys_as_they_are():
    images = samples(28, 1)
    np.testing.assert_array_equal(ours(images, "color", [0.1] * 10), images)


def test_autocontrast_by_hand():
    """Levels 10 to 20 are stretched to 0 to 255, rounding down; what lies outside is cut."""
    counts = np.zeros((1, 1, 256), np.int32)
    counts[0, 0, [10, 14, 20]] = (3, 1, 2)
    table = np.asarray(tables.autocontrast(jnp.asarray(counts)))[0, 0]
    assert table[[9, 10, 11, 15, 19, 20, 21, 255]].tolist() == [0, 0, 25, 127, 229, 255, 255, 255]
    flat = np.zeros((1, 1, 256), np.int32)
    flat[0, 0, 7] = 9
    assert np.asarray(tables.autocontrast(jnp.asarray(flat)))[0, 0].tolist() == list(range(256))


def test_equalize_by_hand():
    """Steps of (1020 - 255) // 255 = 3 pixels: (3 // 2 + pixels below) // 3 for each level."""
    counts = np.zeros((1, 1, 256), np.int32)
    counts[0, 0, [2, 5, 9]] = (300, 465, 255)
    table = np.asarray(tables.equalize(jnp.asarray(counts)))[0, 0]
    assert table[[0, 2, 3, 5, 6, 9, 10, 255]].tolist() == [0, 0, 100, 100, 255, 255, 255, 255]
    counts[0, 0, 12] = 1  # alone at the top, so the step is (1021 - 1) // 255 = 4 pixels
    table = np.asarray(tables.equalize(jnp.asarray(counts)))[0, 0]
    assert table[[2, 3, 6, 10, 12]].tolist() == [0, 75, 191, 255, 255]
    few = np.zeros((1, 1, 256), np.int32)
    few[0, 0, [2, 9]] = (200, 300)  # no step of a whole pixel
    assert np.asarray(tables.equalize(jnp.asarray(few)))[0, 0].tolist() == list(range(256))


def test_tables_by_hand():
    levels = np.arange(256)
    np.testing.assert_array_equal(tables.invert(), levels[::-1])
    np.testing.assert_array_equal(tables.posterize(jnp.array(3)), levels & 0b11100000)
    np.testing.assert_array_equal(tables.posterize(jnp.array(8)), levels)
    np.testing.assert_array_equal(tables.posterize(jnp.array(0)), 0 * levels)
    solarized = np.asarray(tables.solarize(jnp.array([0, 128, 256])))
    assert solarized[:, [0, 127, 128, 255]].tolist() == [
        [255, 128, 127, 0],
        [0, 127, 127, 0],
        [0, 127, 128, 255],
    ]
    added = np.asarray(tables.solarize_add(jnp.array([0, 110, 200])))
    assert added[:, [0, 55, 56, 127, 128, 255]].tolist() == [
        [0, 55, 56, 127, 128, 255],
        [110, 165, 166, 237, 128, 255],
        [200, 255, 255, 255, 128, 255],
    ]
    blended = np.asarray(tables.blend(jnp.array([100, 0, 100]), jnp.array([0.0, 1.5, 0.5])))
    assert blended[:, [0, 101, 170, 255]].tolist() == [
        [100, 100, 100, 100],
        [0, 151, 255, 255],
        [50, 100, 135, 177],
    ]
