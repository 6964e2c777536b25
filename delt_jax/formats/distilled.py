"""The distilled set, and its own layout: a manifest beside numbered folders of pictures, or beside
one file of floats where images were learned in a space of their own.
"""

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from delt_jax.core.preprocessing import Preprocessing
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.formats import learned_arrays
from delt_jax.formats.decoding import Decoding
from delt_jax.formats.learned_arrays import LearnedArrays
from delt_jax.store import artefact, files, pictures
from delt_jax.store.foreign import ForeignFileError
from delt_jax.store.schema import mismatch

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DistilledSet:
    """Synthetic images, class-major and ordered by rank within a class.

    Attributes:
      images: uint8 [classes * ipc, H, W, C], or float32 where there is a preprocessing.
      labels: int32 [classes * ipc].
      class_names: in label order.
      manifest: how the set was made; empty if that is unknown.
      soft_labels: the teacher's logits, float32 [classes * ipc, classes], or None.
      preprocessing: maps pixels to the space in which these images are; None where images are
        pixels. Float images are neither clipped nor rounded; whatever meets a network that trains
        on them goes through it, test images included.
      learned_labels: float32 [classes * ipc, classes], in the form that the manifest's entry
        "learned_labels" names; None where labels are the classes.
      decoding: how a stored image becomes several to train on; None where it is one.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    manifest: dict[str, Any]
    soft_labels: np.ndarray | None = None
    preprocessing: Preprocessing | None = None
    learned_labels: np.ndarray | None = None
    decoding: Decoding | None = None

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
            learned_labels=None if self.learned_labels is None else self.learned_labels[first],
        )

    @property
    def label_form(self) -> str:
        """What learned labels are, one of `learned_arrays.FORMS`; "one_hot" without any."""
        return self.manifest.get("learned_labels", {}).get("form", "one_hot")

    @property
    def copies(self) -> int:
        """Images to train on that each stored one becomes."""
        return self.decoding.copies if self.decoding else 1

    def expand(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images to train on, [N * copies, H, W, C], and the label of each.

        Args:
          labels: [N, ...], of the stored images.
        """
        if self.decoding is None or self.preprocessing is None:
            return self.images, labels
        _, white = self.preprocessing.normalisation.bounds()
        black, _ = self.preprocessing.normalisation.bounds()
        grey = (black + white) / 2 if self.preprocessing.is_standardising else 0.0
        return self.decoding.expand(self.images, labels, grey)

    def to_look_at(self) -> "DistilledSet":
        """The set with pixels, uint8, for pictures of it and for networks that know only pixels.

        Float images go back through their preprocessing, and what is darker than black or brighter
        than white is clipped: this is no set to train on.
        """
        if self.preprocessing is None:
            return self
        pixels = np.clip(np.rint(255 * self.preprocessing.invert(self.images)), 0, 255)
        return replace(self, images=pixels.astype(np.uint8), preprocessing=None, decoding=None)

    @property
    def clipped(self) -> float:
        """Share of the values of float images that are darker than black or brighter than white."""
        if self.preprocessing is None:
            return 0.0
        levels = np.rint(255 * self.preprocessing.invert(self.images))
        return float(((levels < 0) | (levels > 255)).mean())

    def taken_apart(self) -> "DistilledSet":
        """The set of all images that students train on, as `expand` gives them, one in each place.

        Within a class, parts stay in the order of their images, and mirrored copies come last. Soft
        labels go, which are of the images as they were.

        Raises:
          UserError: if images are to be cut that are not square.
        """
        if self.decoding is None or self.preprocessing is None:
            return self
        height, width = self.images.shape[1:3]
        if self.decoding.factor > 1 and height != width:
            why = f"The images are {width}x{height} px, and only square ones are cut into parts"
            raise UserError(f"{why}; leave the factor out.")
        images, labels = self.expand(self.labels)
        order = np.argsort(labels, kind="stable")
        learned = self.learned_labels
        manifest = {k: v for k, v in self.manifest.items() if k not in ("hash", "decoding")}
        return replace(
            self,
            images=images[order],
            labels=labels[order],
            manifest=manifest | {"ipc": self.ipc * self.copies},
            soft_labels=self.soft_labels if self.copies == 1 else None,
            learned_labels=None if learned is None else self.expand(learned)[1][order],
            decoding=None,
        )

    def rounded(self) -> "DistilledSet":
        """The set with pixels in place of floats; the manifest's "clipped" is the share that was.

        Images are `taken_apart` first: pixels are used as they are. Learned labels go, which are
        of the images as they were.
        """
        if self.preprocessing is None:
            return self
        seen = self.taken_apart()
        lost = ("hash", "preprocessing", "learned_labels")
        manifest = {name: v for name, v in seen.manifest.items() if name not in lost}
        return replace(
            seen.to_look_at(),
            manifest=manifest | {"storage": "png", "clipped": seen.clipped},
            learned_labels=None,
        )


# Suffix and JPEG quality of each kind of storage; quality 0 is lossless PNG.
_STORAGES: dict[str, tuple[str, int]] = {
    "png": (".png", 0),
    "jpeg75": (".jpg", 75),  # as the released code stores
}
FLOATS = "float32"  # storage of images with a preprocessing, all in one file
_LEARNED = "learned.npz"


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


def write_learned(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray | None,
    preprocessing: Preprocessing,
    decoding: Decoding | None = None,
) -> str:
    """Writes float images, their labels, and the matrix of their space, bit for bit.

    Args:
      folder: of the set; `manifest_of_learned` has what its manifest needs to say of them.
      images: float32 [classes * ipc, S, S, C], class by class.
      labels: float32 [classes * ipc, classes] that were learned, or None.
      preprocessing: of the images.
      decoding: how one becomes several, or None.

    Returns:
      Hash of the content, for the manifest.
    """
    arrays = LearnedArrays(np.asarray(images), labels, preprocessing, decoding)
    named = learned_arrays.by_name(arrays)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_npz_fast(folder / _LEARNED, **named)
    return learned_arrays.content_hash(arrays)


def manifest_of_learned(
    preprocessing: Preprocessing, decoding: Decoding | None, form: str | None
) -> dict[str, Any]:
    """Entries of the manifest of a set that `write_learned` wrote.

    Args:
      preprocessing, decoding: as that had them.
      form: of the learned labels, one of `learned_arrays.FORMS`; None without any.
    """
    return {"storage": FLOATS, **learned_arrays.described(preprocessing, decoding, form)}


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the folder has as many images as its manifest says."""
    if manifest["storage"] == FLOATS:
        return (folder / _LEARNED).is_file()
    expected = len(manifest["class_names"]) * manifest["ipc"]
    suffix = _STORAGES[manifest["storage"]][0]
    return sum(1 for _ in (folder / "images").glob(f"*/*{suffix}")) == expected


def is_set(folder: Path) -> bool:
    """Whether this is the folder of a distilled set, complete or not."""
    has_images = (folder / "images").is_dir() or (folder / _LEARNED).is_file()
    return (folder / "manifest.json").is_file() and has_images


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
    if not whole or manifest["storage"] not in (*_STORAGES, FLOATS):
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
    if manifest["storage"] == FLOATS:
        return _read_learned(folder, manifest)
    num_images = len(class_names) * ipc
    contents = [_content(folder, i, manifest) for i in range(num_images)]
    if files.content_hash(*contents) != manifest["hash"]:
        fault = f"The images in {folder} are not those its manifest describes"
        raise DamagedArtefact(folder / "images", fault, "recover")
    images = _decoded(contents, [path_of(folder, i, manifest) for i in range(num_images)])
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), ipc)
    return DistilledSet(images, labels, class_names, artefact.unsealed(manifest))


def _read_learned(folder: Path, manifest: dict[str, Any]) -> DistilledSet:
    """Reads a set of floats."""
    path = artefact.check_file(folder, _LEARNED, manifest, "recover")
    class_names, ipc = tuple(manifest["class_names"]), manifest["ipc"]
    try:
        found = learned_arrays.parsed(files.read_npz(path, "recover"), manifest)
        if len(found.images) != len(class_names) * ipc:
            raise ForeignFileError(f"it has {len(found.images)} images")
        if found.labels is not None and found.labels.shape[1] != len(class_names):
            raise ForeignFileError(f"its labels are of {found.labels.shape[1]} classes")
        if learned_arrays.content_hash(found) != manifest["hash"]:
            raise ForeignFileError("its content is not that of the manifest")
    except ForeignFileError as e:
        raise DamagedArtefact(path, f"{path} is damaged ({e})", "recover") from e
    return DistilledSet(
        found.images,
        np.repeat(np.arange(len(class_names), dtype=np.int32), ipc),
        class_names,
        artefact.unsealed(manifest),
        preprocessing=found.preprocessing,
        learned_labels=found.labels,
        decoding=found.decoding,
    )


def read_images(folder: Path, indices: Iterable[int]) -> np.ndarray:
    """Reads the images at `indices` to look at them, without checking the others.

    Returns:
      uint8 [n, S, S, C]; of float images, what `DistilledSet.to_look_at` makes of them.

    Raises:
      DamagedArtefact: if one is missing or damaged.
    """
    manifest, chosen = read_manifest(folder), [int(i) for i in indices]
    if manifest["storage"] == FLOATS:
        found = _read_learned(folder, manifest)
        return replace(found, images=found.images[chosen]).to_look_at().images
    contents = [_content(folder, i, manifest) for i in chosen]
    return _decoded(contents, [path_of(folder, i, manifest) for i in chosen])


def read_intact(
    folder: Path, manifest: dict[str, Any], indices: Sequence[int]
) -> np.ndarray | None:
    """The images at `indices`, uint8 [n, S, S, C], if each is there as it was recovered.

    None if one is damaged, if nothing is known about that, or if storing them lost something.
    """
    if manifest["storage"] == FLOATS:
        return None
    paths = [path_of(folder, i, manifest) for i in indices]
    names = [path.relative_to(folder).as_posix() for path in paths]
    lossless = _STORAGES.get(manifest["storage"], ("", 1))[1] == 0
    if not lossless or not all(artefact.is_intact(folder, name, manifest) for name in names):
        return None
    return _decoded([_content(folder, i, manifest) for i in indices], paths)


def path_of(folder: Path, index: int, manifest: dict[str, Any]) -> Path:
    """File of an image of a set; that of all where they are floats."""
    if manifest["storage"] == FLOATS:
        return folder / _LEARNED
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
