"""TensorFlow Datasets through `tfds.data_source`: random access, no TensorFlow at run time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from delt_jax.data.source import Source, fit_image
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe


@dataclass(frozen=True)
class TfdsExamples:
    """A split read record by record; nothing but labels is held in memory."""

    records: Any
    labels: np.ndarray
    names: Sequence[str]
    image_size: int
    channels: int
    fit: str

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Decodes and fits the examples."""
        records = self.records.__getitems__([int(i) for i in indices])
        return np.stack(
            [
                fit_image(_to_pil(r["image"]), self.image_size, self.channels, self.fit)
                for r in records
            ]
        )


def _to_pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def open_tfds(recipe: DataRecipe) -> Source:
    """Opens a prepared TFDS data set with "image" and "label" features.

    Raises:
      UserError: if it is unknown, not prepared as array_record, or not a classification set.
    """
    data_dir = recipe.path or None
    how = (
        f"prepare it once, where TensorFlow is installed, with `tfds build {recipe.dataset} "
        f"--file_format=array_record` and set data.path to its data directory"
    )
    try:
        builder = tfds.builder(recipe.dataset, data_dir=data_dir)
    except Exception as e:  # tfds raises many types, and prints a page
        raise UserError(
            f"TFDS has no data set {recipe.dataset!r} in {data_dir or 'its default directory'} "
            f"({type(e).__name__}); check data.dataset, or {how}."
        ) from e
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"{recipe.dataset} is not prepared in {builder.data_path}; {how}.")
    test_split = next((s for s in ("test", "validation") if s in splits), None)
    features = builder.info.features
    if test_split is None or "image" not in features or "label" not in features:
        raise UserError(
            f"{recipe.dataset} needs a test or validation split and the features image and "
            f"label; it has the splits {sorted(splits)} and the features {sorted(features)}."
        )
    shape = features["image"].shape
    size = recipe.image_size or shape[0]
    channels = recipe.channels or shape[2]
    if not size or not channels:
        raise UserError(
            f"The images of {recipe.dataset} have no common size {shape}; set data.image_size "
            f"and data.channels."
        )

    def open_split(split: str) -> TfdsExamples:
        skip = {"image": tfds.decode.SkipDecoding()}
        try:
            records = builder.as_data_source(split=split)
            labelled = builder.as_data_source(split=split, decoders=skip)
        except NotImplementedError as e:
            raise UserError(f"{recipe.dataset} is not stored as array_record; {how}.") from e
        count = len(records)
        labels = np.fromiter((labelled[i]["label"] for i in range(count)), np.int32, count)
        names = [f"{split}/{i:08}" for i in range(count)]
        return TfdsExamples(records, labels, names, size, channels, recipe.fit)

    train, test = open_split("train"), open_split(test_split)
    identity = [builder.info.full_name, size, channels, recipe.fit]
    identity += [(s, splits[s].num_examples, splits[s].num_bytes) for s in ("train", test_split)]
    return Source(
        name=recipe.dataset,
        class_names=recipe.class_names or tuple(features["label"].names),
        image_size=size,
        channels=channels,
        train=train,
        test=test,
        fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
    )
