"""The distilled set, and its own layout: numbered folders of pictures and a manifest."""

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from delt_jax.errors import UserError
from delt_jax.store import files, pictures


@dataclass(frozen=True)
class DistilledSet:
    """Synthetic images, class-major and ordered by rank within a class.

    Attributes:
      images: uint8 [classes * ipc, H, W, C].
      labels: int32 [classes * ipc].
      class_names: in label order.
      manifest: how the set was made; empty if that is unknown.
      soft_labels: the teacher's logits, float32 [classes * ipc, classes], or None.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    manifest: dict[str, Any]
    soft_labels: np.ndarray | None = None

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.images) // len(self.class_names)

    def per_class(self, k: int) -> "DistilledSet":
        """The smaller set of the first k images of every class.

        EarlyLate optimises the first images longest, so they are a valid set. Its manifest has
        the larger set's `ipc` as `first_of`, and no hash, because this set is not on disk.

        Raises:
          UserError: if a class has fewer images.
        """
        if not 1 <= k <= self.ipc:
            raise UserError(
                f"per_class must be from 1 to {self.ipc}, the images that each class has, not {k}."
            )
        if k == self.ipc:
            return self
        first = np.arange(len(self.images)) % self.ipc < k
        manifest = {name: v for name, v in self.manifest.items() if name != "hash"}
        return replace(
            self,
            images=self.images[first],
            labels=self.labels[first],
            manifest=manifest | {"ipc": k, "first_of": self.ipc},
            soft_labels=None if self.soft_labels is None else self.soft_labels[first],
        )


# Suffix and JPEG quality of each kind of storage; quality 0 is lossless PNG.
_STORAGES: dict[str, tuple[str, int]] = {
    "png": (".png", 0),
    "jpeg75": (".jpg", 75),  # as the released code stores
}


def _path(folder: Path, index: int, ipc: int, storage: str) -> Path:
    suffix = _STORAGES[storage][0]
    return folder / "images" / f"{index // ipc:05}" / f"{index % ipc:05}{suffix}"


def write_images(folder: Path, images: np.ndarray, ipc: int, storage: str = "png") -> str:
    """Writes uint8 [classes * ipc, S, S, C] as ``images/CCCCC/RRRRR.png`` (class / rank).

    Args:
      folder: of the set.
      images: class by class.
      ipc: images per class.
      storage: "png", or "jpeg75" for .jpg of quality 75.

    Returns:
      Hash of the files, for the manifest.
    """
    contents = []
    for i, image in enumerate(images):
        path = _path(folder, i, ipc, storage)
        path.parent.mkdir(parents=True, exist_ok=True)
        contents.append(pictures.encode(image, _STORAGES[storage][1]))
        path.write_bytes(contents[-1])
    return files.content_hash(*contents)


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder has as many images as its manifest says."""
    expected = len(manifest["class_names"]) * manifest["ipc"]
    suffix = _STORAGES[manifest["storage"]][0]
    return sum(1 for _ in (folder / "images").glob(f"*/*{suffix}")) == expected


def is_set(folder: Path) -> bool:
    """Whether this is the folder of a distilled set, complete or not."""
    return (folder / "manifest.json").is_file() and (folder / "images").is_dir()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a distilled set.

    Raises:
      UserError: if it is missing, or is not a distilled set's.
    """
    manifest = files.read_json(folder / "manifest.json")
    wanted = {"class_names": list, "ipc": int, "storage": str, "hash": str}
    whole = isinstance(manifest, dict) and all(
        isinstance(manifest.get(name), kind) for name, kind in wanted.items()
    )
    whole = whole and manifest["class_names"] and manifest["ipc"] > 0
    if not whole or manifest["storage"] not in _STORAGES:
        raise UserError(f"{folder}/manifest.json is not a distilled set's; check the path.")
    return manifest


def read(folder: Path) -> DistilledSet:
    """Reads a distilled set and checks it against its manifest.

    Raises:
      UserError: if an image is missing or the images are not those of the manifest.
    """
    manifest = read_manifest(folder)
    class_names, ipc = tuple(manifest["class_names"]), manifest["ipc"]
    images, contents = [], []
    for i in range(len(class_names) * ipc):
        image, content = _read_image(_path(folder, i, ipc, manifest["storage"]))
        images.append(image)
        contents.append(content)
    if files.content_hash(*contents) != manifest["hash"]:
        raise UserError(
            f"The images in {folder} are not those its manifest describes; run the recover "
            f"stage again."
        )
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), ipc)
    return DistilledSet(np.stack(images), labels, class_names, manifest)


def read_images(folder: Path, indices: Iterable[int]) -> np.ndarray:
    """Reads the images at `indices` without checking the hash; uint8 [n, S, S, C].

    Raises:
      UserError: if one is missing or damaged.
    """
    manifest = read_manifest(folder)
    paths = (_path(folder, int(i), manifest["ipc"], manifest["storage"]) for i in indices)
    return np.stack([_read_image(path)[0] for path in paths])


def _read_image(path: Path) -> tuple[np.ndarray, bytes]:
    """Pixels uint8 [H, W, C], and the file's content."""
    try:
        content = path.read_bytes()
        image = np.asarray(Image.open(io.BytesIO(content)), np.uint8)
    except OSError as e:
        raise UserError(f"{path} is missing or damaged; run the recover stage again.") from e
    return image.reshape(*image.shape[:2], -1), content
