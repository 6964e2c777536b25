"""Sources of real images behind one protocol, `delt_jax.data.source.Source`.

May import `augment`, `runtime`, `store`, `core` and `recipe`.
"""

from pathlib import Path

import numpy as np

from delt_jax.core import plugins
from delt_jax.core.normalisation import Normalisation
from delt_jax.data import classes, in_memory, outside
from delt_jax.data.described import describe_source
from delt_jax.data.file_crops import files_of
from delt_jax.data.in_memory import cache_in_memory, decode
from delt_jax.data.on_device import device_budget, put_on_device
from delt_jax.data.source import TEST_IMAGES, ArrayExamples, Examples, Source
from delt_jax.data.stream import batches, read
from delt_jax.data.validation import hold_out
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe

__all__ = [
    "TEST_IMAGES",
    "ArrayExamples",
    "Examples",
    "Normalisation",
    "Source",
    "batches",
    "cache_in_memory",
    "decode",
    "describe_source",
    "device_budget",
    "files_of",
    "hold_out",
    "measure_normalisation",
    "open_source",
    "put_on_device",
    "read",
]


def open_source(recipe: DataRecipe, cache: Path | None = None) -> Source:
    """Opens the source that the recipe names; writes nothing.

    Args:
      recipe: the settings `data.*`.
      cache: folder where an earlier run may have written what takes long (`cache_in_memory`).

    Raises:
      UserError: if the data are missing, damaged or do not fit the recipe.
    """
    source = _open(recipe, cache)
    labels = np.concatenate([source.train.labels, source.test.labels])
    highest = int(labels.max()) if len(labels) else len(source.class_names) - 1
    lowest = int(labels.min()) if len(labels) else 0
    if lowest > 0:
        raise UserError(
            f"The labels of {source.name} go from {lowest} to {highest}, but classes count from 0; "
            f"subtract {lowest} from every label."
        )
    if highest >= len(source.class_names) or (
        recipe.class_names and highest + 1 != len(source.class_names)
    ):
        raise UserError(
            f"data.class_names has {len(source.class_names)} names, but the labels of "
            f"{source.name} go from 0 to {highest}; name all classes in label "
            f"order{classes.comma_hint(source.class_names)}."
        )
    classes.check_names(
        source.class_names, "data.class_names" if recipe.class_names else source.name
    )
    if len(recipe.mean) not in (0, source.channels):
        raise UserError(
            f"data.mean and data.std have {len(recipe.mean)} values, but the images have "
            f"{source.channels} channel(s)."
        )
    share = recipe.validation_share
    return hold_out(source, share, recipe.split_seed) if share else source


def _open(recipe: DataRecipe, cache: Path | None) -> Source:
    if plugins.is_allowed(plugins.DATA, recipe.name):
        return outside.open_plugin(recipe, cache)
    # scikit-learn and TFDS take seconds to import, so each is imported only where it is used.
    if recipe.name == "tfds":
        from delt_jax.data.tfds import open_tfds

        return open_tfds(recipe, cache)
    if recipe.name == "folder":
        from delt_jax.data.folder import open_folder

        return open_folder(recipe, cache)
    if recipe.name == "parquet":
        from delt_jax.data.parquet import open_parquet

        return open_parquet(recipe, cache)
    if recipe.name == "webdataset":
        from delt_jax.data.webdataset import open_webdataset

        return open_webdataset(recipe, cache)
    if recipe.name == "npz":
        from delt_jax.data.npz import open_npz

        return open_npz(recipe)
    if recipe.name == "classes":
        from delt_jax.data.no_images import open_classes

        return open_classes(recipe)
    if recipe.classes:
        raise UserError(
            f"data.classes {recipe.classes!r} does nothing for data.name {recipe.name!r}; it "
            f"chooses classes of the other sources."
        )
    if recipe.name == "digits":
        from delt_jax.data.digits import open_digits

        return open_digits(recipe)
    from delt_jax.data.idx import open_idx

    return open_idx(recipe)


def measure_normalisation(recipe: DataRecipe, source: Source) -> Normalisation:
    """The recipe's constants, or per-channel mean and std of the training pixels."""
    if recipe.mean:
        return Normalisation(recipe.mean, recipe.std)
    path = source.cache / f"mean_std-{source.fingerprint}.npy" if source.cache else None
    moments = in_memory.load(path, (2, source.channels)) if path else None
    if moments is None:
        moments = _moments(source)
        if path:
            in_memory.write(path, moments.shape, [moments])
    return Normalisation(*(tuple(round(float(v), 6) for v in a) for a in moments))


def _moments(source: Source) -> np.ndarray:
    """Mean and std of the training pixels in [0, 1], float64 [2, channels]."""
    total = np.zeros(source.channels)
    squares = np.zeros(source.channels)
    pixels = 0
    for _, images in batches(source.train, 1024):
        unit = images.reshape(-1, source.channels) / np.float64(255)
        total += unit.sum(0)
        squares += (unit**2).sum(0)
        pixels += len(unit)
    mean = total / pixels
    return np.stack([mean, np.sqrt(np.maximum(squares / pixels - mean**2, 1e-12))])
