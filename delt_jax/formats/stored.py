"""Content of a layout as read, and the checks that turn it into a distilled set."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.errors import UserError
from delt_jax.formats import learned_arrays
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.learned_arrays import LearnedArrays
from delt_jax.store import files, foreign
from delt_jax.store.foreign import ForeignFileError, shown

SIDECAR = "delt_jax.json"
FORMAT = "delt_jax export, version 1"


@dataclass(frozen=True)
class Stored:
    """The content of a layout as read, unchecked.

    Attributes:
      images: [N, H, W, C] (or [N, H, W], grey): pixels from 0 to 255, or normalised floats.
      labels: integers [N], in any order; within a class the order means rank.
      class_names: in label order; empty if the layout has none.
      manifest: how the set was made; empty if that is unknown.
      soft_labels: logits [N, classes], if there are any.
      unnamed: why the classes cannot be told apart unless the user names them; else empty.
      floats: the images with the space that they are in, labels that came with them, and how they
        are decoded; None where they are pixels, or floats whose space only the user knows.
      learned_labels: of floats whose space only the user knows, [N, classes], if there are any.
      label_form: what these are, one of `learned_arrays.FORMS`.
      are_pixels: whether such floats are pixels in [0, 1], which are then standardised; else they
        are in the space already.
      notes: sentences on what reading has lost.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    soft_labels: np.ndarray | None = None
    unnamed: str = ""
    floats: LearnedArrays | None = None
    learned_labels: np.ndarray | None = None
    label_form: str = "logits"
    are_pixels: bool = False
    notes: tuple[str, ...] = ()


def floats_of(content: DistilledSet) -> LearnedArrays | None:
    """What is learned of a set of float images; None for one of pixels."""
    if content.preprocessing is None:
        return None
    return LearnedArrays(
        content.images, content.learned_labels, content.preprocessing, content.decoding
    )


def write_sidecar(folder: Path, content: DistilledSet) -> None:
    """Writes the file for what pictures cannot say, after all others of the folder.

    It also lists these with their sizes and checksums, and so marks them as an export's.
    """
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    about = {
        "format": FORMAT,
        "class_names": list(content.class_names),
        "manifest": content.manifest,
        "files": {path.relative_to(folder).as_posix(): file_record(path) for path in written},
    }
    files.write_json(folder / SIDECAR, about)


def file_record(path: Path) -> dict[str, Any] | None:
    """Size and SHA-256 of a file, as sidecars list them; None for what is no regular file."""
    if path.is_symlink() or not path.is_file():
        return None
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def read_sidecar(folder: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Class names and manifest from `write_sidecar`; both empty if there is no sidecar.

    Raises:
      UserError: if it is damaged.
    """
    path = folder / SIDECAR
    if not path.exists():
        return (), {}
    try:
        about = foreign.read_json(path)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ForeignFileError("it has another format")
        return as_names(about.get("class_names")), as_manifest(about.get("manifest"))
    except (OSError, ForeignFileError) as e:
        raise UserError(f"{path} is damaged ({e}); export again.") from e


def as_names(value: Any) -> tuple[str, ...]:
    """Class names of a file, a list of texts.

    Raises:
      ForeignFileError: if it is anything else, or a name is empty.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v for v in value):
        raise ForeignFileError("the class names are no list of texts")
    return tuple(value)


def as_manifest(value: Any) -> dict[str, Any]:
    """The record of how a set was made, a dictionary; raises a ForeignFileError for all else."""
    if not isinstance(value, dict):
        raise ForeignFileError(f"the manifest is a {type(value).__name__}")
    return value


def channels_last(images: np.ndarray, first: bool, where: str) -> np.ndarray:
    """Brings a stack of images to [N, H, W, C].

    Args:
      images: [N, H, W], [N, H, W, C] or [N, C, H, W].
      first: whether channels come first if both ends look like channels.
      where: names the set in the sentence.

    Raises:
      UserError: if neither end looks like channels.
    """
    if images.ndim == 3:
        return images[..., None]
    axes = (1, 3) if first else (3, 1)
    if images.ndim == 4:
        for axis in axes:
            if images.shape[axis] in (1, 3):
                return np.moveaxis(images, axis, 3)
    raise UserError(
        f"The images in {where} have the shape {images.shape}; expected images, height, width and "
        f"1 or 3 channels, first or last."
    )


def to_set(
    stored: Stored,
    where: str,
    class_names: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    preprocessing: Preprocessing | None = None,
) -> DistilledSet:
    """Checks the content of a layout and sorts it by class.

    Floats stay floats, in the space that they are in.

    Args:
      stored: the content.
      where: its path, for the sentences.
      class_names: in label order, in place of the layout's own; without either, numbers.
      mean, std: constants that normalised floats were made with, one value or one per channel.
      preprocessing: in place of these, where floats are whitened, too.

    Raises:
      UserError: if it is no set of 8-bit images or of floats in a known space, as many of every
        class.
    """
    images = _with_channels(stored.images, where)
    labels = _checked_labels(stored.labels, len(images), where)
    is_given = bool(len(mean) or len(std) or preprocessing is not None)
    if stored.floats is not None:
        if is_given:
            raise UserError(f"{where} says itself which space its images are in; give none.")
        return _float_set(stored, stored.floats, where, class_names)
    if images.dtype.kind == "f":
        space = preprocessing or _standardising(images, where, mean, std)
        floats = _in_space(replace(stored, images=images), space, where)
        form = None if floats.labels is None else stored.label_form
        said = learned_arrays.described(space, None, form)
        constants = {name: list(v) for name, v in space.normalisation.as_dict().items()}
        manifest = stored.manifest | said | {"normalisation": constants}
        return _float_set(replace(stored, manifest=manifest), floats, where, class_names)
    if is_given:
        raise UserError(f"mean and std are for normalised floats, but {where} has whole pixels.")
    if images.dtype.kind not in "iu" or images.min() < 0 or images.max() > 255:
        raise UserError(f"The pixels in {where} are {images.dtype} beyond 0 to 255.")
    names = _names(tuple(class_names) or stored.class_names, labels, where)
    _check_balance(labels, names, where)
    soft = _checked_soft_labels(stored.soft_labels, (len(images), len(names)), where)
    order = np.argsort(labels, kind="stable")
    return DistilledSet(
        images=np.ascontiguousarray(images[order], np.uint8),
        labels=labels[order].astype(np.int32),
        class_names=names,
        manifest=dict(stored.manifest),
        soft_labels=None if soft is None else soft[order],
    )


def _float_set(
    stored: Stored, floats: LearnedArrays, where: str, class_names: Sequence[str]
) -> DistilledSet:
    """A set whose images stay bit for bit, sorted by class."""
    labels = _checked_labels(stored.labels, len(floats.images), where)
    names = _names(tuple(class_names) or stored.class_names, labels, where)
    _check_balance(labels, names, where)
    soft = _checked_soft_labels(stored.soft_labels, (len(labels), len(names)), where)
    if floats.labels is not None and floats.labels.shape[1] != len(names):
        raise UserError(
            f"The learned labels in {where} are of {floats.labels.shape[1]} classes instead of "
            f"{len(names)}."
        )
    order = np.argsort(labels, kind="stable")
    return DistilledSet(
        images=np.ascontiguousarray(floats.images[order]),
        labels=labels[order].astype(np.int32),
        class_names=names,
        manifest=dict(stored.manifest),
        soft_labels=None if soft is None else soft[order],
        preprocessing=floats.preprocessing,
        learned_labels=None if floats.labels is None else floats.labels[order],
        decoding=floats.decoding,
    )


def _with_channels(images: np.ndarray, where: str) -> np.ndarray:
    """Images [N, H, W, 1 or 3]."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise UserError(f"The images in {where} have the shape {images.shape}, which is no set.")
    return images


def _checked_labels(stored: np.ndarray, num_images: int, where: str) -> np.ndarray:
    """Labels int64 [N]."""
    labels = np.asarray(stored)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{where} has {num_images} images but labels of shape {labels.shape} and type "
            f"{labels.dtype}; expected one whole number per image."
        )
    if labels.max(initial=0) > np.iinfo(np.int32).max:  # before the cast, which could wrap
        raise UserError(
            f"{where} has the label {labels.max()}, but {num_images} images; labels count from 0, "
            f"and every class has images."
        )
    return labels.astype(np.int64)


def _checked_soft_labels(
    stored: np.ndarray | None, shape: tuple[int, int], where: str
) -> np.ndarray | None:
    """Soft labels float32 [N, classes]."""
    if stored is None:
        return None
    soft = np.asarray(stored)
    if soft.shape != shape:
        raise UserError(
            f"The soft labels in {where} have the shape {soft.shape} instead of "
            f"{shape}, images and classes."
        )
    if soft.dtype.kind not in "fiuV":  # V is bfloat16
        raise UserError(f"The soft labels in {where} are {soft.dtype}; they must be numbers.")
    soft = soft.astype(np.float32)
    if not np.isfinite(soft).all():
        row = int(np.argmin(np.isfinite(soft).all(1)))
        raise UserError(
            f"The soft labels in {where} are not finite for image {row}; make them again, or "
            f"leave them out."
        )
    return soft


def _checked_learned_labels(
    stored: np.ndarray | None, num_images: int, where: str
) -> np.ndarray | None:
    """Learned labels float32 [N, classes]."""
    if stored is None:
        return None
    if stored.dtype.kind not in "fiuV":  # V is bfloat16
        raise UserError(f"The learned labels in {where} are {stored.dtype}; they must be numbers.")
    if stored.ndim != 2 or len(stored) != num_images:
        raise UserError(
            f"The learned labels in {where} have the shape {stored.shape}, but there are "
            f"{num_images} images; each needs a row of one number per class."
        )
    return stored.astype(np.float32)


def _check_balance(labels: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """Raises a UserError unless every class has as many images as the others."""
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() != counts.max():
        few, many = int(counts.argmin()), int(counts.argmax())
        raise UserError(
            f"{where} has {counts[many]} images of class {many} ({shown(names[many])}) but "
            f"{counts[few]} of class {few} ({shown(names[few])}); a distilled set has as many of "
            f"every class."
        )


def _names(names: tuple[str, ...], labels: np.ndarray, where: str) -> tuple[str, ...]:
    """Class names, numbers if there are none; raises a UserError if they do not fit the labels."""
    if labels.min() < 0:
        raise UserError(f"{where} has the label {labels.min()}; labels count from 0.")
    if not names and labels.max() < len(labels):
        names = tuple(map(str, range(int(labels.max()) + 1)))
    if labels.max() >= len(names):
        raise UserError(
            f"{where} has the label {labels.max()}, but {len(labels)} images and {len(names)} "
            f"class names; labels count from 0, and every class has a name and images."
        )
    return names


def _standardising(
    images: np.ndarray, where: str, mean: Sequence[float], std: Sequence[float]
) -> Preprocessing:
    """The space of floats that were standardised with these constants."""
    allowed = (1, images.shape[3])
    is_finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) not in allowed or len(std) not in allowed or not is_finite or min(std) <= 0:
        raise UserError(
            f"{where} holds normalised floats; give the mean and std (finite, and std above 0) "
            f"they were made with, one value or {images.shape[3]} each (--mean=0 --std=1 for "
            f"pixels in [0, 1]), or with --preprocessing a file of the whitening, too."
        )
    constants = Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
    return Preprocessing("standardise", constants)


def _in_space(stored: Stored, space: Preprocessing, where: str) -> LearnedArrays:
    """Floats of others as float32 in a space, with the labels that came with them."""
    images = np.asarray(stored.images, np.float32)
    if stored.are_pixels:
        mean, std = (
            np.asarray(each) for each in (space.normalisation.mean, space.normalisation.std)
        )
        images = ((images - mean) / std).astype(np.float32)
    labels = _checked_learned_labels(stored.learned_labels, len(images), where)
    for name, array in (("images", images), ("learned labels", labels)):
        if array is not None and not np.isfinite(array).all():
            raise UserError(f"{where} has {name} that are not finite; they cannot be learned from.")
    length = images[0].size
    if space.matrix is not None and space.matrix.shape != (length, length):
        raise UserError(
            f"The whitening is of {len(space.matrix)} values, but the images in {where} have "
            f"{length}; take the one that they were made with."
        )
    return LearnedArrays(images, labels, space, None)
