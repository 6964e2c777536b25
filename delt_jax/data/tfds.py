"""TensorFlow Datasets through `tfds.data_source`: random access, no TensorFlow at run time."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from delt_jax.core.progress import progress
from delt_jax.data import held
from delt_jax.data.classes import choose, relabel
from delt_jax.data.names import Names
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint
from delt_jax.data.stream import batches, worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store.identity import identity

_BATCH = 1024


@dataclass(frozen=True)
class Records:
    """The records of a split, or some of them: data source, indices into it, and its place."""

    source: Any
    where: np.ndarray
    place: str

    def read(self, indices: np.ndarray) -> list[bytes]:
        """Contents of the image files."""
        return [record["image"] for record in self.records(indices)]

    def records(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """Records with their images still encoded.

        Raises:
          UserError: if the shards are missing or damaged.
        """
        try:
            return list(self.source.__getitems__([int(i) for i in self.where[indices]]))
        except (RuntimeError, OSError, ValueError) as e:
            raise UserError(
                f"{self.place} is missing or damaged ({str(e)[:120]}); prepare the data set again."
            ) from e


@dataclass(frozen=True)
class _Labels:
    """Labels of the records, in the shape of examples so that they stream like them."""

    records: Records
    labels: np.ndarray
    workers: int
    names: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        return np.array([r["label"] for r in self.records.records(indices)], np.int32)


def open_tfds(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens a prepared TFDS data set with "image" and "label" features.

    Raises:
      UserError: if it is unknown, not prepared as array_record, or not a classification set.
    """
    builder, image, label = _builder(recipe)
    splits = builder.info.splits
    tests = [s for s in ("test", "validation") if s in splits]
    chosen = choose(label.names, recipe.classes, recipe.dataset)
    to_new = relabel(label.names, chosen)
    names = recipe.class_names or chosen
    if len(names) != len(chosen):
        raise UserError(
            f"data.class_names has {len(names)} names, but {recipe.dataset} has {len(chosen)} "
            f"classes; name all of them in label order."
        )
    shape = image.shape
    size = recipe.image_size or shape[0]
    channels = recipe.channels or min(shape[2] or 0, 3)  # no alpha
    if not size or not channels:
        raise UserError(
            f"The images of {recipe.dataset} have no common size {shape}; set data.image_size "
            f"and data.channels."
        )
    workers = worker_count(recipe.workers)
    kept: dict[str, np.ndarray] = {}
    notes: list[str] = []

    def open_split(split: str) -> tuple[EncodedExamples, np.ndarray]:
        """The examples, and all labels of the split as stored."""
        records = _open(builder, split, recipe.dataset)
        labels, name = _labels(records, splits[split], builder, split, cache, workers)
        kept[name] = labels
        new = to_new[labels]
        where = np.flatnonzero((new >= 0) | (labels < 0))
        examples = EncodedExamples(
            Records(records.source, where, records.place),
            np.where(labels < 0, -1, new)[where],
            Names.of(f"{split}/{i:08}".encode() for i in where),
            f"{recipe.dataset} ",
            size,
            channels,
            recipe.fit,
            workers,
        )
        return examples, labels

    train, train_labels = open_split("train")
    # Some test splits hide their labels as -1, e.g. imagenet2012's.
    labelled = ((s, open_split(s)) for s in tests)
    usable = next(((s, *opened) for s, opened in labelled if (opened[1] >= 0).all()), None)
    if usable is None:
        raise UserError(
            f"The labels of {recipe.dataset}'s {' and '.join(tests)} split are hidden (-1), so "
            f"nothing could be scored; use a data set with a labelled one."
        )
    test_split, test, test_labels = usable
    content = identity(
        {
            "dataset": builder.info.full_name,
            "splits": [_counted(splits, name) for name in ("train", test_split)],
            "labels": fingerprint(train_labels, test_labels),
        }
    )
    parts = []
    for split, part in (("train", train), (test_split, test)):
        stay, note, found_out = leave_out(
            part,
            recipe.unreadable,
            identity({"content": content, "classes": chosen, "split": split}),
            cache,
        )
        parts.append(_take(part, np.flatnonzero(stay)))
        notes += note
        kept |= found_out
    return Source(
        name=recipe.dataset,
        class_names=names,
        image_size=size,
        channels=channels,
        train=parts[0],
        test=parts[1],
        fingerprint=identity(
            {
                "source": "tfds",
                "content": content,
                "class_names": names,
                "image_size": size,
                "channels": channels,
                "fit": recipe.fit,
                "train": parts[0].names[:],
                "test": parts[1].names[:],
            }
        ),
        notes=tuple(notes),
        found=kept,
    )


def _counted(splits, name: str) -> dict[str, Any]:
    """A split as its identity has it."""
    split = splits[name]
    return {"name": name, "examples": int(split.num_examples), "bytes": int(split.num_bytes)}


def _take(examples: EncodedExamples, where: np.ndarray) -> EncodedExamples:
    records, names = examples.encoded, examples.names
    assert isinstance(records, Records)
    assert isinstance(names, Names)
    return replace(
        examples,
        encoded=replace(records, where=records.where[where]),
        labels=examples.labels[where],
        names=names.take(where),
    )


def _builder(recipe: DataRecipe):
    """The builder of a prepared data set, and its image and label features."""
    how = _how(recipe.dataset)
    try:
        builder = tfds.builder(recipe.dataset, data_dir=recipe.path or None)
    except Exception as e:  # tfds raises many types, and prints a page
        raise UserError(
            f"TFDS has no data set {recipe.dataset!r} in {recipe.path or 'its default directory'} "
            f"({type(e).__name__}); check data.dataset, or {how}."
        ) from e
    splits = builder.info.splits
    if "train" not in splits:
        raise UserError(f"{recipe.dataset} is not prepared in {builder.data_path}; {how}.")
    features = builder.info.features
    image, label = (dict(features).get(name) for name in ("image", "label"))
    if (
        not any(s in splits for s in ("test", "validation"))
        or not isinstance(image, tfds.features.Image)
        or image.np_dtype != np.uint8
        or not isinstance(label, tfds.features.ClassLabel)
    ):
        raise UserError(
            f"{recipe.dataset} needs a test or validation split and the features image (8 bits) "
            f"and label (classes); it has the splits {sorted(splits)} and the features "
            f"{', '.join(f'{k} ({type(features[k]).__name__})' for k in sorted(features))}."
        )
    return builder, image, label


def _how(dataset: str) -> str:
    """What to do about a data set that is not prepared."""
    build = f"`tfds build {dataset} --file_format=array_record`"
    if importlib.util.find_spec("tensorflow"):
        return f"prepare it once with {build} and set data.path to its data directory"
    return (
        f"prepare it once with {build}, which needs TensorFlow (pip install tensorflow-cpu, here "
        f"or on another machine), and set data.path to its data directory"
    )


def _open(builder, split: str, dataset: str) -> Records:
    skip = {"image": tfds.decode.SkipDecoding()}
    place = f"The {split} split in {builder.data_path}"
    try:
        source = builder.as_data_source(split=split, decoders=skip)
        return Records(source, np.arange(len(source)), place)
    except NotImplementedError as e:
        raise UserError(f"{dataset} is not stored as array_record; {_how(dataset)}.") from e
    except (RuntimeError, OSError, ValueError) as e:
        raise UserError(
            f"{place} is missing or damaged ({str(e)[:120]}); prepare the data set again."
        ) from e


def _labels(
    records: Records, info, builder, split: str, cache: Path | None, workers: int
) -> tuple[np.ndarray, str]:
    """Stored labels, int32 [N], and the name they are kept under: reading all takes long."""
    count = len(records.where)
    shards = [
        [p.name, p.stat().st_size, p.stat().st_mtime_ns]
        for p in sorted(Path(builder.data_path).glob(f"*-{split}.*"))
    ]
    content = {
        "dataset": builder.info.full_name,
        "split": split,
        "bytes": int(info.num_bytes),
        "shards": shards,
    }
    name = f"labels-{identity(content)}.npy"
    known = held.load(cache / name, (count,)) if cache else None
    if known is not None:
        return np.asarray(known), name
    labels = _Labels(records, np.zeros(count, np.int32), workers)
    read = []
    with progress(count, f"read {split} labels", "record") as bar:
        for _, some in batches(labels, _BATCH):
            read.append(some)
            bar.update(len(some))
    return np.concatenate(read), name
