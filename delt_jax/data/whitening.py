"""Fits the preprocessing of learned images to the training images of a source."""

import hashlib
import json
from pathlib import Path

import numpy as np

from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import KINDS, LEAST_LENGTH, Preprocessing
from delt_jax.data import in_memory
from delt_jax.data.source import Source
from delt_jax.data.stream import batches
from delt_jax.errors import UserError

VERSION = 1  # part of identities; raise it when results change

RIDGE = 0.1  # added to eigenvalues; "zca" means it in units of their mean
_MOST_VALUES = 64 * 64 * 3  # of an image whose covariance is still fitted
_BATCH = 1024


def fit(kind: str, source: Source, normalisation: Normalisation) -> Preprocessing:
    """The map from pixels to the space that images are learned in.

    Whitening is d x d for images of d values: x -> (x - mean) U (s + ridge)^-1/2 U^T, where U and s
    are eigenvectors and eigenvalues of the covariance of standardised training images. "zca"
    (FRePo, RCIG) adds a tenth of the mean eigenvalue, and leaves directions beyond the number of
    images as they are. "kornia" (MTT and its family) adds 0.1, and takes the unbiased covariance.
    "unit_zca" (RaT-BPTT) adds a tenth of the mean eigenvalue, and takes the products of images of
    unit length without a centre.

    Args:
      kind: one of `delt_jax.core.preprocessing.KINDS`.
      source: of the data; what was fitted is kept in its cache.
      normalisation: mean and std of pixels.

    Raises:
      UserError: for an unknown kind, or images too large for a matrix of this kind.
    """
    if kind not in KINDS:
        raise UserError(
            f"learn.preprocessing is {kind!r}; write {', '.join(KINDS[:-1])} or {KINDS[-1]}."
        )
    if kind in ("standardise", "unit"):
        return Preprocessing(kind, normalisation)
    size = source.image_size**2 * source.channels
    if size > _MOST_VALUES:
        raise UserError(
            f"learn.preprocessing {kind!r} whitens images of up to 64 px, but data.image_size is "
            f"{source.image_size}, which would take a matrix of {size:,} x {size:,}; set it to "
            f'"{"unit" if kind == "unit_zca" else "standardise"}".'
        )
    path = _path(kind, source, normalisation)
    kept = in_memory.load(path, (size + 1, size)) if path else None
    if kept is None:
        matrix, centre = _whitening(kind, *_covariance(kind, source, normalisation))
        kept = np.concatenate([matrix, centre[None]]).astype(np.float32)
        if path:
            in_memory.write(path, kept.shape, [kept])
    return Preprocessing(kind, normalisation, np.array(kept[:-1]), np.array(kept[-1]))


def _path(kind: str, source: Source, normalisation: Normalisation) -> Path | None:
    """Where a matrix is kept; its name tells all that it depends on."""
    if source.cache is None:
        return None
    told = json.dumps([VERSION, kind, normalisation.as_dict(), source.fingerprint])
    return source.cache / f"whitening-{hashlib.sha256(told.encode()).hexdigest()[:16]}.npy"


def _covariance(
    kind: str, source: Source, normalisation: Normalisation
) -> tuple[np.ndarray, np.ndarray, int]:
    """Covariance [d, d] and mean [d] of the flattened training images, float64; their number.

    They are standardised, and of unit length and then not centred where the kind says so.
    """
    size = source.image_size**2 * source.channels
    total, products = np.zeros(size), np.zeros((size, size))
    mean, std = (np.asarray(x, np.float64) for x in (normalisation.mean, normalisation.std))
    for _, pixels in batches(source.train, _BATCH):
        flat = ((np.asarray(pixels) / 255.0 - mean) / std).reshape(len(pixels), -1)
        if kind == "unit_zca":
            flat -= flat.mean(1, keepdims=True)
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), LEAST_LENGTH)
        total += flat.sum(0)
        products += flat.T @ flat
    count = len(source.train)
    centre = np.zeros(size) if kind == "unit_zca" else total / count
    return products / count - np.outer(centre, centre), centre, count


def _whitening(
    kind: str, covariance: np.ndarray, centre: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix [d, d] and the centre [d] of so many images."""
    size = len(covariance)
    ridge = RIDGE if kind == "kornia" else RIDGE * np.trace(covariance) / size
    if kind == "kornia":
        covariance = covariance * (count / max(count - 1, 1))
    values, vectors = np.linalg.eigh(covariance)  # ascending
    scales = (np.maximum(values, 0.0) + ridge) ** -0.5
    if kind == "zca" and count < size:
        scales[: size - count] = 1.0
    return (vectors * scales) @ vectors.T, centre
