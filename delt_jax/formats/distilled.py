"""The distilled set, and its own layout: numbered folders of pictures and a manifest."""

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.store import artefact, files, pictures
from delt_jax.store.schema import mismatch

MANIFEST = "manifest.json"


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
      UserError: if it is not a distilled set's.
      DamagedArtefact: if it is missing, or was changed since it was written.
    """
    path = folder / MANIFEST
    try:
        manifest = artefact.read_unchecked(path, "recover")
    except FileNotFoundError as e:
        raise DamagedArtefact(path, f"{path} is missing", "recover") from e
    wanted = {"class_names": [str], "ipc": int, "storage": str, "hash": str}
    whole = not mismatch(manifest, wanted) and manifest["class_names"] and manifest["ipc"] > 0
    if not whole or manifest["storage"] not in _STORAGES:
        raise UserError(f"{folder}/manifest.json is not a distilled set's; check the path.")
    artefact.check_seal(path, manifest, "recover")
    return manifest


def read(folder: Path) -> DistilledSet:
    """Reads a distilled set and checks it against its manifest.

    Raises:
      UserError: if this is no distilled set.
      DamagedArtefact: if an image is missing or is not that of the manifest.
    """
    manifest = read_manifest(folder)
    class_names, ipc = tuple(manifest["class_names"]), manifest["ipc"]
    num_images = len(class_names) * ipc
    contents = [_content(folder, i, manifest) for i in range(num_images)]
    if files.content_hash(*contents) != manifest["hash"]:
        fault = f"The images in {folder} are not those its manifest describes"
        raise DamagedArtefact(folder / "images", fault, "recover")
    images = _decoded(contents, [path_of(folder, i, manifest) for i in range(num_images)])
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), ipc)
    return DistilledSet(images, labels, class_names, artefact.unsealed(manifest))


def read_images(folder: Path, indices: Iterable[int]) -> np.ndarray:
    """Reads the images at `indices` without checking the others; uint8 [n, S, S, C].

    Raises:
      DamagedArtefact: if one is missing or damaged.
    """
    manifest, chosen = read_manifest(folder), [int(i) for i in indices]
    contents = [_content(folder, i, manifest) for i in chosen]
    return _decoded(contents, [path_of(folder, i, manifest) for i in chosen])


def read_intact(
    folder: Path, manifest: dict[str, Any], indices: Sequence[int]
) -> np.ndarray | None:
    """The images at `indices`, uint8 [n, S, S, C], if each is there as it was recovered.

    None if one is damaged, if nothing is known about that, or if storing them lost something.
    """
    paths = [path_of(folder, i, manifest) for i in indices]
    names = [path.relative_to(folder).as_posix() for path in paths]
    lossless = _STORAGES.get(manifest["storage"], ("", 1))[1] == 0
    if not lossless or not all(artefact.is_intact(folder, name, manifest) for name in names):
        return None
    return _decoded([_content(folder, i, manifest) for i in indices], paths)


def path_of(folder: Path, index: int, manifest: dict[str, Any]) -> Path:
    """File of an image of a set."""
    return _path(folder, index, manifest["ipc"], manifest["storage"])


def _content(folder: Path, index: int, manifest: dict[str, Any]) -> bytes:
    """Content of an image's file, which is the one that the manifest lists."""
    path = path_of(folder, index, manifest)
    artefact.check_file(folder, path.relative_to(folder).as_posix(), manifest, "recover")
    try:
        return path.read_bytes()
    except OSError as e:
        raise DamagedArtefact(path, f"{path} is missing or damaged", "recover") from e


def _decoded(contents: Sequence[bytes], paths: Sequence[Path]) -> np.ndarray:
    """Pixels uint8 [n, H, W, C] of pictures that have one size."""
    images: list[np.ndarray] = []
    for content, path in zip(contents, paths, strict=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                picture = Image.open(io.BytesIO(content))
                if images and picture.size[::-1] != images[0].shape[:2]:
                    raise ValueError("its size is not that of the others")
                image = np.asarray(picture, np.uint8)
            image = image.reshape(*image.shape[:2], -1)
            if images and image.shape != images[0].shape:
                raise ValueError("its channels are not those of the others")
        except MemoryError:
            raise
        except Exception as e:  # Pillow's readers raise many types
            raise DamagedArtefact(path, f"{path} is missing or damaged", "recover") from e
        images.append(image)
    return np.stack(images)
