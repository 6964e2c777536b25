"""Parquet files with embedded images, as the Hugging Face Hub and its `datasets` store them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats import card, parquet_floats
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, as_manifest, as_names, write_sidecar
from delt_jax.store import files, parquet_sizes, pictures
from delt_jax.store.foreign import ForeignFileError, check_size, parse_json, shown

_TABLE = "data/train-00000-of-00001.parquet"
_COLUMNS = ("image", "label", "soft_label", "learned_label")
_BATCH = 16  # rows
_OURS = b"delt_jax"  # key of the manifest in the schema's metadata


def detect(path: Path) -> bool:
    """Whether this is a parquet file, or a folder with parquet files as on the Hub."""
    if path.is_dir():
        return bool(_tables(path))
    return path.suffix == ".parquet" and path.is_file()


def read(path: Path) -> Stored:
    """Reads the columns image, label and, if there is one, soft_label of the train split.

    Raises:
      UserError: if a file is damaged, lacks the columns, or has them in other types; names the
        file, and the row where one is at fault.
    """
    shards = [path] if path.is_file() else _tables(path)
    if (first := _read_floats(shards[0])) is not None:
        return parquet_floats.joined(shards, [first, *map(_read_floats, shards[1:])])
    read_shards = [_read_shard(shard) for shard in shards]
    images = [image for shard in read_shards for image in shard.images]
    if not images:
        raise UserError(f"{shards[0]} has no rows.")
    read_shards = [shard for shard in read_shards if shard.images]
    _check_alike(read_shards)
    where = [f"{shard.path}, row {i}" for shard in read_shards for i in range(len(shard.images))]
    soft = [shard.soft_labels for shard in read_shards if shard.soft_labels is not None]
    return Stored(
        pictures.stack([image.pixels for image in images], where),
        np.concatenate([shard.labels for shard in read_shards]),
        next((shard.class_names for shard in read_shards if shard.class_names), ()),
        read_shards[0].manifest,
        np.concatenate(soft) if soft else None,
        notes=pictures.transparency_notes(*pictures.see_through(i.alpha for i in images)),
    )


def _read_floats(path: Path) -> Stored | None:
    """The set of a table of float images; None for a table of pictures, or what is no table."""
    import pyarrow.parquet as pq

    if not path.is_file():  # a pipe would never end
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            if parquet_floats.SHAPE not in metadata:
                return None
            _check_sizes(file.metadata, path.stat().st_size)
            return parquet_floats.read(path, file, *_about(metadata))
    except UserError:
        raise
    except ForeignFileError as e:
        raise UserError(f"{path} cannot be read: {e}.") from e
    except Exception as e:  # pyarrow raises many types at a damaged file
        raise UserError(_unreadable(path, e)) from e


def _unreadable(path: Path, error: Exception) -> str:
    reason = shown((str(error).strip().splitlines() or [""])[0], 200)
    return f"{path} cannot be read ({type(error).__name__}: {reason})."


class _Row(NamedTuple):
    """A picture, its label, and its logits where there are any."""

    image: pictures.Decoded
    label: int
    soft_label: list[float | None] | None


class _Shard(NamedTuple):
    """One file: pictures of its rows, int64 labels, and what its metadata tell."""

    path: Path
    images: list[pictures.Decoded]
    labels: np.ndarray
    soft_labels: np.ndarray | None
    class_names: tuple[str, ...]
    manifest: dict[str, Any]


def _read_shard(path: Path) -> _Shard:
    """Reads a file once its schema is known to fit."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} is no file; a parquet set is made of files.")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow, file.metadata.num_rows)
            _check_sizes(file.metadata, path.stat().st_size)
            class_names, manifest = _about(file.schema_arrow.metadata or {})
            rows = _read_rows(path, file)
    except UserError:
        raise
    except ForeignFileError as e:
        raise UserError(f"{path} cannot be read: {e}.") from e
    except Exception as e:  # pyarrow raises many types at a damaged file
        raise UserError(_unreadable(path, e)) from e
    labels = np.array([row.label for row in rows], np.int64)
    soft = _soft_labels(path, [row.soft_label for row in rows])
    return _Shard(path, [row.image for row in rows], labels, soft, class_names, manifest)


def _read_rows(path: Path, file: Any) -> list[_Row]:
    """Rows of a file, some at a time: a file may hold one large picture once for many rows."""
    count, names = file.metadata.num_rows, file.schema_arrow.names
    columns = ["image.bytes", "label", *(["soft_label"] if "soft_label" in names else [])]
    rows: list[_Row] = []
    if not count:
        return rows
    for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
        for row in batch.to_pylist():
            where, label = f"{path}, row {len(rows)}", row["label"]
            if label is None or not 0 <= label < 2**31:  # before the cast, which could wrap
                raise UserError(f"{where} has the label {label}; labels count from 0.")
            content = (row["image"] or {}).get("bytes")
            if content is None:
                raise UserError(f"{where} is no picture, or damaged (it is empty).")
            image = pictures.decode(content, where)
            if not rows:
                check_size("its images as pixels", count * image.pixels.nbytes)
            rows.append(_Row(image, label, row.get("soft_label")))
    if len(rows) != count:
        raise ForeignFileError(f"it has {len(rows)} rows instead of {count}")
    return rows


def _check_schema(path: Path, schema: Any, num_rows: int) -> None:
    """Raises a UserError unless the columns are there in types that can hold images and classes."""
    import pyarrow as pa

    missing = [name for name in ("image", "label") if name not in schema.names]
    if missing:
        listed = shown(", ".join(map(str, schema.names)), 400)
        raise UserError(f"{path} has the columns {listed} but no {' and '.join(missing)}.")
    if not num_rows:
        return
    twice = [name for name in _COLUMNS if schema.names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]} twice.")
    image, label = schema.field("image").type, schema.field("label").type
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    has_bytes = pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
    good = has_bytes and any(is_kind(image.field("bytes").type) for is_kind in binary)
    if not good or not pa.types.is_integer(label):
        raise UserError(
            f"{path} is not in the Hub's layout, an image column with bytes and a label "
            f"column of whole numbers (image is {str(image)[:100]}, label is {str(label)[:100]})."
        )
    if "soft_label" in schema.names:
        soft = schema.field("soft_label").type
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        numbers = any(is_kind(soft) for is_kind in lists) and pa.types.is_floating(soft.value_type)
        if not numbers:
            raise UserError(
                f"{path} has a soft_label column of {str(soft)[:100]}; it must hold lists of "
                f"floats, the logits of a row."
            )


def _check_sizes(metadata: Any, file_bytes: int) -> None:
    """Raises a ForeignFileError if the columns claim more than fits into memory."""
    whole = 0
    for group in range(metadata.num_row_groups):
        columns = metadata.row_group(group)
        for column in (columns.column(i) for i in range(columns.num_columns)):
            if column.path_in_schema.partition(".")[0] in _COLUMNS:
                whole += max(column.total_uncompressed_size, 8 * column.num_values)
    parquet_sizes.check(whole, whole, file_bytes)


def _soft_labels(path: Path, rows: list[list[float | None] | None]) -> np.ndarray | None:
    """Rows of logits, float32 [N, classes]; None where no row has any."""
    if all(row is None for row in rows):
        return None
    widths = [len(row) if row is not None and None not in row else 0 for row in rows]
    odd = next((i for i, width in enumerate(widths) if not width or width != widths[0]), None)
    if odd is not None:
        raise UserError(
            f"{path}, row {odd} has {widths[odd]} soft labels, but row 0 has {widths[0]}; every "
            f"row needs one number for each class."
        )
    return np.array(rows, np.float32)


def _check_alike(shards: Sequence[_Shard]) -> None:
    """Raises a UserError if shards disagree on the classes, or only some have soft labels."""
    first = next((shard for shard in shards if shard.class_names), shards[0])
    for shard in shards:
        if shard.class_names and shard.class_names != first.class_names:
            raise UserError(f"{shard.path} has other class names than {first.path}.")
        if (shard.soft_labels is None) != (shards[0].soft_labels is None):
            raise UserError(
                f"Of {shards[0].path} and {shard.path}, only one has the column soft_label."
            )
        mine, theirs = shard.soft_labels, shards[0].soft_labels
        if mine is not None and theirs is not None and mine.shape[1] != theirs.shape[1]:
            raise UserError(f"{shard.path} has another number of soft labels a row.")


def write(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes `data/train-00000-of-00001.parquet`, a card and its picture into an empty folder."""
    del quality  # lossless
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_float = content.preprocessing is not None
    rows = [] if is_float else _pictures(content)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = parquet_floats.columns(content) if is_float else {"image": pa.array(rows, kind)}
    columns = dict(images)
    columns["label"] = pa.array(content.labels, pa.int64())
    if content.soft_labels is not None:
        columns["soft_label"] = pa.array(list(content.soft_labels), pa.list_(pa.float32()))
    features = _features(content)
    metadata = {
        b"huggingface": json.dumps({"info": {"features": features}}),
        _OURS: json.dumps(content.manifest, ensure_ascii=False),
        **(parquet_floats.metadata(content) if is_float else {}),
    }
    sink = pa.BufferOutputStream()
    made = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(made, sink, write_page_checksum=True)
    table = sink.getvalue().to_pybytes()
    (folder / _TABLE).parent.mkdir()
    files.write_bytes(folder / _TABLE, table)
    if is_float:
        parquet_floats.write_whitening(folder, content)
    size = content.images.nbytes if is_float else sum(len(row["bytes"]) for row in rows)
    files.write_bytes(folder / card.SHEET, card.sheet(content))
    files.write_bytes(folder / "README.md", card.card(content, size, len(table)).encode())
    write_sidecar(folder, content)


def _pictures(content: DistilledSet) -> list[dict[str, Any]]:
    """Rows of the column of images, as PNG."""
    return [
        {"bytes": pictures.encode(image), "path": f"{i // content.ipc:05}_{i % content.ipc:05}.png"}
        for i, image in enumerate(content.images)
    ]


def _tables(path: Path) -> list[Path]:
    """Parquet files of a folder or its data/; only those of the train split, if there are any."""
    found = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
    return [p for p in found if p.name.startswith("train")] or found


def _features(content: DistilledSet) -> dict[str, Any]:
    """Description of the columns in the words of `datasets`."""
    number = {"dtype": "float32", "_type": "Value"}
    floats = {"feature": number, "_type": "Sequence"}
    features: dict[str, Any] = {
        "image": {"_type": "Image"} if content.preprocessing is None else floats,
        "label": {"names": list(content.class_names), "_type": "ClassLabel"},
    }
    if content.soft_labels is not None:
        features["soft_label"] = floats
    if content.learned_labels is not None:
        features["learned_label"] = floats
    return features


def _about(metadata: dict[bytes, bytes]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Class names and manifest from a schema's metadata; empty if they are not there.

    Raises:
      ForeignFileError: if they are there and no JSON, or of other types.
    """
    value = parse_json(metadata.get(b"huggingface", b"{}"))
    for name in ("info", "features", "label"):
        value = value.get(name, {}) if isinstance(value, dict) else None
    names = value.get("names") or () if isinstance(value, dict) else None
    if names is None:
        raise ForeignFileError("its metadata do not describe features as `datasets` does")
    return as_names(names), as_manifest(parse_json(metadata.get(_OURS, b"{}")))
