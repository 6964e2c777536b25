"""Data sets as the Hugging Face Hub has them: parquet files with the pictures in them."""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from delt_jax.data import parquet_files
from delt_jax.data.classes import choose, relabel
from delt_jax.data.fit import is_grey
from delt_jax.data.names import Names
from delt_jax.data.parquet_files import ParquetTable
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint, split_mask
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import pictures
from delt_jax.store.identity import identity
from delt_jax.store.pictures import UnreadableError

_NO_PICTURE = "the file has a path in its place, and not the picture"
_SAMPLE = 100  # pictures whose size is looked at


class _RowGroup(NamedTuple):
    """A row group.

    Attributes:
      file: that it lies in.
      changed: the file's last change, so that nothing of an older one is taken for it.
      number: in the file.
      start: rows before it.
    """

    file: str
    changed: int
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
            here = np.flatnonzero(places == place)
            cells = _cells(self.groups[place], self.column, rows[here])
            for i, content in zip(here, cells, strict=True):
                found[i] = content if isinstance(content, bytes) else UnreadableError(_NO_PICTURE)
        return found


def _cells(group: _RowGroup, column: str, rows: np.ndarray) -> list[Any]:
    """What some rows of a group hold as pictures: bytes, or what is there in their place."""
    try:
        return _column(group, column).take(pa.array(rows - group.start)).to_pylist()
    except Exception as e:  # pyarrow raises many types at a damaged file
        raise UserError(
            f"{group.file} cannot be read ({parquet_files.line(e)}); download it again."
        ) from e


@functools.lru_cache(maxsize=parquet_files.GROUPS)
def _column(group: _RowGroup, column: str) -> pa.ChunkedArray:
    """The pictures of a row group; `datasets` keeps {"bytes", "path"}, others the bytes alone."""
    with pq.ParquetFile(group.file, page_checksum_verification=True) as opened:
        found = opened.read_row_group(group.number, columns=[column]).column(0)
    return pc.struct_field(found, "bytes") if pa.types.is_struct(found.type) else found


def open_parquet(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens the parquet files below ``data.path``, or of the Hub's data set that it names.

    Files belong to the split that their name or folder begins with; others to the training split.
    Without a test split, ``data.test_share`` of each class is drawn. The columns are the image and
    the class label of the files' features, or "image" and "label"; ``data.dataset`` names another
    label column.

    Raises:
      UserError: for a folder without such files, columns that do not fit, or labels that are none.
    """
    root = parquet_files.root_of(recipe.path)
    tables = {
        split: [ParquetTable.opened(file) for file in found]
        for split, found in parquet_files.files_of(root).items()
    }
    features = tables["train"][0].features
    image, label = parquet_files.columns_of(tables["train"][0], recipe.dataset)
    labels = {split: parquet_files.labels_of(found, label) for split, found in tables.items()}
    if "test" in labels and (labels["test"] < 0).all():  # hidden, as the Hub has those of contests
        del labels["test"]
    names = recipe.class_names or parquet_files.class_names_of(
        features.get(label), labels, str(root)
    )
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
    kept, hidden = readable & (new >= 0), int((old < 0).sum())
    if hidden:
        notes = [*notes, f"{hidden} rows of {root} have no class and are not used"]
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
        name=_name(recipe.path, root),
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


def _name(path: str, root: Path) -> str:
    """What the data are called: as on the Hub, or as their folder or file."""
    on_hub = path.startswith(parquet_files.HUB)
    return path.removeprefix(parquet_files.HUB).replace("/", "-") if on_hub else root.stem


def _examples(
    recipe: DataRecipe,
    root: Path,
    tables: dict[str, list[ParquetTable]],
    labels: dict[str, np.ndarray],
    image: str,
) -> EncodedExamples:
    """All rows, those of the training split first; their size is not known yet."""
    groups, start, names = [], 0, []
    for split, numbers in labels.items():
        for table in tables[split]:
            changed = table.path.stat().st_mtime_ns
            for number in range(table.metadata.num_row_groups):
                groups.append(_RowGroup(str(table.path), changed, number, start))
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
