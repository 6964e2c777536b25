"""Where the parquet files of a data set are, and what their columns hold."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delt_jax.errors import UserError
from delt_jax.store import files, parquet_sizes
from delt_jax.store.foreign import parse_json, shown
from delt_jax.store.local_copies import local
from delt_jax.store.remote import Listed

HUB = "hf:"
GROUPS = 4  # row groups that a process keeps
_TESTS = ("test", "validation", "valid", "val")  # splits to test on, the first choice first
_IMAGES, _LABELS = ("image", "img", "images"), ("label", "labels", "fine_label")
_HASHED = 256 * 2**20  # bytes of a file that is read as a whole to tell whether it has changed
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
    if root.is_file():
        return {"train": [root]}
    found = sorted(root.rglob("*.parquet")) if root.is_dir() else []
    sets = sorted({_set_of(file.relative_to(root)) for file in found})
    if len(sets) > 1:
        raise UserError(
            f"data.path {root} holds the files of {len(sets)} sets "
            f"({shown(', '.join(sets), 200)}); add the folder of one to data.path."
        )
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


def _set_of(path: Path) -> str:
    """The folder of the set that a file belongs to, without a last one for its split."""
    folders = path.parts[:-1]
    return "/".join(folders[:-1] if folders and _split_of(Path(folders[-1])) else folders) or "."


def _split_of(path: Path) -> str:
    """The word for a split that the file's name or a folder's begins with; empty for none."""
    words = ("train", *_TESTS)
    for part in reversed(path.parts):
        match = re.match(r"[a-z]+", part.lower())
        if match and match[0] in words:
            return match[0]
    return ""


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
    highest = max(int(each.max()) for each in labels.values() if len(each))
    if highest < 0 or highest >= sum(map(len, labels.values())):
        raise UserError(f"The labels of {where} are no classes that count from 0.")
    return tuple(map(str, range(highest + 1)))


def line(error: Exception) -> str:
    """What an error says, in one line of a sentence."""
    return shown(" ".join(str(error).split()), 160) or type(error).__name__
