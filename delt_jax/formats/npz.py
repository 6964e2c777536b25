"""One `.npz` file: images, labels, class names, manifest, soft labels."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats import learned_arrays
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, as_manifest, as_names, channels_last, floats_of
from delt_jax.store import files, npz
from delt_jax.store.foreign import ForeignFileError, parse_json, shown

_ARRAYS = ("images", "labels", "class_names", "manifest", "soft_labels")
_OF_FLOATS = ("learned_labels", "matrix", "centre")


def detect(path: Path) -> bool:
    """Whether this is a file whose name ends in .npz."""
    return path.is_file() and path.suffix == ".npz"


def read(path: Path) -> Stored:
    """Reads `images` and `labels`, and class names, manifest and soft labels if they are there.

    Raises:
      UserError: if the file is damaged or has no images or labels.
    """
    arrays = read_arrays(path, (*_ARRAYS, *_OF_FLOATS))
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        found = shown(", ".join(names_of(path)), 400)
        raise UserError(f"{path} has the arrays {found or 'none'} but no {' and '.join(missing)}.")
    try:
        manifest = as_manifest(parse_json(str(arrays.get("manifest", "{}"))))
    except ForeignFileError as e:
        raise UserError(f"The manifest in {path} is not JSON ({e}); export again.") from e
    try:
        names = as_names(arrays.get("class_names", np.zeros(0, str)).tolist())
    except ForeignFileError as e:
        raise UserError(f"The class_names in {path} cannot be read: {e}; export again.") from e
    floats = None
    if learned_arrays.is_described(manifest, arrays["images"]):
        try:
            floats = learned_arrays.parsed(arrays, manifest)
        except ForeignFileError as e:
            raise UserError(f"{path} is damaged: {e}; export again.") from e
    return Stored(
        channels_last(arrays["images"], False, str(path)),
        arrays["labels"],
        names,
        manifest,
        arrays.get("soft_labels"),
        floats=floats,
        learned_labels=arrays.get("learned_labels"),
    )


def write(path: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes images NHWC, labels int64, class_names, manifest (JSON), soft_labels.

    Images are uint8; or float32, and then with learned_labels, and matrix and centre of whitening.
    """
    del quality  # lossless
    more = {} if content.soft_labels is None else {"soft_labels": content.soft_labels}
    floats = floats_of(content)
    more |= {} if floats is None else learned_arrays.by_name(floats)
    more.setdefault("images", content.images)
    files.write_npz(
        path,
        labels=content.labels.astype(np.int64),
        class_names=np.array(content.class_names),
        manifest=np.array(json.dumps(content.manifest, ensure_ascii=False)),
        **more,
    )


def is_ours(path: Path) -> bool:
    """Whether `write` made this file, by the names of its arrays and its record."""
    try:
        found = set(npz.names(path)) - {"soft_labels", *_OF_FLOATS}
        if found != set(_ARRAYS) - {"soft_labels"}:
            return False
        record = npz.read(path, ("manifest",))["manifest"]
        return record.shape == () and isinstance(parse_json(str(record)), dict)
    except (OSError, ForeignFileError):
        return False


def names_of(path: Path) -> tuple[str, ...]:
    """Names of the arrays of an `.npz`.

    Raises:
      UserError: if the file is damaged.
    """
    try:
        return npz.names(path)
    except (OSError, ForeignFileError) as e:
        raise _damaged(path, e) from e


def read_arrays(path: Path, wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an `.npz`, or only those that are wanted; pickled ones are refused.

    Raises:
      UserError: if the file is damaged.
    """
    try:
        return npz.read(path, wanted)
    except (OSError, ForeignFileError) as e:
        raise _damaged(path, e) from e


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({error}); it is damaged or no .npz of plain arrays.")
