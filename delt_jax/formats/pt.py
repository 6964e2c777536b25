"""Torch's `.pt`: our dictionary, or the two tensors that MTT and its successors publish.

Reading needs no torch and runs nothing that a pickle names; writing needs the `torch` extra.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, channels_last
from delt_jax.store import files

_MTT_IMAGES, _MTT_LABELS = "images_best.pt", "labels_best.pt"


def detect(path: Path) -> bool:
    """Whether this is a .pt or .pth file, or a folder with MTT's two files."""
    return (path.is_file() and path.suffix in (".pt", ".pth")) or (path / _MTT_IMAGES).is_file()


def read(path: Path) -> Stored:
    """Reads a dictionary with images and labels, or `images_best.pt` and `labels_best.pt`.

    Labels that are rows of floats are logits, as DATM learns them; they become the soft labels.

    Raises:
      UserError: if a file is damaged, holds anything but tensors, or no images and labels.
    """
    path = path / _MTT_IMAGES if path.is_dir() else path
    content = _load(path)
    if path.name == _MTT_IMAGES:
        content = {"images": content, "labels": _load(path.with_name(_MTT_LABELS))}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary of images and labels; see docs/formats.md.")
    wanted = ("images", "labels")
    missing = [name for name in wanted if not isinstance(content.get(name), np.ndarray)]
    if missing:
        raise UserError(
            f"{path} holds {', '.join(map(str, content)) or 'nothing'}, but no tensor called "
            f"{' or '.join(missing)}."
        )
    labels, soft = content["labels"], content.get("soft_labels")
    if labels.ndim == 2 and labels.dtype.kind == "f":
        labels, soft = labels.argmax(1), labels
    try:
        names = tuple(map(str, content.get("class_names", ())))
        manifest = dict(json.loads(content.get("manifest", "{}")))
    except (ValueError, TypeError) as e:
        raise UserError(f"The class_names or manifest in {path} cannot be read ({e}).") from e
    return Stored(channels_last(content["images"], True, str(path)), labels, names, manifest, soft)


def write(path: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes images uint8 NCHW, labels int64, class_names, manifest (JSON), soft_labels.

    `torch.load(path, weights_only=True)` gives the dictionary.

    Raises:
      UserError: if torch is not installed.
    """
    del quality  # lossless
    try:
        import torch
    except ImportError as e:
        raise UserError(
            "--to=pt needs PyTorch to write the file: pip install 'delt_jax[torch]'."
        ) from e
    values: dict[str, Any] = {
        "images": torch.from_numpy(np.moveaxis(content.images, 3, 1).copy()),
        "labels": torch.from_numpy(content.labels.astype(np.int64)),
        "class_names": list(content.class_names),
        "manifest": json.dumps(content.manifest, ensure_ascii=False),
    }
    if content.soft_labels is not None:
        values["soft_labels"] = torch.from_numpy(content.soft_labels)
    buffer = io.BytesIO()
    torch.save(values, buffer)
    files.write_bytes(path, buffer.getvalue())


def _load(path: Path) -> Any:
    """Reads a file, with arrays in place of tensors."""
    from delt_jax.models import torch_files  # imports JAX

    if not path.is_file():
        raise UserError(f"There is no file {path}; images and labels lie beside each other.")
    try:
        return torch_files.read_pth(path)
    except UserError:
        raise
    except Exception as e:  # a damaged file can fail anywhere in its reader
        raise UserError(
            f"{path} cannot be read ({type(e).__name__}: {e}); it is damaged, so make or download "
            f"it again."
        ) from e
