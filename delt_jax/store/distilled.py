"""The distilled set on disk: numbered PNG folders and a manifest that explains them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from delt_jax.errors import UserError
from delt_jax.store import files


@dataclass(frozen=True)
class DistilledSet:
    """Synthetic images, class-major and ordered by rank within a class.

    Attributes:
      images: uint8 [classes * ipc, S, S, C].
      labels: int32 [classes * ipc].
      class_names: in label order.
      manifest: how the set was made.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    manifest: dict[str, Any]


# Suffix and Pillow's options of each way to store.
_STORAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "png": (".png", {}),
    "jpeg75": (".jpg", {"quality": 75}),  # as the released code: 4:2:0 chroma, lossy
}


def _path(folder: Path, index: int, ipc: int, storage: str) -> Path:
    suffix = _STORAGES[storage][0]
    return folder / "images" / f"{index // ipc:05}" / f"{index % ipc:05}{suffix}"


def write_images(folder: Path, images: np.ndarray, ipc: int, storage: str = "png") -> str:
    """Writes uint8 [classes * ipc, S, S, C] as ``images/CCCCC/RRRRR.png`` (class / rank).

    Args:
      folder: of the set.
      images: class-major.
      ipc: images per class.
      storage: "png", or "jpeg75" for .jpg of quality 75.

    Returns:
      The hash of the files, for the manifest.
    """
    contents = []
    for i, image in enumerate(images):
        path = _path(folder, i, ipc, storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.save(path, **_STORAGES[storage][1])
        contents.append(path.read_bytes())
    return files.content_hash(*contents)


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every image that the manifest promises is there."""
    expected = len(manifest["class_names"]) * manifest["ipc"]
    suffix = _STORAGES[manifest["storage"]][0]
    return sum(1 for _ in (folder / "images").glob(f"*/*{suffix}")) == expected


def read(folder: Path) -> DistilledSet:
    """Reads a distilled set and checks it against its manifest.

    Raises:
      UserError: if an image is missing or the images are not those of the manifest.
    """
    manifest = files.read_json(folder / "manifest.json")
    class_names, ipc = tuple(manifest["class_names"]), manifest["ipc"]
    images, contents = [], []
    for i in range(len(class_names) * ipc):
        path = _path(folder, i, ipc, manifest["storage"])
        try:
            contents.append(path.read_bytes())
            image = np.asarray(Image.open(io.BytesIO(contents[-1])), np.uint8)
        except OSError as e:
            raise UserError(f"{path} is missing or damaged; run the recover stage again.") from e
        images.append(image.reshape(*image.shape[:2], -1))
    if files.content_hash(*contents) != manifest["hash"]:
        raise UserError(
            f"The images in {folder} are not those its manifest describes; run the recover "
            f"stage again."
        )
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), ipc)
    return DistilledSet(np.stack(images), labels, class_names, manifest)
