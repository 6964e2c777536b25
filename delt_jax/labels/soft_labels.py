"""The folder of soft labels: `logits.npz` has the teachers' logits of each plain image.

Labels of augmented views, where there are any, are a file beside it: `delt_jax.labels.label_store`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.store import files

FOLDER = "soft_labels"  # in a work directory


def write(folder: Path, logits: np.ndarray, manifest: dict[str, Any]) -> None:
    """Writes logits float32 [N, classes], in the set's order, and the manifest.

    The manifest's hash covers all labels, also those of views that its entry "stored" describes.
    """
    files.write_npz(folder / "logits.npz", logits=logits)
    size = (folder / "logits.npz").stat().st_size
    files.write_json(
        folder / "manifest.json",
        {
            **manifest,
            "hash": _hash(logits, manifest),
            "bytes": size,
        },
    )


def read(folder: Path, distilled_hash: str) -> np.ndarray:
    """Reads the logits of a distilled set.

    Args:
      folder: folder of the soft labels.
      distilled_hash: hash of the set whose labels they should be.

    Returns:
      float32 [N, classes].

    Raises:
      UserError: if they are missing, damaged or of another set.
    """
    manifest = files.read_json(folder / "manifest.json")
    if manifest["distilled"] != distilled_hash:
        raise UserError(
            f"The soft labels in {folder} belong to another distilled set; run the relabel stage."
        )
    logits = files.read_npz(folder / "logits.npz", "relabel").get("logits")
    if logits is None or _hash(logits, manifest) != manifest["hash"]:
        raise UserError(
            f"{folder}/logits.npz is damaged; delete the folder and run the relabel stage again."
        )
    return logits


def _hash(logits: np.ndarray, manifest: dict[str, Any]) -> str:
    stored = manifest.get("stored") or {}
    return files.content_hash(logits.tobytes(), *(d.encode() for d in stored.get("sha256", ())))
