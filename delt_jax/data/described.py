"""A source known only by its published counts: enough for a dry run without the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from delt_jax.data.classes import wanted_classes
from delt_jax.data.source import TEST_IMAGES, Source, split_mask
from delt_jax.data.validation import SCORED
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe


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
    """The source as published; None unless the recipe has classes, counts, size and channels."""
    told = (recipe.classes, recipe.train_images, recipe.test_images)
    if recipe.name == "classes" or not (all(told) and recipe.image_size and recipe.channels):
        return None
    names = wanted_classes(recipe.classes)

    def split(count: int) -> np.ndarray:
        return np.sort(np.arange(count, dtype=np.int32) % len(names))

    train, test = split(recipe.train_images), split(recipe.test_images)
    if recipe.validation_share:
        in_validation = split_mask(train, recipe.validation_share, recipe.split_seed)
        train, test = train[~in_validation], train[in_validation]
    return Source(
        name=f"{recipe.dataset or recipe.path} as published",
        class_names=names,
        image_size=recipe.image_size,
        channels=recipe.channels,
        train=_Counted(train),
        test=_Counted(test),
        fingerprint="",
        scored=SCORED if recipe.validation_share else TEST_IMAGES,
    )
