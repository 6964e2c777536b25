"""The built-in sources (digits, idx files), fitting of images, and normalisation."""

import gzip
import io
import struct
from pathlib import Path

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from delt_jax.data import (
    ArrayExamples,
    Normalisation,
    Source,
    batches,
    measure_normalisation,
    open_source,
)
from delt_jax.data.fit import decode, fit_arrays, fit_image
from delt_jax.data.idx import read_idx
from delt_jax.data.source import fingerprint
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe

FASHION = Path("/usr/share/datasets/fashion-mnist")
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


# --- digits ---


@pytest.fixture(scope="module")
def digits() -> Source:
    return open_source(DataRecipe(name="digits"))


def test_digits_split(digits):
    assert len(digits.train) + len(digits.test) == 1797
    assert len(digits.train) == len(digits.train.labels) == len(digits.train.names)
    assert len(digits.test) == len(digits.test.labels) == len(digits.test.names)
    names = {*digits.train.names, *digits.test.names}
    assert len(names) == 1797  # none twice, so none in both splits
    everything = np.bincount(np.r_[digits.train.labels, digits.test.labels])
    np.testing.assert_array_equal(
        np.bincount(digits.test.labels), [round(0.3 * n) for n in everything]
    )
    assert len(digits.test) == sum(round(0.3 * n) for n in everything)


def test_digits_images_belong_to_their_names_and_labels(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for split in (digits.train, digits.test):
        original = [int(name.removeprefix("digits/")) for name in split.names]
        np.testing.assert_array_equal(split.labels, bunch.target[original])
        pixels = split.images(np.arange(len(split)))
        chex.assert_shape(pixels, (len(split), 8, 8, 1))
        assert pixels.dtype == np.uint8
        # 17 grey levels, 0 to 16, stretched to 0 to 255.
        np.testing.assert_array_equal(
            pixels[..., 0], np.rint(bunch.images[original] * 255 / 16).astype(np.uint8)
        )


def test_digits_do_not_change_between_openings(digits):
    again = open_source(DataRecipe(name="digits"))
    assert again.fingerprint == digits.fingerprint
    assert list(again.train.names) == list(digits.train.names)


def test_digits_size_and_channels(digits):
    source = open_source(DataRecipe(name="digits", image_size=16, channels=3))
    assert (source.image_size, source.channels) == (16, 3)
    images = source.train.images(np.array([3, 0]))
    chex.assert_shape(images, (2, 16, 16, 3))
    np.testing.assert_array_equal(images[..., 0], images[..., 2])  # grey as RGB
    assert source.fingerprint != digits.fingerprint


def test_digits_class_names():
    names = tuple("abcdefghij")
    assert open_source(DataRecipe(name="digits", class_names=names)).class_names == names
    with pytest.raises(UserError, match=r"data\.class_names has 2 names, .* digits go from 0 to 9"):
        open_source(DataRecipe(name="digits", class_names=("a", "b")))


# --- idx ---


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(5)
    return {
        FILES[0]: draw.integers(0, 256, (9, 6, 6), np.uint8),
        FILES[1]: (np.arange(9) % 3).astype(np.uint8),
        FILES[2]: draw.integers(0, 256, (4, 6, 6), np.uint8),
        FILES[3]: np.array([2, 1, 0, 2], np.uint8),
    }


def write_idx(folder: Path, arrays: dict[str, np.ndarray], name=lambda n: n, pack=bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for stem, array in arrays.items():
        (folder / name(stem)).write_bytes(pack(idx_bytes(array)))
    return folder


def open_idx(folder: Path, **settings) -> Source:
    return open_source(DataRecipe(name="idx", path=str(folder), **settings))


VARIANTS = {
    "plain": {},
    "gz": {"name": "{}.gz".format, "pack": gzip.compress},
    "dotted": {"name": lambda n: n.replace("-idx", ".idx")},
    "dotted gz": {"name": lambda n: n.replace("-idx", ".idx") + ".gz", "pack": gzip.compress},
    "gz without suffix": {"pack": gzip.compress},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_idx_reads_every_spelling(tmp_path, variant):
    arrays = idx_arrays()
    source = open_idx(write_idx(tmp_path / "tiny", arrays, **VARIANTS[variant]))
    assert source.name == "tiny"
    assert source.class_names == ("0", "1", "2")
    assert (source.image_size, source.channels) == (6, 1)
    assert (len(source.train), len(source.test)) == (9, 4)
    np.testing.assert_array_equal(source.train.images(np.arange(9))[..., 0], arrays[FILES[0]])
    np.testing.assert_array_equal(
        source.test.images(np.array([3, 1]))[..., 0], arrays[FILES[2]][[3, 1]]
    )
    np.testing.assert_array_equal(source.train.labels, arrays[FILES[1]])
    np.testing.assert_array_equal(source.test.labels, arrays[FILES[3]])
    assert source.train.labels.dtype == np.int32
    assert not set(source.train.names) & set(source.test.names)


def test_idx_fits_images(tmp_path):
    arrays = idx_arrays()
    source = open_idx(write_idx(tmp_path / "tiny", arrays), image_size=8, channels=3, fit="pad")
    padded = source.train.images(np.arange(9))
    chex.assert_shape(padded, (9, 8, 8, 3))
    for channel in range(3):
        np.testing.assert_array_equal(
            padded[..., channel], np.pad(arrays[FILES[0]], ((0, 0), (1, 1), (1, 1)))
        )


def test_idx_class_names(tmp_path):
    folder = write_idx(tmp_path / "tiny", idx_arrays())
    assert open_idx(folder, class_names=("a", "b", "c")).class_names == ("a", "b", "c")
    for names in (("a", "b"), ("a", "b", "c", "d")):
        with pytest.raises(
            UserError, match=rf"class_names has {len(names)} names, .* tiny go from 0 to 2"
        ):
            open_idx(folder, class_names=names)


def test_idx_labels_that_only_the_test_split_has(tmp_path):
    more = idx_arrays() | {FILES[3]: np.array([4, 1, 0, 2], np.uint8)}
    assert open_idx(write_idx(tmp_path / "tiny", more)).class_names == tuple("01234")


def test_idx_fingerprint_follows_the_content(tmp_path):
    arrays = idx_arrays()
    first = open_idx(write_idx(tmp_path / "a", arrays)).fingerprint
    same = open_idx(write_idx(tmp_path / "b", arrays, **VARIANTS["gz"])).fingerprint
    assert first == same
    for stem in FILES:
        changed = {k: v.copy() for k, v in arrays.items()}
        changed[stem].flat[0] = (changed[stem].flat[0] + 1) % 3
        assert open_idx(write_idx(tmp_path / "c", changed)).fingerprint != first, stem


def damage(content: bytes, kind: str) -> bytes:
    return {
        "last byte missing": content[:-1],
        "a byte too many": content + b"\0",
        "header cut": content[:7],
        "four bytes": content[:4],
        "empty": b"",
        "magic": b"\1" + content[1:],
        "type of elements": content[:2] + b"\x0d" + content[3:],
        "another format": b"\x89PNG\r\n\x1a\n" + content,
        "gz cut": gzip.compress(content)[:-9],
        "gz header cut": gzip.compress(content)[:5],
        "gz of a cut file": gzip.compress(content[:-1]),
        "gz data altered": bytes(
            b ^ (0xFF if i == 12 else 0) for i, b in enumerate(gzip.compress(content))
        ),
        "gz checksum altered": gzip.compress(content)[:-8] + bytes(8),
    }[kind]


SENTENCES = {
    "last byte missing": "truncated or damaged",
    "a byte too many": "truncated or damaged",
    "header cut": "ends inside its header",
    "four bytes": "ends inside its header",
    "empty": "not an idx file",
    "magic": "not an idx file",
    "type of elements": "not an idx file",
    "another format": "not an idx file",
    "gz cut": "cannot be read",
    "gz header cut": "cannot be read",
    "gz of a cut file": "truncated or damaged",
    "gz data altered": "cannot be read",
    "gz checksum altered": "cannot be read",
}


@pytest.mark.parametrize("kind", SENTENCES)
@pytest.mark.parametrize("stem", [FILES[0], FILES[3]])
def test_idx_damage_is_named(tmp_path, stem, kind):
    folder = write_idx(tmp_path / "tiny", idx_arrays())
    path = folder / stem
    path.write_bytes(damage(path.read_bytes(), kind))
    with pytest.raises(UserError, match=SENTENCES[kind]) as e:
        open_idx(folder)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("stem", FILES)
def test_idx_missing_file_is_named(tmp_path, stem):
    folder = write_idx(tmp_path / "tiny", idx_arrays())
    (folder / stem).unlink()
    with pytest.raises(UserError, match="is missing") as e:
        open_idx(folder)
    assert f"{folder}/{stem}" in str(e.value)


def test_idx_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is not a folder") as e:
        open_idx(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(e.value)
    with pytest.raises(UserError, match=r"data\.path '' is not a folder"):
        open_source(DataRecipe(name="idx"))


@pytest.mark.parametrize(
    ("stem", "array"),
    [
        (FILES[1], np.zeros(8, np.uint8)),  # one label too few
        (FILES[1], np.zeros((9, 1), np.uint8)),  # labels with two axes
        (FILES[0], np.zeros((9, 6), np.uint8)),  # images with two axes
    ],
)
def test_idx_files_that_do_not_belong_together(tmp_path, stem, array):
    folder = write_idx(tmp_path / "tiny", idx_arrays() | {stem: array})
    with pytest.raises(UserError, match="do not belong together") as e:
        open_idx(folder)
    assert f"{folder}/{FILES[0]}" in str(e.value)
    assert f"{folder}/{FILES[1]}" in str(e.value)


def test_idx_without_images(tmp_path):
    none = {FILES[2]: np.zeros((0, 6, 6), np.uint8), FILES[3]: np.zeros(0, np.uint8)}
    folder = write_idx(tmp_path / "tiny", idx_arrays() | none)
    with pytest.raises(UserError, match="holds no images") as e:
        open_idx(folder)
    assert FILES[2] in str(e.value)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_read_idx_round_trip(tmp_path_factory, shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path = tmp_path_factory.getbasetemp() / "round_trip"
    path.write_bytes(idx_bytes(array))
    read = read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array, strict=True)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST is not installed")
def test_real_fashion_mnist():
    names = [f"class {c}" for c in range(9)] + ["Ankle boot"]
    source = open_idx(FASHION, class_names=tuple(names))
    assert (len(source.train), len(source.test)) == (60000, 10000)
    assert (source.image_size, source.channels) == (28, 1)
    assert source.class_names[9] == "Ankle boot"
    np.testing.assert_array_equal(np.bincount(source.train.labels), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(source.test.labels), [1000] * 10)
    measured = measure_normalisation(DataRecipe(), source)
    np.testing.assert_allclose(measured.mean, [0.2860], atol=1e-4)  # as published
    np.testing.assert_allclose(measured.std, [0.3530], atol=1e-4)


# --- fitting ---


def pattern(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)


def pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


@pytest.mark.parametrize("fit", ["resize", "pad"])
@pytest.mark.parametrize(("channels", "wanted"), [(1, 0), (1, 1), (3, 0), (3, 3)])
def test_fit_image_of_the_right_shape_is_untouched(channels, wanted, fit):
    pixels = pattern(7, 7, channels)
    for size in (0, 7):
        np.testing.assert_array_equal(
            fit_image(pil(pixels), size, wanted, fit), pixels, strict=True
        )


def test_fit_image_modes():
    grey, rgb = pattern(6, 6), pattern(6, 6, 3)
    repeated = np.repeat(grey, 3, -1)
    alpha = pattern(6, 6)
    cases = {
        "grey to RGB": (pil(grey), 3, repeated),
        "grey with alpha": (Image.merge("LA", [pil(grey), pil(alpha)]), 0, grey),
        "black and white": (pil(grey).point(lambda v: 255 * (v > 99), "1"), 0, 255 * (grey > 99)),
        "RGBA drops alpha": (pil(np.concatenate([rgb, alpha], -1)), 0, rgb),
        "palette": (pil(grey).convert("P"), 0, repeated),
        "palette as grey": (pil(grey).convert("P"), 1, grey),
        "RGB to grey": (pil(repeated), 1, grey),
    }
    for name, (image, channels, expected) in cases.items():
        fitted = fit_image(image, 6, channels, "resize")
        np.testing.assert_array_equal(fitted, expected, err_msg=name)
        assert fitted.dtype == np.uint8
    luminance = fit_image(pil(rgb), 6, 1, "resize")[..., 0]
    np.testing.assert_allclose(luminance, rgb @ [0.299, 0.587, 0.114], atol=1)


def test_fit_image_pads_with_zeros_around():
    pixels = pattern(4, 6, 3)
    padded = fit_image(pil(pixels), 8, 3, "pad")
    np.testing.assert_array_equal(padded, np.pad(pixels, ((2, 2), (1, 1), (0, 0))), strict=True)
    odd = fit_image(pil(pattern(3, 3)), 8, 1, "pad")
    assert np.count_nonzero(odd) == np.count_nonzero(pattern(3, 3))


def test_fit_image_pads_the_whole_of_what_is_larger():
    for height, width in ((16, 8), (8, 16), (16, 1), (32, 16)):
        padded = fit_image(pil(np.full((height, width, 1), 99, np.uint8)), 8, 1, "pad")[..., 0]
        scale = 8 / max(height, width)
        inside = max(1, round(height * scale)), max(1, round(width * scale))
        assert np.count_nonzero(padded) == np.count_nonzero(padded == 99) == np.prod(inside)
        assert padded[4, 4] == 99 or width == 1


def test_a_palettes_transparency_is_dropped_without_a_word(recwarn):
    stream = io.BytesIO()
    pil(pattern(6, 6)).convert("P").save(stream, "PNG", transparency=bytes(range(256)))
    image = decode(stream.getvalue())
    np.testing.assert_array_equal(fit_image(image, 6, 1, "resize"), pattern(6, 6))
    assert not recwarn.list


def test_fit_image_resizes_the_shorter_side_and_takes_the_centre():
    # Three squares side by side: black, grey, white. Only the middle one can remain.
    wide = np.repeat(np.array([0, 128, 255], np.uint8), 32)[None].repeat(32, 0)[..., None]
    for image in (wide, wide.transpose(1, 0, 2)):
        fitted = fit_image(pil(image), 8, 1, "resize")
        chex.assert_shape(fitted, (8, 8, 1))
        np.testing.assert_array_equal(fitted[1:-1, 1:-1], 128)
        np.testing.assert_array_equal(fit_image(pil(image), 32, 1, "resize"), 128)  # crop only
    enlarged = fit_image(pil(pattern(1, 1)), 5, 1, "resize")
    np.testing.assert_array_equal(enlarged, np.full((5, 5, 1), pattern(1, 1)[0, 0, 0]))


def test_fit_image_shrinks_with_antialiasing():
    checkers = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    fitted = fit_image(pil(checkers), 8, 1, "resize")
    # Without it every sample would be 0 or 255.
    assert np.abs(fitted.astype(int) - 127.5).max() < 20


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 16), st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_fit_image_always_gives_the_size(height, width, size, channels):
    fitted = fit_image(pil(pattern(height, width, 3)), size, channels, "resize")
    chex.assert_shape(fitted, (size, size, channels))


@pytest.mark.parametrize("channels", [1, 3])
def test_fit_arrays_leaves_fitting_stacks_alone(channels):
    pixels = np.random.default_rng(2).integers(0, 256, (5, 4, 4, channels), np.uint8)
    for size in (0, 4):
        for wanted in (0, channels):
            fitted = fit_arrays(pixels, size, wanted, "resize")
            np.testing.assert_array_equal(fitted, pixels, strict=True)
            assert np.shares_memory(fitted, pixels)
    if channels == 1:
        np.testing.assert_array_equal(fit_arrays(pixels[..., 0], 0, 0, "pad"), pixels, strict=True)


def test_fit_arrays_is_fit_image_of_each():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 6, 4, 3), np.uint8)
    fitted = fit_arrays(pixels, 8, 1, "resize")
    expected = np.stack([fit_image(Image.fromarray(p), 8, 1, "resize") for p in pixels])
    np.testing.assert_array_equal(fitted, expected, strict=True)


# --- what sources share ---


def test_fingerprint_follows_values_shape_type_and_order():
    a, b = np.arange(6, dtype=np.uint8), np.zeros(3, np.int32)
    changed = a.copy()
    changed[5] += 1
    prints = [
        fingerprint(a, b),
        fingerprint(b, a),
        fingerprint(changed, b),
        fingerprint(a.reshape(2, 3), b),
        fingerprint(a.astype(np.int8), b),
        fingerprint(a),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(a.copy(), b.copy()) == prints[0]
    assert fingerprint(a.reshape(2, 3)) == fingerprint(np.asfortranarray(a.reshape(2, 3)))


@pytest.mark.parametrize(("count", "size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_batches_cover_everything_in_order(count, size):
    pixels = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    examples = ArrayExamples(pixels, np.zeros(count, np.int32), [""] * count)
    made = list(batches(examples, size))
    assert [len(i) for i, _ in made] == [size] * (count // size) + [count % size] * (
        count % size > 0
    )
    np.testing.assert_array_equal(np.concatenate([i for i, _ in made]), np.arange(count))
    np.testing.assert_array_equal(np.concatenate([p for _, p in made]), pixels)


# --- normalisation ---


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 1000)), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_normalisation_round_trip_is_exact(thousandths):
    mean, std = (tuple(v / 1000 for v in a) for a in zip(*thousandths, strict=True))
    normalisation = Normalisation(mean, std)
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], len(mean), 1)
    images = normalisation(pixels)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(normalisation.to_pixels(images), pixels, strict=True)


def test_normalisation_formula_and_bounds():
    normalisation = Normalisation((0.5, 0.25, 0.1), (0.25, 0.5, 0.2))
    pixels = np.array([[0, 0, 0], [255, 255, 255], [51, 102, 204]], np.uint8)
    expected = np.array([[-2, -0.5, -0.5], [2, 1.5, 4.5], [-1.2, 0.3, 3.5]], np.float32)
    chex.assert_trees_all_close(np.asarray(normalisation(pixels)), expected, atol=1e-6)
    low, high = normalisation.bounds()
    chex.assert_trees_all_close((low, high), (expected[0], expected[1]), atol=1e-6)
    assert low.dtype == high.dtype == np.float32


def test_to_pixels_rounds_and_clips():
    normalisation = Normalisation((0.0,), (1 / 255,))
    images = np.array([-3, -0.4, 0.4, 0.6, 254.6, 255.4, 300], np.float32)[:, None]
    np.testing.assert_array_equal(
        normalisation.to_pixels(images)[:, 0], [0, 0, 0, 1, 255, 255, 255]
    )
    np.testing.assert_array_equal(
        normalisation.to_pixels(images, truncate=True)[:, 0], [0, 0, 0, 0, 254, 255, 255]
    )


def rgb_source() -> Source:
    draw = np.random.default_rng(3)
    pixels = draw.integers(0, (64, 128, 256), (2000, 4, 4, 3)).astype(np.uint8)
    train = ArrayExamples(pixels, np.zeros(2000, np.int32), [""] * 2000)
    test = ArrayExamples(255 - pixels, np.zeros(2000, np.int32), [""] * 2000)
    return Source("toy", ("a",), 4, 3, train, test, "")


def test_measured_normalisation_is_numpys_of_the_training_split():
    source = rgb_source()
    measured = measure_normalisation(DataRecipe(), source)
    unit = source.train.images(np.arange(2000)) / 255.0
    np.testing.assert_allclose(measured.mean, unit.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(measured.std, unit.std((0, 1, 2)), atol=1e-6)


def test_measured_normalisation_of_flat_images_is_finite(digits):
    flat = ArrayExamples(np.full((3, 2, 2, 1), 51, np.uint8), np.zeros(3, np.int32), [""] * 3)
    measured = measure_normalisation(DataRecipe(), Source("flat", ("a",), 2, 1, flat, flat, ""))
    assert measured.mean == (0.2,)
    assert 0 < measured.std[0] < 1e-4


def test_given_normalisation_counts():
    recipe = DataRecipe(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert measure_normalisation(recipe, rgb_source()) == Normalisation(recipe.mean, recipe.std)


def test_given_normalisation_of_another_number_of_channels():
    one = {"name": "digits", "mean": (0.5,), "std": (0.2,)}
    open_source(DataRecipe(**one))
    with pytest.raises(UserError, match=r"have 1 values, but the images have 3 channel\(s\)"):
        open_source(DataRecipe(**one, channels=3))
