"""The arrays of a learned set: what every layout that keeps floats stores of it, and its checks."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import KINDS, Preprocessing
from delt_jax.formats.decoding import Decoding
from delt_jax.store import files
from delt_jax.store.foreign import ForeignFileError
from delt_jax.store.schema import mismatch

# What learned labels are: probabilities that began as classes, or other probabilities; weights of
# the classes' cross-entropies, which need not sum to 1 (RaT-BPTT); logits; or values as FRePo has
# them, (probability - 1 / classes) / sqrt(classes / 10).
FORMS = ("one_hot", "probabilities", "weights", "logits", "centred")
NAMES = ("images", "learned_labels", "matrix", "centre")
_MOST_FACTOR = 16
_SPACE = {"kind": str, "normalisation": {"mean": [float], "std": [float]}, "sha256?": str}
_DECODING = {"factor": int, "mirrored": bool}


class LearnedArrays(NamedTuple):
    """What is learned, and the space that it is in.

    Attributes:
      images: float32 [N, H, W, C].
      labels: float32 [N, classes], or None.
      preprocessing: of the images.
      decoding: of the images, or None.
    """

    images: np.ndarray
    labels: np.ndarray | None
    preprocessing: Preprocessing
    decoding: Decoding | None


def by_name(arrays: LearnedArrays) -> dict[str, np.ndarray]:
    """The arrays under the names that files have; those that are not there are left out.

    Raises:
      TypeError: if one is not float32, so that storing it would change it.
    """
    space = arrays.preprocessing
    values = (arrays.images, arrays.labels, space.matrix, space.centre)
    named = {name: v for name, v in zip(NAMES, values, strict=True) if v is not None}
    for name, value in named.items():
        if np.asarray(value).dtype != np.float32:
            raise TypeError(f"{name} is {np.asarray(value).dtype} instead of float32")
    return {name: np.asarray(value) for name, value in named.items()}


def described(
    preprocessing: Preprocessing, decoding: Decoding | None, form: str | None
) -> dict[str, Any]:
    """What manifests say of the arrays.

    Args:
      preprocessing, decoding: as of `LearnedArrays`.
      form: of the labels, one of `FORMS`; None without any.
    """
    said: dict[str, Any] = {"preprocessing": preprocessing.as_dict()}
    if decoding is not None:
        said["decoding"] = decoding.as_dict()
    if form is not None:
        assert form in FORMS
        said["learned_labels"] = {"form": form}
    return said


def is_described(manifest: Mapping[str, Any], images: np.ndarray) -> bool:
    """Whether a manifest says in which space float images are, as those of our exports do."""
    return images.dtype.kind == "f" and "preprocessing" in manifest


def content_hash(arrays: LearnedArrays) -> str:
    """Hash of images, labels, space and decoding."""
    named = by_name(arrays)
    parts = [f"{arrays.preprocessing.space} {arrays.decoding}".encode()]
    for name, value in named.items():
        parts += [f"{name}{value.shape}".encode(), np.ascontiguousarray(value, "<f4").tobytes()]
    return files.content_hash(*parts)


def parsed(named: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> LearnedArrays:
    """Puts a set together from the arrays of a file and what its manifest says of them.

    Args:
      named: as `by_name` gave them; others are not looked at.
      manifest: has the entries of `described`.

    Raises:
      ForeignFileError: if they do not fit each other.
    """
    images = _floats(named, "images", 4)
    if images.shape[3] not in (1, 3):
        raise ForeignFileError(f"its images have the shape {images.shape}")
    labels = _floats(named, "learned_labels", 2) if "learned_labels" in named else None
    if labels is not None and len(labels) != len(images):
        raise ForeignFileError(f"it has {len(images)} images but {len(labels)} learned labels")
    if (labels is not None) != ("learned_labels" in manifest):
        raise ForeignFileError("its learned labels are not those of its manifest")
    if labels is not None:
        form = manifest["learned_labels"]
        if not isinstance(form, dict) or form.get("form") not in FORMS:
            raise ForeignFileError("its manifest names no known form of learned labels")
    preprocessing = space_of(named, manifest.get("preprocessing"), images.shape[1:])
    return LearnedArrays(images, labels, preprocessing, _decoding(manifest.get("decoding")))


def space_of(
    named: Mapping[str, np.ndarray], said: Any, shape: tuple[int, ...] | None = None
) -> Preprocessing:
    """The preprocessing that a manifest's entry describes.

    Args:
      named: may have matrix and centre.
      said: the entry, as `Preprocessing.as_dict` made it.
      shape: of an image, [H, W, C], which the matrix must fit; None if that is unknown.

    Raises:
      ForeignFileError: if it is none, or the matrix is another.
    """
    wrong = mismatch(said, _SPACE)
    if wrong or said["kind"] not in KINDS:
        raise ForeignFileError(f"its manifest describes no preprocessing ({wrong or said})")
    constants = said["normalisation"]
    mean, std = (tuple(map(float, constants[name])) for name in ("mean", "std"))
    channels = shape[2] if shape else len(mean)
    good = all(len(c) in (1, channels) and all(map(math.isfinite, c)) for c in (mean, std))
    if not good or min(std) <= 0:
        raise ForeignFileError("its mean and std are none of its channels")
    matrix = _floats(named, "matrix", 2) if "matrix" in named else None
    centre = _floats(named, "centre", 1) if "centre" in named else None
    if (matrix is None) != (centre is None) or (matrix is not None) != ("sha256" in said):
        raise ForeignFileError("its matrix, its centre and its manifest are not of one set")
    if matrix is not None and centre is not None:
        length = math.prod(shape) if shape else len(centre)
        if matrix.shape != (length, length) or centre.shape != (length,):
            raise ForeignFileError(f"its matrix of {matrix.shape} does not fit its images")
    found = Preprocessing(said["kind"], Normalisation(mean, std), matrix, centre)
    if matrix is not None and found.sha256 != said["sha256"]:
        raise ForeignFileError("its matrix is not that of its manifest")
    return found


def space_arrays(space: Preprocessing) -> dict[str, np.ndarray]:
    """A preprocessing as the arrays of a file of its own, which `parsed_space` reads."""
    constants = {
        name: np.asarray(values, np.float64)
        for name, values in (("mean", space.normalisation.mean), ("std", space.normalisation.std))
    }
    arrays = {"matrix": space.matrix, "centre": space.centre}
    whitening = {name: array for name, array in arrays.items() if array is not None}
    return {"kind": np.array(space.kind), **constants, **whitening}


def parsed_space(named: Mapping[str, np.ndarray]) -> Preprocessing:
    """Reads what `space_arrays` gave; a file of others may lack the kind.

    Raises:
      ForeignFileError: if arrays are missing, or no such preprocessing.
    """
    missing = [name for name in ("mean", "std") if name not in named]
    if missing:
        raise ForeignFileError(f"it has no {' and '.join(missing)}")
    if any(named[name].dtype.kind not in "fiu" for name in ("mean", "std")):
        raise ForeignFileError("its mean and std are no numbers")
    mean, std = (np.atleast_1d(named[name]).astype(float).tolist() for name in ("mean", "std"))
    kind = str(named.get("kind", "zca" if "matrix" in named else "standardise"))
    whitening = {
        name: named[name].astype(np.float32) for name in ("matrix", "centre") if name in named
    }
    said: dict[str, Any] = {"kind": kind, "normalisation": {"mean": mean, "std": std}}
    if "matrix" in whitening and "centre" in whitening:
        given = Preprocessing(kind, Normalisation((), ()), **whitening)
        said["sha256"] = given.sha256
    return space_of(whitening, said)


def _floats(named: Mapping[str, np.ndarray], name: str, axes: int) -> np.ndarray:
    """An array of finite float32."""
    array = named.get(name)
    if array is None:
        raise ForeignFileError(f"it has no {name}")
    if array.dtype != np.float32 or array.ndim != axes or not array.size:
        raise ForeignFileError(f"its {name} are {array.dtype} of the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ForeignFileError(f"its {name} are not finite")
    return array


def _decoding(said: Any) -> Decoding | None:
    if said is None:
        return None
    if mismatch(said, _DECODING) or not 1 <= said["factor"] <= _MOST_FACTOR:
        raise ForeignFileError("its manifest describes no decoding of images")
    return Decoding(said["factor"], said["mirrored"])
