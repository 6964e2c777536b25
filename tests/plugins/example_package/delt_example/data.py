"""A data source: stripes in four directions, drawn."""

import numpy as np

from delt_jax.data import ArrayExamples, Source
from delt_jax.data.source import fingerprint

CLASSES = ("rows", "columns", "falling", "rising")
SIZE, TRAIN, TEST = 8, 40, 10  # pixels a side; images of each class


def stripes(recipe, cache):
    """The source; `recipe` has the settings `data.*`."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    waves = np.stack([rows, columns, rows + columns, rows - columns])
    labels = np.repeat(np.arange(4, dtype=np.int32), TRAIN + TEST)
    phases = draw.uniform(0, 2 * np.pi, (len(labels), 1, 1))
    bright = 128 + 100 * np.sin(1.5 * waves[labels] + phases)
    pixels = np.clip(bright + draw.normal(0, 20, bright.shape), 0, 255).astype(np.uint8)[..., None]
    in_test = np.arange(len(labels)) % (TRAIN + TEST) >= TRAIN

    def split(chosen):
        names = [f"stripes/{i:03}" for i in np.flatnonzero(chosen)]
        return ArrayExamples(pixels[chosen], labels[chosen], names)

    return Source(
        name="stripes",
        class_names=recipe.class_names or CLASSES,
        image_size=SIZE,
        channels=1,
        train=split(~in_test),
        test=split(in_test),
        fingerprint=fingerprint(pixels, labels, in_test),
    )
