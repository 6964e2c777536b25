"""One `.npz` file: images, labels, class names, manifest, soft labels."""

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, channels_last
from delt_jax.store import files


def detect(path: Path) -> bool:
    """Whether this is a file whose name ends in .npz."""
    return path.is_file() and path.suffix == ".npz"


def read(path: Path) -> Stored:
    """Reads `images` and `labels`, and class names, manifest and soft labels if they are there.

    Raises:
      UserError: if the file is damaged or has no images or labels.
    """
    arrays = read_arrays(path)
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise UserError(
            f"{path} has the arrays {', '.join(arrays) or 'none'} but no {' and '.join(missing)}."
        )
    try:
        manifest = dict(json.loads(str(arrays.get("manifest", "{}"))))
    except (ValueError, TypeError) as e:
        raise UserError(f"The manifest in {path} is not JSON ({e}); export again.") from e
    return Stored(
        channels_last(arrays["images"], False, str(path)),
        arrays["labels"],
        tuple(str(name) for name in arrays.get("class_names", ())),
        manifest,
        arrays.get("soft_labels"),
    )


def write(path: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes images uint8 NHWC, labels int64, class_names, manifest (JSON), soft_labels."""
    del quality  # lossless
    soft = {} if content.soft_labels is None else {"soft_labels": content.soft_labels}
    files.write_npz(
        path,
        images=content.images,
        labels=content.labels.astype(np.int64),
        class_names=np.array(content.class_names),
        manifest=np.array(json.dumps(content.manifest, ensure_ascii=False)),
        **soft,
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`; pickled ones are refused.

    Raises:
      UserError: if the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(
            f"{path} cannot be read ({type(e).__name__}: {e}); it is damaged or no .npz of plain "
            f"arrays."
        ) from e
