"""TensorFlow Datasets through `tfds.data_source`: random access, no TensorFlow at run time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from delt_jax.data.source import Source, fingerprint, fit_image
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
    tests = [s for s in ("test", "validation") if s in splits]
    features = builder.info.features
    image, label = (dict(features).get(name) for name in ("image", "label"))
    if (
        not tests
        or not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or not isinstance(label, tfds.features.ClassLabel)
    ):
        raise UserError(
            f"{recipe.dataset} needs a test or validation split and the features image (8 bits) "
            f"and label (classes); it has the splits {sorted(splits)} and the features "
            f"{', '.join(f'{k} ({type(features[k]).__name__})' for k in sorted(features))}."
        )
    class_names = recipe.class_names or tuple(label.names)
    if len(class_names) != label.num_classes:
        raise UserError(
            f"data.class_names has {len(class_names)} names, but {recipe.dataset} has "
            f"{label.num_classes} classes; name all of them in label order."
        )
    shape = image.shape
    size = recipe.image_size or shape[0]
    channels = recipe.channels or min(shape[2] or 0, 3)  # no alpha
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
            count = len(records)
            labels = np.fromiter((labelled[i]["label"] for i in range(count)), np.int32, count)
        except NotImplementedError as e:
            raise UserError(f"{recipe.dataset} is not stored as array_record; {how}.") from e
        except (RuntimeError, OSError) as e:
            raise UserError(
                f"The {split} split in {builder.data_path} is missing or damaged "
                f"({str(e)[:120]}); prepare the data set again."
            ) from e
        names = [f"{split}/{i:08}" for i in range(count)]
        return TfdsExamples(records, labels, names, size, channels, recipe.fit)

    train = open_split("train")
    # Some test splits hide their labels as -1, e.g. imagenet2012's.
    labelled = ((s, open_split(s)) for s in tests)
    found = next(((s, e) for s, e in labelled if (e.labels >= 0).all()), None)
    if found is None:
        raise UserError(
            f"The labels of {recipe.dataset}'s {' and '.join(tests)} split are hidden (-1), so "
            f"nothing could be scored; use a data set with a labelled one."
        )
    test_split, test = found
    identity = [builder.info.full_name, size, channels, recipe.fit]
    identity += [(s, splits[s].num_examples, splits[s].num_bytes) for s in ("train", test_split)]
    identity += [fingerprint(train.labels, test.labels)]
    return Source(
        name=recipe.dataset,
        class_names=class_names,
        image_size=size,
        channels=channels,
        train=train,
        test=test,
        fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
    )
