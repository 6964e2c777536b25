"""A directory that TFDS has prepared as array_record; reading and writing need no TensorFlow."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, read_sidecar, write_sidecar
from delt_jax.store import pictures, tfds_schema
from delt_jax.store.foreign import ForeignFileError

_NAME = "distilled_set"
_SHARD = 10_000  # images per file
_HOW = "`tfds build` with --file_format=array_record makes one"


def detect(path: Path) -> bool:
    """Whether TFDS has prepared this directory."""
    return (path / "dataset_info.json").is_file() and (path / "features.json").is_file()


def read(path: Path) -> Stored:
    """Reads the features image, label and, if there is one, soft_label of the train split.

    Raises:
      UserError: if it is damaged, in another file format, or has other features.
    """
    try:
        tfds_schema.check(path)
    except ForeignFileError as e:
        raise UserError(f"{path} is not a readable TFDS directory: {e}.") from e
    import tensorflow_datasets as tfds  # takes seconds

    skip = {"image": tfds.decode.SkipDecoding()}
    try:
        builder = tfds.builder_from_directory(path)
        records = builder.as_data_source(split="train", decoders=skip)
        examples = [records[i] for i in range(len(records))]
    except Exception as e:  # tfds raises many types, and prints a page
        reason = (str(e).strip().splitlines() or [""])[0][:120]
        raise UserError(
            f"{path} is not a readable TFDS directory with a train split in array_record "
            f"({type(e).__name__}: {reason}); {_HOW}."
        ) from e
    missing = [k for k in ("image", "label") if not examples or k not in examples[0]]
    if missing:
        raise UserError(f"{path} has no examples with the features {' and '.join(missing)}.")
    names = [f"{path}, example {i}" for i in range(len(examples))]
    if not all(isinstance(e["image"], bytes) and np.ndim(e["label"]) == 0 for e in examples):
        raise UserError(f"{path} has no feature image of pictures and label of one class each.")
    found = [pictures.decode(e["image"], n) for e, n in zip(examples, names, strict=True)]
    class_names, manifest = read_sidecar(path)
    soft = None
    if "soft_label" in examples[0]:
        rows = [np.asarray(e["soft_label"]) for e in examples]
        odd = next((i for i, row in enumerate(rows) if row.shape != rows[0].shape), None)
        if odd is not None:
            raise UserError(f"{names[odd]} has another number of soft labels than {names[0]}.")
        soft = np.stack(rows)
    return Stored(
        pictures.stack([picture.pixels for picture in found], names),
        np.array([e["label"] for e in examples]),
        class_names or tuple(getattr(builder.info.features["label"], "names", ())),
        manifest,
        soft,
        notes=pictures.transparency_notes(*pictures.see_through(p.alpha for p in found)),
    )


def write(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes what `tfds.builder_from_directory` reads into an empty folder."""
    del quality  # lossless
    import tensorflow_datasets as tfds

    features: dict[str, Any] = {
        "image": tfds.features.Image(shape=content.images.shape[1:]),
        "label": tfds.features.ClassLabel(**_label_names(content.class_names)),
    }
    if content.soft_labels is not None:
        shape = content.soft_labels.shape[1:]
        features["soft_label"] = tfds.features.Tensor(shape=shape, dtype=np.float32)

    identity = tfds.core.DatasetIdentity(_NAME, tfds.core.Version("1.0.0"), str(folder), __name__)
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=tfds.features.FeaturesDict(features),
        description="A distilled set: the first images of each class are a smaller one.",
        disable_shuffling=True,  # the order within a class means something
    )
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=_SHARD, file_format="array_record"
    )
    writer.initialize_splits(["train"])
    writer.add_examples({"train": _examples(content)})
    writer.close_all()
    write_sidecar(folder, content)


def _examples(content: DistilledSet) -> Iterator[dict[str, Any]]:
    for i, image in enumerate(content.images):
        example = {
            "image": io.BytesIO(pictures.encode(image)),
            "label": int(content.labels[i]),
        }
        if content.soft_labels is not None:
            example["soft_label"] = content.soft_labels[i]
        yield example


def _label_names(class_names: tuple[str, ...]) -> dict[str, Any]:
    """Argument of ClassLabel; a number of classes if TFDS, with a name a line, would lose names."""
    plain = all(name == name.strip() and len(name.splitlines()) == 1 for name in class_names)
    if plain and len(set(class_names)) == len(class_names):
        return {"names": list(class_names)}
    return {"num_classes": len(class_names)}
