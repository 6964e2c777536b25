"""Data sets as the Hugging Face Hub has them: parquet files with the pictures in them."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from delt_jax.data import parquet_files
from delt_jax.data.names import Names
from delt_jax.data.parquet_files import ParquetTable
from delt_jax.data.sharded import Sharded, content_of, open_sharded
from delt_jax.data.source import Source
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store.identity import identity
from delt_jax.store.pictures import UnreadableError

_NO_PICTURE = "the file has a path in its place, and not the picture"


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
    """Some rows of parquet files; `delt_jax.data.sharded.Shards`.

    Attributes:
      groups: row groups of all files, in order.
      column: of the pictures.
      where: int [N], rows counted over all groups.
    """

    groups: tuple[_RowGroup, ...]
    column: str
    where: np.ndarray

    def taken(self, places: np.ndarray) -> "Rows":
        """Some of the rows, int [n]."""
        return replace(self, where=self.where[places])

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
    image, label = parquet_files.columns_of(tables["train"][0], recipe.dataset)
    labels = {split: parquet_files.labels_of(found, label) for split, found in tables.items()}
    if "test" in labels and (labels["test"] < 0).all():  # hidden, as the Hub has those of contests
        del labels["test"]
    feature = tables["train"][0].features.get(label)
    names = recipe.class_names or parquet_files.class_names_of(feature, labels, str(root))
    found = Sharded(
        kind="parquet",
        name=_name(recipe.path, root),
        root=root,
        shards=_rows(tables, labels, image),
        names=Names.of(
            f"{split}/{row:07}".encode()
            for split, numbers in labels.items()
            for row in range(len(numbers))
        ),
        labels=labels,
        class_names=names,
        content=identity([content_of(table.path) for split in labels for table in tables[split]]),
    )
    return open_sharded(recipe, cache, found)


def _name(path: str, root: Path) -> str:
    """What the data are called: as on the Hub, or as their folder or file."""
    on_hub = path.startswith(parquet_files.HUB)
    return path.removeprefix(parquet_files.HUB).replace("/", "-") if on_hub else root.stem


def _rows(tables: dict[str, list[ParquetTable]], labels: dict[str, np.ndarray], image: str) -> Rows:
    """All rows, those of the training split first."""
    groups, start = [], 0
    for table in (table for split in labels for table in tables[split]):
        changed = table.path.stat().st_mtime_ns
        for number in range(table.metadata.num_row_groups):
            groups.append(_RowGroup(str(table.path), changed, number, start))
            start += table.metadata.row_group(number).num_rows
    return Rows(tuple(groups), image, np.arange(start))
