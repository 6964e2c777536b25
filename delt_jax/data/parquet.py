"""Data sets as the Hugging Face Hub has them: parquet files with the pictures in them."""

import functools
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delt_jax.data.classes import choose, relabel
from delt_jax.data.fit import is_grey
from delt_jax.data.names import Names
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint, split_mask
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import files, pictures
from delt_jax.store.foreign import ForeignFileError, parse_json, shown
from delt_jax.store.identity import identity
from delt_jax.store.local_copies import local
from delt_jax.store.pictures import UnreadableError
from delt_jax.store.remote import Listed

HUB = "hf:"
_TESTS = ("test", "validation", "valid", "val")  # splits to test on, the first choice first
_IMAGES, _LABELS = ("image", "img", "images"), ("label", "labels", "fine_label")
_HASHED = 256 * 2**20  # bytes of a file that is read as a whole to tell whether it has changed
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAMPLE = 100  # pictures whose size is looked at
_GROUPS = 4  # row groups that a process keeps
_CONVERTED = "refs/convert/parquet"  # where the Hub keeps parquet of other formats


class _RowGroup(NamedTuple):
    """A row group: its file, its number there, and the row that it begins with."""

    file: str
    number: int
    start: int


@dataclass(frozen=True)
class Rows:
    """Some rows of parquet files; `delt_jax.data.source.Encoded`.

    Attributes:
      groups: row groups of all files, in order.
      column: of the pictures.
      where: int [N], rows counted over all groups.
    """

    groups: tuple[_RowGroup, ...]
    column: str
    where: np.ndarray

    def read(self, indices: np.ndarray) -> list[bytes | UnreadableError]:
        """Contents of the pictures, each row group read once."""
        rows = self.where[indices]
        starts = np.array([group.start for group in self.groups])
        places = np.searchsorted(starts, rows, side="right") - 1
        found: list[bytes | UnreadableError] = [b""] * len(rows)
        for place in np.unique(places):
            group, here = self.groups[place], np.flatnonzero(places == place)
            column = _column(group.file, group.number, self.column)
            taken = column.take(pa.array(rows[here] - group.start)).to_pylist()
            for i, cell in zip(here, taken, strict=True):
                found[i] = _bytes_of(cell)
        return found


def _bytes_of(cell: Any) -> bytes | UnreadableError:
    """A picture's bytes: `datasets` keeps {"bytes", "path"}, others the bytes alone."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(content, bytes):
        return content
    return UnreadableError("the file has a path in its place, and not the picture")


@functools.lru_cache(maxsize=_GROUPS)
def _column(file: str, group: int, column: str) -> pa.ChunkedArray:
    try:
        return pq.ParquetFile(file).read_row_group(group, columns=[column]).column(0)
    except (OSError, pa.ArrowException) as e:
        raise UserError(f"{file} cannot be read ({_line(e)}); download it again.") from e


def open_parquet(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens the parquet files below ``data.path``, or of the Hub's data set that it names.

    Files belong to the split that their name or folder begins with; others to the training split.
    Without a test split, ``data.test_share`` of each class is drawn. The columns are the image and
    the class label of the files' features, or "image" and "label"; ``data.dataset`` names another
    label column.

    Raises:
      UserError: for a folder without such files, columns that do not fit, or labels that are none.
    """
    root = _root(recipe.path)
    splits = _files_of(root)
    tables = {split: [_Table.opened(file) for file in found] for split, found in splits.items()}
    features = tables["train"][0].features
    image, label = _columns(tables["train"][0], recipe, features)
    labels = {split: _labels(found, label) for split, found in tables.items()}
    if "test" in labels and (labels["test"] < 0).all():  # hidden, as the Hub has those of contests
        del labels["test"]
    names = recipe.class_names or _class_names(features.get(label), labels, str(root))
    chosen = choose(names, recipe.classes, str(root))
    everything = _examples(recipe, root, tables, labels, image)
    size, channels, notes = _derive(recipe, everything)
    old, new = _relabelled(labels, names, chosen, str(root))
    everything = replace(everything, labels=new, image_size=size, channels=channels)
    if "test" in labels:
        in_test = np.arange(len(new)) >= len(labels["train"])
    else:
        in_test = split_mask(old, recipe.test_share, recipe.split_seed)
    content = identity([table.described for split in labels for table in tables[split]])
    readable, left_out, found = leave_out(everything, recipe.unreadable, content, cache)
    kept = readable & (new >= 0)
    of_all = {
        "source": "parquet",
        "class_names": chosen,
        "image_size": size,
        "channels": channels,
        "fit": recipe.fit,
        "labels": fingerprint(new, in_test, readable),
        "files": content,
    }
    return Source(
        name=recipe.path.removeprefix(HUB).replace("/", "-") if _is_hub(recipe) else root.name,
        class_names=chosen,
        image_size=size,
        channels=channels,
        train=_taken(everything, kept & ~in_test, chosen, "training"),
        test=_taken(everything, kept & in_test, chosen, "test"),
        fingerprint=identity(of_all),
        notes=(*notes, *left_out),
        found=found,
    )


def _relabelled(
    labels: dict[str, np.ndarray], names: Sequence[str], chosen: Sequence[str], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """All labels as stored, and int32 among the chosen classes, -1 where they are of none."""
    old = np.concatenate(list(labels.values()))
    if old.max() >= len(names):
        raise UserError(
            f"{where} has the label {old.max()}, but {len(names)} class names; name all classes "
            f"with data.class_names."
        )
    return old, np.where(old < 0, -1, relabel(names, chosen)[old]).astype(np.int32)


def _taken(
    examples: EncodedExamples, where: np.ndarray, class_names: Sequence[str], split: str
) -> EncodedExamples:
    """A split: the examples where the mask, bool [N], is true.

    Raises:
      UserError: if a class has none.
    """
    places = np.flatnonzero(where)
    counts = np.bincount(examples.labels[places], minlength=len(class_names))
    if not counts.all():
        raise UserError(
            f"{examples.where}no {split} image of class {class_names[int(counts.argmin())]!r} is "
            f"left; add some."
        )
    rows, names = examples.encoded, examples.names
    assert isinstance(rows, Rows)
    assert isinstance(names, Names)
    return replace(
        examples,
        encoded=Rows(rows.groups, rows.column, rows.where[places]),
        labels=examples.labels[places],
        names=names.take(places),
    )


def _is_hub(recipe: DataRecipe) -> bool:
    return recipe.path.startswith(HUB)


def _root(path: str) -> Path:
    """The folder of the files; those of the Hub are downloaded, or found where they were put."""
    if not path:
        raise UserError("data.path is empty; name a folder of parquet files, or hf:OWNER/NAME.")
    if not path.startswith(HUB):
        root = local(path, _parquet_below)
        return root.parent if root.is_file() else root
    name = path.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"data.path {path} is no data set on the Hub; write hf:OWNER/NAME.")
    from huggingface_hub import snapshot_download  # slow to import

    for revision in (None, _CONVERTED):
        try:
            folder = snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns="*.parquet"
            )
        except Exception as e:  # of the library and of the network below it
            raise UserError(
                f"data.path {path} cannot be had from the Hugging Face Hub ({_line(e)})."
            ) from e
        if next(Path(folder).rglob("*.parquet"), None):
            return Path(folder)
    raise UserError(f"data.path {path} has no parquet files; download and convert it yourself.")


def _parquet_below(found: Mapping[str, Listed]) -> Mapping[str, Listed]:
    """Those of a folder's files in an object store that are copied here."""
    return {name: entry for name, entry in found.items() if name.endswith(".parquet")}


def _files_of(root: Path) -> dict[str, list[Path]]:
    """Files of the training split and, if there is one, of the test split, in order."""
    found = sorted(root.rglob("*.parquet")) if root.is_dir() else []
    if not found:
        raise UserError(
            f"data.path {root} holds no parquet files; name the folder of a data set that was "
            f"downloaded from the Hub, or hf:OWNER/NAME."
        )
    by_word: dict[str, list[Path]] = {}
    for file in found:
        by_word.setdefault(_split_of(file.relative_to(root)), []).append(file)
    splits = {"train": by_word.get("train") or by_word.get("", [])}
    test = next((by_word[word] for word in _TESTS if word in by_word), None)
    if not splits["train"]:
        raise UserError(f"{root} has parquet files of {', '.join(by_word)}, but none of train.")
    return splits | ({"test": test} if test else {})


def _split_of(path: Path) -> str:
    """The word for a split that the file's name or a folder's begins with; empty for none."""
    words = ("train", *_TESTS)
    for part in reversed(path.parts):
        match = re.match(r"[a-z]+", part.lower())
        if match and match[0] in words:
            return match[0]
    return ""


class _Table(NamedTuple):
    """A parquet file, opened.

    Attributes:
      path: of the file.
      metadata: row groups and columns.
      features: of its columns, as `datasets` describes them; {} if it does not.
    """

    path: Path
    metadata: pq.FileMetaData
    features: dict[str, Any]

    @classmethod
    def opened(cls, path: Path) -> "_Table":
        """Reads the end of a file."""
        try:
            metadata = pq.read_metadata(path)
            stored = (metadata.metadata or {}).get(b"huggingface", b"{}")
            info = parse_json(stored)
        except (OSError, pa.ArrowException, ForeignFileError) as e:
            raise UserError(f"{path} is no parquet file that can be read ({_line(e)}).") from e
        for name in ("info", "features"):
            info = info.get(name) if isinstance(info, dict) else None
        return cls(path, metadata, info if isinstance(info, dict) else {})

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.metadata.schema.to_arrow_schema().names)

    @property
    def described(self) -> list[Any]:
        """What tells this file from another: its name and content, of a large one the last change.

        A file of the Hub's cache is a link whose target is named by its content.
        """
        size, target = self.path.stat().st_size, Path(os.path.realpath(self.path)).name
        if size <= _HASHED:
            return [self.path.name, files.file_checksum(self.path)]
        content = target if _SHA256.fullmatch(target) else self.path.stat().st_mtime_ns
        return [self.path.name, size, content]


def _columns(table: _Table, recipe: DataRecipe, features: dict[str, Any]) -> tuple[str, str]:
    """Names of the columns of images and labels."""
    there = table.columns

    def column(kind: str, usual: Sequence[str], asked: str = "") -> str:
        typed = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == kind]
        wanted = [asked] if asked else [*typed, *usual]
        found = next((name for name in wanted if name in there), None)
        if found is None:
            listed = shown(", ".join(there), 400)
            raise UserError(
                f"{table.path} has the columns {listed}, but none called {' or '.join(wanted)}; "
                f"name the labels' with data.dataset."
            )
        return found

    return column("Image", _IMAGES), column("ClassLabel", _LABELS, recipe.dataset)


def _labels(tables: Sequence[_Table], column: str) -> np.ndarray:
    """Labels of all rows, int64 [N]; -1 where they are hidden."""
    parts = []
    for table in tables:
        try:
            read = pq.read_table(table.path, columns=[column]).column(0)
        except (OSError, pa.ArrowException, KeyError) as e:
            raise UserError(f"{table.path} has no column {column!r} to read ({_line(e)}).") from e
        if not pa.types.is_integer(read.type):
            raise UserError(f"{table.path}: the column {column!r} is {read.type}, not a class.")
        parts.append(read.fill_null(-1).to_numpy().astype(np.int64))
    return np.concatenate(parts)


def _class_names(feature: Any, labels: dict[str, np.ndarray], where: str) -> tuple[str, ...]:
    """Names of the classes as the files have them, or their numbers."""
    listed = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(listed, dict):  # as YAML has them, by number
        listed = [listed[key] for key in sorted(listed, key=int)]
    if listed and all(isinstance(name, str) for name in listed):
        return tuple(listed)
    highest = max(int(each.max()) for each in labels.values() if len(each))
    if highest < 0 or highest >= sum(map(len, labels.values())):
        raise UserError(f"The labels of {where} are no classes that count from 0.")
    return tuple(map(str, range(highest + 1)))


def _examples(
    recipe: DataRecipe,
    root: Path,
    tables: dict[str, list[_Table]],
    labels: dict[str, np.ndarray],
    image: str,
) -> EncodedExamples:
    """All rows, those of the training split first; their size is not known yet."""
    groups, start, names = [], 0, []
    for split, numbers in labels.items():
        for table in tables[split]:
            for number in range(table.metadata.num_row_groups):
                groups.append(_RowGroup(str(table.path), number, start))
                start += table.metadata.row_group(number).num_rows
        names += [f"{split}/{row:07}".encode() for row in range(len(numbers))]
    rows = Rows(tuple(groups), image, np.arange(start))
    flat = np.concatenate(list(labels.values())).astype(np.int32)
    workers = worker_count(recipe.workers)
    return EncodedExamples(rows, flat, Names.of(names), f"{root}: ", 0, 0, recipe.fit, workers)


def _derive(recipe: DataRecipe, examples: EncodedExamples) -> tuple[int, int, list[str]]:
    """Size and channels as set, or those of the first pictures; and what was derived."""
    if recipe.image_size and recipe.channels:
        return recipe.image_size, recipe.channels, []
    sides, grey = set(), []
    for picture in _first(examples):
        sides.add(min(picture.size))
        grey.append(is_grey(picture.mode))
    if not recipe.image_size and len(sides) != 1:
        seen = f"from {min(sides)} to {max(sides)} px" if sides else "that none of the first shows"
        raise UserError(f"{examples.where}pictures have sides {seen}; set data.image_size.")
    size = recipe.image_size or sides.pop()
    channels = recipe.channels or (1 if grey and all(grey) else 3)
    return size, channels, [f"data.image_size {size}, data.channels {channels}: as the pictures"]


def _first(examples: EncodedExamples) -> Iterator[Any]:
    """Headers of the first pictures that can be read."""
    for content in examples.encoded.read(np.arange(min(_SAMPLE, len(examples)))):
        if isinstance(content, bytes):
            try:
                yield pictures.open_picture(io.BytesIO(content), "a picture")
            except (UnreadableError, OSError):
                continue


def _line(error: Exception) -> str:
    return shown(" ".join(str(error).split()), 160) or type(error).__name__
