"""The distilled set on disk: numbered PNG folders and a manifest that explains them."""

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


def images_hash(images: np.ndarray) -> str:
    """Content hash of images, as recorded in manifests."""
    return files.content_hash(str(images.shape).encode(), images.tobytes())


def write_images(folder: Path, images: np.ndarray, ipc: int) -> None:
    """Writes uint8 [classes * ipc, S, S, C] as ``images/CCCCC/RRRRR.png`` (class / rank)."""
    for i, image in enumerate(images):
        path = folder / "images" / f"{i // ipc:05}" / f"{i % ipc:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether every image that the manifest promises is there."""
    expected = len(manifest["class_names"]) * manifest["ipc"]
    return sum(1 for _ in (folder / "images").glob("*/*.png")) == expected


def read(folder: Path) -> DistilledSet:
    """Reads a distilled set and checks it against its manifest.

    Raises:
      UserError: if an image is missing or the images are not those of the manifest.
    """
    manifest = files.read_json(folder / "manifest.json")
    class_names, ipc = tuple(manifest["class_names"]), manifest["ipc"]
    images = []
    for i in range(len(class_names) * ipc):
        path = folder / "images" / f"{i // ipc:05}" / f"{i % ipc:05}.png"
        try:
            image = np.asarray(Image.open(path), np.uint8)
        except OSError as e:
            raise UserError(f"{path} is missing or damaged; run the recover stage again.") from e
        images.append(image.reshape(*image.shape[:2], -1))
    same_shape = len({image.shape for image in images}) == 1
    stacked = np.stack(images) if same_shape else np.zeros(0, np.uint8)
    if images_hash(stacked) != manifest["hash"]:
        raise UserError(
            f"The images in {folder} are not those its manifest describes; run the recover "
            f"stage again."
        )
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), ipc)
    return DistilledSet(stacked, labels, class_names, manifest)
