"""The folder of soft labels: `logits.npz` has the teachers' logits of each plain image.

Labels of augmented views, where there are any, are a file beside it: `delt_jax.labels.label_store`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.store import artefact, files
from delt_jax.store.schema import mismatch

FOLDER = "soft_labels"  # in a work directory
MANIFEST, LOGITS = "manifest.json", "logits.npz"


def write(folder: Path, logits: np.ndarray, manifest: dict[str, Any]) -> None:
    """Writes logits float32 [N, classes], in the set's order, and the manifest.

    The manifest's hash covers all labels, also those of views that its entry "stored" describes.
    """
    files.write_npz(folder / LOGITS, logits=logits)
    size = (folder / LOGITS).stat().st_size
    described = {**manifest, "hash": _hash(logits, manifest), "bytes": size}
    artefact.seal(folder / MANIFEST, described)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of soft labels.

    Raises:
      DamagedArtefact: if it is missing, or was changed since it was written.
    """
    try:
        manifest = artefact.read(folder / MANIFEST, stage="relabel")
    except (FileNotFoundError, NotADirectoryError) as e:
        fault = f"{folder / MANIFEST} is missing"
        raise DamagedArtefact(folder / MANIFEST, fault, "relabel") from e
    wrong = mismatch(manifest, {"distilled": str, "hash": str})
    if wrong:
        fault = f"{folder / MANIFEST} does not describe soft labels ({wrong})"
        raise DamagedArtefact(folder / MANIFEST, fault, "relabel")
    return manifest


def read(folder: Path, distilled_hash: str) -> np.ndarray:
    """Reads the logits of a distilled set.

    Args:
      folder: folder of the soft labels.
      distilled_hash: hash of the set whose labels they should be.

    Returns:
      float32 [N, classes].

    Raises:
      UserError: if they are of another set.
      DamagedArtefact: if they are missing or damaged.
    """
    manifest = read_manifest(folder)
    if manifest["distilled"] != distilled_hash:
        raise UserError(
            f"The soft labels in {folder} belong to another distilled set; run the relabel stage."
        )
    path = artefact.check_file(folder, LOGITS, manifest, "relabel")
    logits = files.read_npz(path, "relabel").get("logits")
    if logits is None or _hash(logits, manifest) != manifest["hash"]:
        raise DamagedArtefact(path, f"{path} is damaged", "relabel")
    return logits


def _hash(logits: np.ndarray, manifest: dict[str, Any]) -> str:
    stored = manifest.get("stored") or {}
    return files.content_hash(logits.tobytes(), *(d.encode() for d in stored.get("sha256", ())))
