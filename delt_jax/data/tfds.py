"""TensorFlow Datasets through `tfds.data_source`: random access, no TensorFlow at run time."""

import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming
from tensorflow_datasets.core.utils import file_utils

from delt_jax.core.progress import progress
from delt_jax.data import in_memory
from delt_jax.data.classes import choose, relabel
from delt_jax.data.names import Names
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint
from delt_jax.data.stream import batches, worker_count
from delt_jax.data.tfds_remote import local_directory
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import remote, tfds_schema
from delt_jax.store.foreign import ForeignFileError
from delt_jax.store.identity import identity

_BATCH = 1024
_TESTS = ("test", "validation")
_DATASET = re.compile(
    r"(?P<name>[a-zA-Z]\w*)(/(?P<config>[\w+\-.]+))?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII
)


@dataclass(frozen=True)
class Records:
    """Some records of a split.

    Attributes:
      source: all records of the split, as `tfds.data_source` gives them.
      where: int [N], indices into these.
      place: names the split in sentences.
    """

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
    """Labels of the records in place of their images, so that `batches` can read them."""

    records: Records
    labels: np.ndarray
    workers: int
    names: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        labels = np.array([r["label"] for r in self.records.records(indices)])
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise UserError(f"{self.records.place} has labels that are no whole numbers.")
        # Before the cast: one beyond int32 could wrap to the number of another class.
        return np.clip(labels, -2, np.iinfo(np.int32).max).astype(np.int32)


class _Dataset(NamedTuple):
    """A prepared data set, and what the recipe takes of it.

    Attributes:
      recipe: of the data.
      builder: TFDS's.
      classes: TFDS's names of the chosen classes, in label order.
      class_names: what they are called here.
      new_labels: int32 [classes of the data set], -1 for those that are not chosen.
      image_size, channels: of the images once they fit.
      as_stored: whether all images are stored in this size and stay as they are.
      cache: where labels and readable files may have been kept.
    """

    recipe: DataRecipe
    builder: Any
    classes: tuple[str, ...]
    class_names: tuple[str, ...]
    new_labels: np.ndarray
    image_size: int
    channels: int
    as_stored: bool
    cache: Path | None


class _Split(NamedTuple):
    """An opened split.

    Attributes:
      name: e.g. "train".
      examples: those of the chosen classes.
      labels: int32 [all examples], as stored; -1 where they are hidden.
      file: name that the labels are cached under.
    """

    name: str
    examples: EncodedExamples
    labels: np.ndarray
    file: str


def open_tfds(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens a prepared TFDS data set with "image" and "label" features.

    Raises:
      UserError: if it is unknown, not prepared as array_record, or not a classification set.
    """
    dataset = _dataset(recipe, cache)
    train = _open_split(dataset, "train")
    test, found = _open_labelled_test_split(dataset)
    found[train.file] = train.labels
    infos = dataset.builder.info.splits
    content = identity(
        {
            "dataset": dataset.builder.info.full_name,
            "splits": [_counted(infos, split.name) for split in (train, test)],
            "labels": fingerprint(train.labels, test.labels),
        }
    )
    readable: list[EncodedExamples] = []
    notes: list[str] = []
    for split in (train, test):
        of_split = {"content": content, "classes": dataset.classes, "split": split.name}
        stay, left_out, outcome = leave_out(
            split.examples, recipe.unreadable, identity(of_split), cache
        )
        readable.append(_take(split.examples, np.flatnonzero(stay)))
        notes += left_out
        found |= outcome
    return Source(
        name=recipe.dataset,
        class_names=dataset.class_names,
        image_size=dataset.image_size,
        channels=dataset.channels,
        train=readable[0],
        test=readable[1],
        fingerprint=identity(
            {
                "source": "tfds",
                "content": content,
                "class_names": dataset.class_names,
                "image_size": dataset.image_size,
                "channels": dataset.channels,
                "fit": recipe.fit,
                "train": readable[0].names[:],
                "test": readable[1].names[:],
            }
        ),
        notes=tuple(notes),
        found=found,
    )


def _dataset(recipe: DataRecipe, cache: Path | None) -> _Dataset:
    """Finds the data set, its chosen classes, and the size that its images take."""
    builder, image, label = _builder(recipe)
    chosen = choose(label.names, recipe.classes, recipe.dataset)
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
    new_labels = relabel(label.names, chosen)
    as_stored = shape[:2] == (size, size) and recipe.fit != "centre"
    return _Dataset(recipe, builder, chosen, names, new_labels, size, channels, as_stored, cache)


def _open_split(dataset: _Dataset, name: str) -> _Split:
    """A split's examples of the chosen classes, and all its labels."""
    recipe = dataset.recipe
    records = _open(dataset.builder, name, recipe.dataset)
    stored, file = _labels(dataset, name, records)
    classes = len(dataset.new_labels)
    odd = np.flatnonzero((stored < -1) | (stored >= classes))
    if len(odd):
        raise UserError(
            f"{records.place} has the label {stored[odd[0]]} at record {odd[0]}, but {classes} "
            f"classes; labels count from 0, and -1 hides one."
        )
    labels = np.where(stored < 0, -1, dataset.new_labels[stored])
    where = np.flatnonzero((labels >= 0) | (stored < 0))
    examples = EncodedExamples(
        encoded=Records(records.source, where, records.place),
        labels=labels[where],
        names=Names.of(f"{name}/{i:08}".encode() for i in where),
        where=f"{recipe.dataset} ",
        image_size=dataset.image_size,
        channels=dataset.channels,
        fit=recipe.fit,
        workers=worker_count(recipe.workers),
        as_stored=dataset.as_stored,
        most_pixels=recipe.max_pixels,
    )
    return _Split(name, examples, stored, file)


def _open_labelled_test_split(dataset: _Dataset) -> tuple[_Split, dict[str, np.ndarray]]:
    """The first test split whose labels are public, and labels by file name of all it looked at.

    Some test splits hide their labels as -1, e.g. imagenet2012's.
    """
    tests = [name for name in _TESTS if name in dataset.builder.info.splits]
    found = {}
    for name in tests:
        split = _open_split(dataset, name)
        found[split.file] = split.labels
        if (split.labels >= 0).all():
            return split, found
    raise UserError(
        f"The labels of {dataset.recipe.dataset}'s {' and '.join(tests)} split are hidden (-1), so "
        f"nothing could be scored; use a data set with a labelled one."
    )


def _counted(splits, name: str) -> dict[str, Any]:
    """A split as its identity has it."""
    split = splits[name]
    return {"name": name, "examples": int(split.num_examples), "bytes": int(split.num_bytes)}


def _take(examples: EncodedExamples, where: np.ndarray) -> EncodedExamples:
    """The examples at `where`, int [N]."""
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
    _check_name(recipe)
    if recipe.path:
        recipe = replace(recipe, path=str(local_directory(recipe.path, recipe.dataset)))
    _check_before_reading(recipe)
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
        not any(name in splits for name in _TESTS)
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


def _check_name(recipe: DataRecipe) -> None:
    """Refuses names that TFDS would download code for."""
    parts = _DATASET.fullmatch(recipe.dataset)
    if not parts or parts["config"] in (".", ".."):
        raise UserError(
            f"data.dataset {recipe.dataset!r} is no name of a data set; write name, name/config or "
            f"name:1.0.0, without a namespace or arguments."
        )


def _check_before_reading(recipe: DataRecipe) -> None:
    """Refuses metadata that would run code, and a default directory that is not on this machine."""
    name = naming.camelcase_to_snakecase(re.split("[/:]", recipe.dataset)[0])
    folders = [recipe.path] if recipe.path else file_utils.list_data_dirs()
    for folder in folders:
        if remote.scheme_of(folder):
            raise UserError(f"TFDS's data directory is {folder}; name it in data.path instead.")
        try:
            tfds_schema.check_all(Path(folder), name)
        except ForeignFileError as e:
            raise UserError(f"{e}.") from e
        except OSError as e:
            raise UserError(f"{e.filename or folder} cannot be read: {e.strerror or e}.") from e


def _how(dataset: str) -> str:
    """Says how to prepare a data set."""
    build = f"`tfds build {dataset} --file_format=array_record`"
    if importlib.util.find_spec("tensorflow"):
        return f"prepare it once with {build} and set data.path to its data directory"
    return (
        f"prepare it once with {build}, which needs TensorFlow (pip install tensorflow-cpu, here "
        f"or on another machine), and set data.path to its data directory"
    )


def _open(builder, split: str, dataset: str) -> Records:
    """All records of a split, their images still encoded."""
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


def _labels(dataset: _Dataset, split: str, records: Records) -> tuple[np.ndarray, str]:
    """Stored labels, int32 [N], and the name of their file: reading all of them takes long."""
    builder, num_records = dataset.builder, len(records.where)
    shards = [
        [p.name, p.stat().st_size, p.stat().st_mtime_ns]
        for p in sorted(Path(builder.data_path).glob(f"*-{split}.*"))
    ]
    content = {
        "dataset": builder.info.full_name,
        "split": split,
        "bytes": int(builder.info.splits[split].num_bytes),
        "shards": shards,
    }
    file = f"labels-{identity(content)}.npy"
    cached = in_memory.load(dataset.cache / file, (num_records,)) if dataset.cache else None
    if cached is not None:
        return np.asarray(cached), file
    workers = worker_count(dataset.recipe.workers)
    labels = _Labels(records, np.zeros(num_records, np.int32), workers)
    read = []
    with progress(num_records, f"read {split} labels", "record") as bar:
        for _, some in batches(labels, _BATCH):
            read.append(some)
            bar.update(len(some))
    return np.concatenate(read), file
