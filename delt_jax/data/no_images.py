"""Classes without images to train on: for networks that were trained elsewhere."""

from pathlib import Path

import numpy as np

from delt_jax.data.class_pictures import Classes, ClassPictures, open_pictures
from delt_jax.data.classes import pick, places_by_name, spelt, wanted_classes
from delt_jax.data.source import ArrayExamples, Source
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.recipe.data import lists_classes
from delt_jax.store.identity import identity
from delt_jax.store.local_copies import local


def open_classes(recipe: DataRecipe) -> Source:
    """A source with the names of `data.classes`, no training images, and perhaps test images.

    Raises:
      UserError: for classes that are not known, or settings that say too little about images.
    """
    if recipe.validation_share:
        raise UserError(
            'data.validation_share holds out training images, which data.name "classes" does not '
            "have; leave it 0."
        )
    names, all_names, note = _names(recipe)
    if len(names) < 2:
        raise UserError(f"data.classes has only the class {names[0]!r}; name two at least.")
    channels = recipe.channels or len(recipe.mean)
    if not (recipe.image_size and channels):
        raise UserError(
            'data.name "classes" has no images that tell their size; set data.image_size, and '
            "data.channels or data.mean, to what the teacher takes."
        )
    of_all = {"source": "classes", "class_names": names, "size": [recipe.image_size, channels]}
    workers = worker_count(recipe.workers)
    size, most = recipe.image_size, recipe.max_pixels
    classes = Classes(names, all_names, size, channels, recipe.fit, workers, most)
    test = open_pictures("data.path", recipe.path, classes) if recipe.path else None
    return Source(
        name=note,
        class_names=names,
        image_size=recipe.image_size,
        channels=channels,
        train=_none(classes),
        test=test.examples if test else _none(classes),
        fingerprint=identity(of_all | _of(test, "fingerprint")),
        notes=test.notes if test else (),
        content=identity(of_all | _of(test, "content")),
        all_classes=all_names,
    )


def _of(pictures: ClassPictures | None, hash_: str) -> dict[str, str]:
    return {"test": getattr(pictures, hash_)} if pictures else {}


def _none(classes: Classes) -> ArrayExamples:
    """A split without images."""
    shape = (0, classes.image_size, classes.image_size, classes.channels)
    return ArrayExamples(np.zeros(shape, np.uint8), np.zeros(0, np.int32), ())


def _names(recipe: DataRecipe) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The classes, all those that their network knows, and what to call the source."""
    imagenet, setting = wanted_classes("imagenet"), recipe.classes
    if recipe.class_names:
        known = recipe.class_names
        names = pick(_listed(setting), known, "data.class_names") if setting else known
        return names, known, f"{len(names)} classes of data.class_names"
    if not setting:
        return imagenet, imagenet, "ImageNet's classes"
    names = wanted_classes(setting)
    if not lists_classes(setting):
        places = places_by_name(imagenet)
        if any(spelt(name) not in places or name.isdecimal() for name in names):
            return names, names, f"{len(names)} classes of {Path(setting).name}"
        names = tuple(imagenet[places[spelt(name)]] for name in names)
    return names, imagenet, f"{len(names)} classes of ImageNet"


def _listed(setting: str) -> tuple[str, ...]:
    """Entries of a list with commas between, or of a file with one a line."""
    is_file = local(setting).is_file()
    return wanted_classes(setting) if is_file else tuple(setting.split(","))
