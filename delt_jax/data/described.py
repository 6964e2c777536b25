"""A source known only by its published numbers: enough for a dry run without the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from delt_jax.data.classes import wanted_classes
from delt_jax.data.source import TEST_IMAGES, Source, split_mask
from delt_jax.data.validation import SCORED
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.recipe.known import KNOWN


@dataclass(frozen=True)
class _Counted:
    """Examples known only by their number, spread evenly over the classes."""

    labels: np.ndarray
    names: ClassVar[Sequence[str]] = ()
    workers: ClassVar[int] = 0

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        raise UserError("The images are not at hand, only their number; give the data's path.")


def describe_source(recipe: DataRecipe) -> Source | None:
    """The data set that `data.known_as` names, as published; None if it names none.

    Of some of its classes it has as many images as of all of them on average.
    """
    if not recipe.known_as or not recipe.has_training_images:
        return None
    known = KNOWN[recipe.known_as]
    numbers = tuple(map(str, range(known.num_classes)))
    names = recipe.class_names or wanted_classes(recipe.classes) or numbers

    def split(of_all: int) -> np.ndarray:
        count = round(of_all * len(names) / known.num_classes)
        return np.sort(np.arange(count, dtype=np.int32) % len(names))

    train, test = split(known.train_images), split(known.test_images)
    if recipe.validation_share:
        in_validation = split_mask(train, recipe.validation_share, recipe.split_seed)
        train, test = train[~in_validation], train[in_validation]
    return Source(
        name=f"{known.title} as published",
        class_names=names,
        image_size=recipe.image_size or known.image_size,
        channels=recipe.channels or known.channels,
        train=_Counted(train),
        test=_Counted(test),
        fingerprint="",
        scored=SCORED if recipe.validation_share else TEST_IMAGES,
    )
