"""Whitening beside plain numpy, kept in the cache, and refused where it cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from delt_jax.core.normalisation import Normalisation
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
    with pytest.raises(UserError, match="write standardise, zca or kornia"):
        whitening.fit("pca", data, NORMALISATION)
    with pytest.raises(UserError, match=r"up to 64 px, but data.image_size is 128"):
        whitening.fit("zca", replace(data, image_size=128), NORMALISATION)
