"""Whitening beside plain numpy, kept in the cache, and refused where it cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import whitening
from delt_jax.data.source import ArrayExamples, Source
from delt_jax.errors import UserError

NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def source(count, cache=None):
    draw = np.random.default_rng(0)
    smooth = np.cumsum(draw.integers(-40, 41, (count, 4, 4, 3)), 1) + 128
    pixels = np.clip(smooth, 0, 255).astype(np.uint8)
    examples = ArrayExamples(pixels, np.zeros(count, np.int32), [str(i) for i in range(count)])
    return Source("some", ("a",), 4, 3, examples, examples, f"print{count}", cache=cache)


@pytest.mark.parametrize("count", [200, 30])  # more images than their 48 values, and fewer
@pytest.mark.parametrize("kind", ["zca", "kornia"])
def test_whitening_is_numpys(kind, count):
    data = source(count)
    fitted = whitening.fit(kind, data, NORMALISATION)
    flat = (data.train.pixels / 255 - NORMALISATION.mean) / NORMALISATION.std
    flat = flat.reshape(count, -1)
    covariance = np.cov(flat.T, bias=kind == "zca")
    ridge = 0.1 * np.trace(covariance) / 48 if kind == "zca" else 0.1
    vectors, values, _ = np.linalg.svd(covariance + ridge * np.eye(48))
    scales = values**-0.5
    if kind == "zca":
        scales[count:] = 1
    expected = (flat - flat.mean(0)) @ (vectors * scales) @ vectors.T
    ours = np.asarray(fitted(data.train.pixels)).reshape(count, -1)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    np.testing.assert_allclose(
        fitted.invert(fitted(data.train.pixels)) * 255, data.train.pixels, atol=0.01
    )


def of_unit_length(pixels):
    """Standardised images, flat, each less its own mean and divided by its length."""
    flat = (pixels / 255 - NORMALISATION.mean) / NORMALISATION.std
    flat = flat.reshape(len(pixels), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_images_of_unit_length_have_it_each_by_itself():
    pixels = source(40).train.pixels
    space = whitening.fit("unit", source(40), NORMALISATION)
    assert space.matrix is None
    assert space.has_unit_length
    assert not space.is_standardising
    ours = np.asarray(space(pixels))
    np.testing.assert_allclose(ours.reshape(40, -1), of_unit_length(pixels), atol=1e-5)
    np.testing.assert_allclose(np.asarray(space(pixels[3:5])), ours[3:5], atol=1e-7)
    # As it is looked at: the image itself, but for its own mean and length.
    shown = space.invert(ours)
    np.testing.assert_allclose(of_unit_length(255 * shown), of_unit_length(pixels), atol=1e-4)
    standardised = (shown - NORMALISATION.mean) / NORMALISATION.std
    np.testing.assert_allclose((standardised**2).mean((1, 2, 3)), 1, rtol=1e-4)


@pytest.mark.parametrize("level", range(0, 256, 15))
def test_an_image_of_one_colour_does_not_become_its_own_rounding(level):
    space = Preprocessing("unit", Normalisation((0.2861,), (0.353,)))
    plain = np.full((1, 28, 28, 1), level, np.uint8)
    assert np.abs(np.asarray(space(plain))).max() < 1e-6  # a pixel of unit length has 1 / 28
    plain[0, 3, 5] ^= 1  # the least that an image can show
    assert np.linalg.norm(space(plain)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("count", [200, 30])
def test_whitening_of_unit_length_has_no_centre(count):
    data = source(count)
    fitted = whitening.fit("unit_zca", data, NORMALISATION)
    flat = of_unit_length(data.train.pixels)
    products = flat.T @ flat / count
    values, vectors = np.linalg.eigh(products + 0.1 * np.trace(products) / 48 * np.eye(48))
    expected = flat @ (vectors * values**-0.5) @ vectors.T
    ours = np.asarray(fitted(data.train.pixels)).reshape(count, -1)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert not fitted.centre.any()


def test_a_fit_is_kept_under_all_that_it_depends_on(tmp_path, monkeypatch):
    data = source(60, tmp_path)
    first = whitening.fit("zca", data, NORMALISATION)
    whitening.fit("kornia", data, NORMALISATION)
    whitening.fit("zca", data, Normalisation((0.5,) * 3, (0.5,) * 3))
    whitening.fit("zca", replace(data, fingerprint="other"), NORMALISATION)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(whitening, "batches", None)  # nothing is read again
    again = whitening.fit("zca", data, NORMALISATION)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    np.testing.assert_array_equal(first.centre, again.centre)


def test_standardising_has_no_matrix_and_others_are_refused():
    data = source(20)
    assert whitening.fit("standardise", data, NORMALISATION).matrix is None
    with pytest.raises(UserError, match="write standardise, unit, zca, unit_zca or kornia"):
        whitening.fit("pca", data, NORMALISATION)
    with pytest.raises(UserError, match=r"up to 64 px, but data.image_size is 128"):
        whitening.fit("zca", replace(data, image_size=128), NORMALISATION)
