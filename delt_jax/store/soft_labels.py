"""Stored soft labels: the teacher's logits for each image of a distilled set."""

from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.store import files

FOLDER = "soft_labels"  # of a work directory, beside the set's


def write(folder: Path, logits: np.ndarray, manifest: dict[str, Any]) -> None:
    """Writes logits float32 [images, classes], in the set's order, and the manifest."""
    files.write_npz(folder / "logits.npz", logits=logits)
    size = (folder / "logits.npz").stat().st_size
    files.write_json(
        folder / "manifest.json",
        {
            **manifest,
            "hash": files.content_hash(logits.tobytes()),
            "bytes": size,
        },
    )


def read(folder: Path, distilled_hash: str) -> np.ndarray:
    """Reads the logits of a distilled set.

    Args:
      folder: of the soft labels.
      distilled_hash: of the set they are to be used with.

    Returns:
      float32 [images, classes].

    Raises:
      UserError: if they are missing, damaged or of another set.
    """
    manifest = files.read_json(folder / "manifest.json")
    if manifest["distilled"] != distilled_hash:
        raise UserError(
            f"The soft labels in {folder} belong to another distilled set; run the relabel stage."
        )
    logits = files.read_npz(folder / "logits.npz", "relabel").get("logits")
    if logits is None or files.content_hash(logits.tobytes()) != manifest["hash"]:
        raise UserError(f"{folder}/logits.npz is damaged; run the relabel stage again.")
    return logits
