"""TFDS data sets, prepared as array_record without TensorFlow."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")


NAMES = ("ant", "bee", "cat")


def pixels_of(number: int, shape=(6, 8, 3)) -> np.ndarray:
    """The image that the data sets below hold under this number; red is the number."""
    pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    pixels[..., 0] = number
    return pixels


def png(pixels: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def prepare(folder: Path, name: str, features: dict, splits: dict) -> None:
    """Prepares a data set; unregistered, so that only the files are left to find it by."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), description=name
            )

        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(examples)) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Tiny.name = name
    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()


def features(shape=(6, 8, 3)) -> dict:
    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=list(NAMES)),
    }


def examples(numbers, shape=(6, 8, 3)) -> list[dict]:
    return [{"image": png(pixels_of(n, shape)), "label": n % 3} for n in numbers]
