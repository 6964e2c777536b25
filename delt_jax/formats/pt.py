"""Torch's `.pt`: our dictionary, or the two tensors that MTT and its successors publish.

Neither reading nor writing needs torch, and reading runs nothing that a pickle names.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats import learned_arrays, torch_zip
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import Stored, as_manifest, as_names, channels_last, floats_of
from delt_jax.store import files
from delt_jax.store.foreign import ForeignFileError, parse_json, shown

_ENTRIES = {"images", "labels", "class_names", "manifest"}
_MORE = {"soft_labels", "learned_labels", "matrix", "centre", "mean", "std"}
# Of MTT and its successors; labels lie beside them, under the same name. FTD and ATT have the
# averaged images in a folder of their own.
_MTT_IMAGES = ("images_best.pt", "ema_images_best.pt")


def detect(path: Path) -> bool:
    """Whether this is a .pt or .pth file, or a folder with MTT's two files."""
    is_file = path.is_file() and path.suffix in (".pt", ".pth")
    return is_file or any((path / name).is_file() for name in _MTT_IMAGES)


def read(path: Path) -> Stored:
    """Reads a dictionary with images and labels, or `images_best.pt` and `labels_best.pt`.

    The latter two may begin with `ema_` (FTD, ATT).
    A list of the two tensors is IDC's `data.pt`, whose images are pixels in [0, 1]. Labels that are
    rows of floats are logits, as DATM learns them; beside pixels they are soft labels.

    Raises:
      UserError: if a file is damaged, holds anything but tensors, or no images and labels.
    """
    if path.is_dir():
        path = next(path / name for name in _MTT_IMAGES if (path / name).is_file())
    content = _load(path)
    if path.name in _MTT_IMAGES:
        beside = path.with_name(path.name.replace("images", "labels"))
        content = {"images": content, "labels": _load(beside)}
    is_idc = isinstance(content, list | tuple) and len(content) == 2
    if is_idc:
        content = dict(zip(("images", "labels"), content, strict=True))
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary of images and labels; see docs/formats.md.")
    wanted = ("images", "labels")
    missing = [name for name in wanted if not isinstance(content.get(name), np.ndarray)]
    if missing:
        listed = shown(", ".join(map(str, content)), 400) or "nothing"
        raise UserError(f"{path} holds {listed}, but no tensor called {' or '.join(missing)}.")
    labels, soft = content["labels"], content.get("soft_labels")
    arrays = {name: value for name, value in content.items() if name in _MORE}
    odd = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if odd:
        raise UserError(f"{path} holds {odd[0]} that are no tensor.")
    learned = arrays.get("learned_labels")
    if labels.ndim == 2 and labels.dtype.kind == "f":
        labels, given = _classes_of(labels, path), labels
        is_float = content["images"].dtype.kind == "f"
        learned, soft = (given, soft) if is_float else (learned, given)
    try:
        names = as_names(content.get("class_names", ()))
        manifest = as_manifest(parse_json(_text(content.get("manifest", "{}"))))
    except ForeignFileError as e:
        raise UserError(f"The class_names or manifest in {path} cannot be read ({e}).") from e
    images, floats = channels_last(content["images"], True, str(path)), None
    if learned_arrays.is_described(manifest, images):
        try:
            floats = learned_arrays.parsed(arrays | {"images": images}, manifest)
        except ForeignFileError as e:
            raise UserError(f"{path} is damaged: {e}; export again.") from e
    return Stored(
        images,
        labels,
        names,
        manifest,
        soft,
        floats=floats,
        learned_labels=learned,
        are_pixels=is_idc,
    )


def _classes_of(logits: np.ndarray, path: Path) -> np.ndarray:
    """The largest logit's class of each row, int64 [N].

    Learned ones may have left the class that they began with; where classes are then unequally
    large, they are taken as trajectory matching orders them, as many of each one after another.
    """
    if not logits.size or not np.isfinite(logits).all():
        raise UserError(f"{path} has labels that are not finite; they must be classes or logits.")
    classes, (count, num_classes) = logits.argmax(1), logits.shape
    counts = np.bincount(classes, minlength=num_classes)
    if counts.min() != counts.max() and count % num_classes == 0:
        return np.repeat(np.arange(num_classes), count // num_classes)
    return classes


def write(path: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes images NCHW, labels int64, class_names, manifest (JSON), soft_labels.

    Images are uint8; or float32, and then with mean and std, learned_labels, and matrix and centre
    of whitening, which are of images as [H, W, C].
    `torch.load(path, weights_only=True)` gives the dictionary.
    """
    del quality  # lossless
    values: dict[str, Any] = {
        "images": np.moveaxis(content.images, 3, 1),
        "labels": content.labels.astype(np.int64),
        "class_names": list(content.class_names),
        "manifest": json.dumps(content.manifest, ensure_ascii=False),
    }
    if content.soft_labels is not None:
        values["soft_labels"] = content.soft_labels
    floats = floats_of(content)
    if floats is not None:
        values |= {k: v for k, v in learned_arrays.by_name(floats).items() if k != "images"}
        values["mean"] = np.asarray(floats.preprocessing.normalisation.mean, np.float64)
        values["std"] = np.asarray(floats.preprocessing.normalisation.std, np.float64)
    files.write_bytes(path, torch_zip.dumps(values))


def is_ours(path: Path) -> bool:
    """Whether `write` made this file, by the names in its dictionary and its record."""
    from delt_jax.models import torch_archive  # imports JAX

    try:
        content = torch_archive.read(path).content
        if not isinstance(content, dict) or set(content) - _MORE != _ENTRIES:
            return False
        return isinstance(parse_json(_text(content["manifest"])), dict)
    except (OSError, ForeignFileError):
        return False


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ForeignFileError(f"the manifest is a {type(value).__name__}")
    return value


def _load(path: Path) -> Any:
    """Reads a file, with arrays in place of tensors."""
    from delt_jax.models import torch_files  # imports JAX

    if not path.is_file():
        raise UserError(f"There is no file {path}; images and labels lie beside each other.")
    return torch_files.read_pth(path)
