"""scikit-learn's digits: 1,797 real 8x8 scans of handwritten digits, shipped in the wheel."""

import numpy as np
from sklearn.datasets import load_digits

from delt_jax.data.fit import fit_arrays
from delt_jax.data.source import ArrayExamples, Source, fingerprint, split_mask
from delt_jax.recipe import DataRecipe

_TEST_SHARE = 0.3


def open_digits(recipe: DataRecipe) -> Source:
    """The digits with a fixed class-balanced split, 70 % train and 30 % test."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    pixels = fit_arrays(pixels, recipe.image_size, recipe.channels, recipe.fit)
    labels = bunch.target.astype(np.int32)
    in_test = split_mask(labels, _TEST_SHARE, seed=0)

    def split(mask):
        where = np.flatnonzero(mask)
        return ArrayExamples(pixels[where], labels[where], [f"digits/{i:04}" for i in where])

    return Source(
        name="digits",
        class_names=recipe.class_names or tuple(str(c) for c in range(10)),
        image_size=pixels.shape[1],
        channels=pixels.shape[3],
        train=split(~in_test),
        test=split(in_test),
        fingerprint=fingerprint(pixels, labels, in_test),
    )
