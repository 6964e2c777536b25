"""Sets of float images as parquet: rows of float32, and the whitening in a file beside them."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats import learned_arrays
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.npz import read_arrays
from delt_jax.formats.stored import Stored, floats_of
from delt_jax.store import files
from delt_jax.store.foreign import ForeignFileError, check_size, parse_json

SHAPE = b"delt_jax_shape"  # key of [H, W, C] in the schema's metadata
_WHITENING = "whitening.npz"


def columns(content: DistilledSet) -> dict[str, Any]:
    """Columns of images, float32 in the order [H, W, C], and of learned labels."""
    import pyarrow as pa

    rows = content.images.reshape(len(content.images), -1)
    made = {"image": pa.array(list(rows), pa.list_(pa.float32()))}
    if content.learned_labels is not None:
        made["learned_label"] = pa.array(list(content.learned_labels), pa.list_(pa.float32()))
    return made


def metadata(content: DistilledSet) -> dict[bytes, str]:
    """What the schema says beside what it says of pictures."""
    return {SHAPE: json.dumps(content.images.shape[1:])}


def write_whitening(folder: Path, content: DistilledSet) -> None:
    """Writes the file of matrix and centre beside the table's folder, if there are any."""
    floats = floats_of(content)
    assert floats is not None
    whitening = {
        name: array
        for name, array in learned_arrays.by_name(floats).items()
        if name in ("matrix", "centre")
    }
    if whitening:
        files.write_npz_fast(folder / _WHITENING, **whitening)


def read(path: Path, table: Any, class_names: tuple[str, ...], manifest: dict[str, Any]) -> Stored:
    """Reads the one table of such a set.

    Args:
      path: of the file.
      table: an open `pyarrow.parquet.ParquetFile`, whose claims of size were checked.
      class_names, manifest: from the schema's metadata.

    Raises:
      ForeignFileError: if it is none.
      UserError: if the file of the whitening is missing or damaged.
    """
    shape = parse_json(table.schema_arrow.metadata[SHAPE])
    is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not is_shape or len(shape) != 3:
        raise ForeignFileError("its metadata name no shape of images")
    count, names = table.metadata.num_rows, table.schema_arrow.names
    check_size("its images as floats", 4 * count * math.prod(shape))
    arrays = {"images": _rows(table, "image", math.prod(shape)).reshape(count, *shape)}
    if "learned_label" in names:
        arrays["learned_labels"] = _rows(table, "learned_label", len(class_names))
    labels = table.read(["label"])["label"].to_numpy()
    soft = _rows(table, "soft_label", len(class_names)) if "soft_label" in names else None
    arrays |= _whitening(path, manifest)
    floats = learned_arrays.parsed(arrays, manifest)
    return Stored(floats.images, labels, class_names, manifest, soft, floats=floats)


def joined(paths: Sequence[Path], shards: Sequence[Stored | None]) -> Stored:
    """One set of the tables of all its files, in their order.

    Args:
      paths: of the files.
      shards: what `read` gave of each; None where a file holds no float images.

    Raises:
      UserError: naming two files that are not of one set.
    """
    sets = [shard for shard in shards if shard is not None and shard.floats is not None]
    about = [_about(shard) for shard in sets]
    odd = next((i for i, said in enumerate(about) if said != about[0]), None)
    if len(sets) < len(shards):
        odd = shards.index(None)
    if odd is not None:
        raise UserError(
            f"{paths[odd]} is not of the set of float images in {paths[0]}: its kind of columns, "
            f"shape, classes or record differ; keep the files of one set in a folder of their own."
        )
    if len(sets) == 1:
        return sets[0]
    learned = [shard.floats for shard in sets if shard.floats is not None]
    rows = [floats.labels for floats in learned if floats.labels is not None]
    soft = [shard.soft_labels for shard in sets if shard.soft_labels is not None]
    floats = learned[0]._replace(
        images=np.concatenate([floats.images for floats in learned]),
        labels=np.concatenate(rows) if rows else None,
    )
    return replace(
        sets[0],
        images=floats.images,
        labels=np.concatenate([shard.labels for shard in sets]),
        soft_labels=np.concatenate(soft) if soft else None,
        floats=floats,
    )


def _about(shard: Stored) -> tuple[Any, ...]:
    """What the files of one set have in common; the record names the space and learned labels."""
    has_soft = shard.soft_labels is not None
    return shard.images.shape[1:], shard.class_names, shard.manifest, has_soft


def _rows(table: Any, name: str, width: int) -> np.ndarray:
    """A column of lists of as many floats, float32 [rows, width], bit for bit."""
    import pyarrow as pa

    column = table.read([name])[name]
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or kind.value_type != pa.float32():
        raise ForeignFileError(f"its column {name} is {kind} instead of lists of float32")
    lists = column.combine_chunks()
    values = lists.flatten()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if lists.null_count or values.null_count or (lengths != width).any():
        raise ForeignFileError(f"its column {name} has rows without {width} values")
    return values.to_numpy().reshape(len(lists), width)


def _whitening(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Matrix and centre, where the manifest says that images are whitened."""
    said = manifest.get("preprocessing")
    if not isinstance(said, dict) or "sha256" not in said:
        return {}
    places = [folder / _WHITENING for folder in (path.parent, path.parent.parent)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{path} holds whitened images, but there is no {_WHITENING} beside it, which says how "
            f"test images are whitened; take the whole export."
        )
    return read_arrays(found, ("matrix", "centre"))
