"""Where the parquet files of a data set are, and what their columns hold."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delt_jax.data.sharded import numbered, splits_of
from delt_jax.errors import UserError
from delt_jax.store import parquet_sizes
from delt_jax.store.foreign import parse_json, shown
from delt_jax.store.local_copies import local
from delt_jax.store.remote import Listed

HUB = "hf:"
GROUPS = 4  # row groups that a process keeps
_IMAGES, _LABELS = ("image", "img", "images"), ("label", "labels", "fine_label")
_MOST_CLASSES = 2**31 - 1
_CONVERTED = "refs/convert/parquet"  # where the Hub keeps parquet of other formats


def root_of(path: str) -> Path:
    """The folder of the files; those of the Hub are downloaded, or found where they were put."""
    if not path:
        raise UserError("data.path is empty; name a folder of parquet files, or hf:OWNER/NAME.")
    if not path.startswith(HUB):
        return local(path, _parquet_below)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?", path.removeprefix(HUB))
    if not match:
        raise UserError(f"data.path {path} is no data set on the Hub; write hf:OWNER/NAME.")
    name, folder_inside = match[1], match[2] or ""
    pattern = f"{folder_inside}/*.parquet" if folder_inside else "*.parquet"
    from huggingface_hub import snapshot_download  # slow to import

    for revision in (None, _CONVERTED):
        try:
            folder = snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=pattern
            )
        except Exception as e:  # of the library and of the network below it
            raise UserError(
                f"data.path {path} cannot be had from the Hugging Face Hub ({line(e)})."
            ) from e
        if next((Path(folder) / folder_inside).rglob("*.parquet"), None):
            return Path(folder) / folder_inside
    raise UserError(f"data.path {path} has no parquet files; download and convert it yourself.")


def _parquet_below(found: Mapping[str, Listed]) -> Mapping[str, Listed]:
    """Those of a folder's files in an object store that are copied here."""
    return {name: entry for name, entry in found.items() if name.endswith(".parquet")}


def files_of(root: Path) -> dict[str, list[Path]]:
    """Files of the training split and, if there is one, of the test split, in order."""
    found = splits_of(root, ".parquet")
    if not found:
        raise UserError(
            f"data.path {root} holds no parquet files; name the folder of a data set that was "
            f"downloaded from the Hub, or hf:OWNER/NAME."
        )
    return found


class ParquetTable(NamedTuple):
    """A parquet file, opened.

    Attributes:
      path: of the file.
      metadata: of its row groups.
      schema: of its columns.
      features: of its columns, as `datasets` describes them; {} if it does not.
    """

    path: Path
    metadata: pq.FileMetaData
    schema: pa.Schema
    features: dict[str, Any]

    @classmethod
    def opened(cls, path: Path) -> "ParquetTable":
        """Reads the end of a file."""
        try:
            metadata = pq.read_metadata(path)
            _check_claims(path, metadata)
            schema = metadata.schema.to_arrow_schema()
            stored = (metadata.metadata or {}).get(b"huggingface", b"{}")
            info = parse_json(stored)
        except Exception as e:  # as above
            raise UserError(f"{path} is no parquet file that can be read ({line(e)}).") from e
        for name in ("info", "features"):
            info = info.get(name) if isinstance(info, dict) else None
        return cls(path, metadata, schema, info if isinstance(info, dict) else {})


def _check_claims(path: Path, metadata: pq.FileMetaData) -> None:
    """Raises a ForeignFileError if a file claims more than it can hold, or groups than memory."""
    # Not column by column: pyarrow ends the process where a column's description is damaged.
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    claimed = [max(g.total_byte_size, 16 * g.num_rows) for g in groups]  # of two columns
    at_once = GROUPS * max(claimed, default=0)
    parquet_sizes.check(sum(claimed), at_once, path.stat().st_size)


def columns_of(table: ParquetTable, asked: str) -> tuple[str, str]:
    """Names of the columns of images and labels; `asked` names another one of labels."""
    there, features = table.schema.names, table.features

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

    return column("Image", _IMAGES), column("ClassLabel", _LABELS, asked)


def labels_of(tables: Sequence[ParquetTable], column: str) -> np.ndarray:
    """Labels of all rows, int64 [N]; -1 where they are hidden."""
    parts = []
    for table in tables:
        try:
            with pq.ParquetFile(table.path, page_checksum_verification=True) as opened:
                read = opened.read(columns=[column]).column(column)
        except Exception as e:  # as above
            raise UserError(f"{table.path} has no column {column!r} to read ({line(e)}).") from e
        if not pa.types.is_integer(read.type):
            raise UserError(f"{table.path}: the column {column!r} is {read.type}, not a class.")
        labels = read.fill_null(-1).to_numpy()
        if len(labels) and (labels.max() > _MOST_CLASSES or labels.min() < -1):
            raise UserError(
                f"{table.path} has labels from {labels.min()} to {labels.max()} in {column!r}; "
                f"classes count from 0, and -1 is for those that are hidden."
            )
        parts.append(labels.astype(np.int64))
    return np.concatenate(parts)


def class_names_of(feature: Any, labels: dict[str, np.ndarray], where: str) -> tuple[str, ...]:
    """Names of the classes as the files have them, or their numbers."""
    listed = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(listed, dict):  # as YAML has them, by number
        listed = [listed.get(str(number)) for number in range(len(listed))]
    if isinstance(listed, list) and listed and all(isinstance(name, str) for name in listed):
        return tuple(listed)
    return numbered(labels, where)


def line(error: Exception) -> str:
    """What an error says, in one line of a sentence."""
    return shown(" ".join(str(error).split()), 160) or type(error).__name__
