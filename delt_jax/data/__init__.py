"""Sources of real images, behind one protocol (`delt_jax.data.source`)."""

import numpy as np

from delt_jax.data.idx import open_idx
from delt_jax.data.normalise import Normalisation
from delt_jax.data.source import ArrayExamples, Examples, Source, batches
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe

__all__ = [
    "ArrayExamples",
    "Examples",
    "Normalisation",
    "Source",
    "batches",
    "measure_normalisation",
    "open_source",
]


def open_source(recipe: DataRecipe) -> Source:
    """Opens the source that the recipe names.

    Raises:
      UserError: if the data are missing, damaged or do not fit the recipe.
    """
    # scikit-learn and TFDS take seconds to import, so each is imported only where it is used.
    if recipe.name == "digits":
        from delt_jax.data.digits import open_digits

        source = open_digits(recipe)
    elif recipe.name == "tfds":
        from delt_jax.data.tfds import open_tfds

        source = open_tfds(recipe)
    else:
        source = open_idx(recipe)
    highest = int(max(source.train.labels.max(), source.test.labels.max()))
    if highest >= len(source.class_names) or (
        recipe.class_names and highest + 1 != len(source.class_names)
    ):
        raise UserError(
            f"data.class_names has {len(source.class_names)} names, but the labels of "
            f"{source.name} go from 0 to {highest}; name all classes in label order."
        )
    if len(recipe.mean) not in (0, source.channels):
        raise UserError(
            f"data.mean and data.std have {len(recipe.mean)} values, but the images have "
            f"{source.channels} channel(s)."
        )
    return source


def measure_normalisation(recipe: DataRecipe, source: Source) -> Normalisation:
    """The recipe's constants, or per-channel mean and std of the training pixels."""
    if recipe.mean:
        return Normalisation(recipe.mean, recipe.std)
    total = np.zeros(source.channels)
    squares = np.zeros(source.channels)
    pixels = 0
    for _, images in batches(source.train, 1024):
        unit = images.reshape(-1, source.channels) / np.float64(255)
        total += unit.sum(0)
        squares += (unit**2).sum(0)
        pixels += len(unit)
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-12))
    return Normalisation(*(tuple(round(float(v), 6) for v in a) for a in (mean, std)))
