"""Data sources from outside this package."""

from pathlib import Path

import numpy as np

from delt_jax.core import plugins
from delt_jax.data.source import Source
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe

_CHANNELS = (1, 3)


def open_plugin(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens the source of a plug-in, a function ``(recipe, cache) -> Source``.

    Args:
      recipe: the settings `data.*`, as the function is given them.
      cache: folder for what takes long, which may not exist yet; None caches nothing.

    Raises:
      UserError: if it cannot be opened, or is no source of images.
    """
    group, name = plugins.DATA, recipe.name
    source = plugins.call(group, name, plugins.find(group, name, {}), recipe, cache)
    plugins.checked(group, name, source, Source, "a function that returns a delt_jax.data.Source")
    wrong = _fault(source, recipe)
    if wrong:
        raise UserError(f"The data source {name!r} {wrong}.")
    return source


def _fault(source: Source, recipe: DataRecipe) -> str:
    """What is wrong with a source, as "has no classes"; empty if nothing is."""
    if not source.class_names:
        return "has no class_names"
    if not source.fingerprint:
        return "has no fingerprint, which must change when its content does"
    shape = (source.image_size, source.image_size, source.channels)
    if source.channels not in _CHANNELS:
        return f"has {source.channels} channels; images have 1 or 3"
    for setting in ("image_size", "channels"):
        asked, has = getattr(recipe, setting), getattr(source, setting)
        if asked not in (0, has):
            return f"has {setting} {has}, but data.{setting} is {asked}"
    for split in (source.train, source.test):
        labels = np.asarray(split.labels)
        if labels.dtype != np.int32 or labels.shape != (len(split),):
            return f"has labels {labels.dtype} {list(labels.shape)}; they must be int32 [N]"
        if len(split):
            first = np.asarray(split.images(np.arange(1)))
            if (first.dtype, first.shape) != (np.uint8, (1, *shape)):
                return (
                    f"has images {first.dtype} {list(first.shape)}; they must be uint8 "
                    f"[N, {shape[0]}, {shape[1]}, {shape[2]}]"
                )
    return ""
