"""idx files, the format of MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST)."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from delt_jax.data.fit import fit_arrays
from delt_jax.data.listing import folder_at
from delt_jax.data.source import ArrayExamples, Source, fingerprint
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import regular
from delt_jax.store.local_copies import local

MOST_BYTES = 2**34  # of one file, unpacked; all of it is held in memory
_UNSIGNED_BYTE = 0x08
_GZIP = b"\x1f\x8b"
_MOST_PACKED = 1032  # bytes that a byte of gzip can stand for
_MOST_AXES = 8


def read_idx(path: Path) -> np.ndarray:
    """Reads one idx file of unsigned bytes, plain or gzipped.

    Returns:
      uint8 array of the shape in the file's header.

    Raises:
      UserError: if the file cannot be read, is not idx, holds fewer or more bytes than its header
        says, or more than `MOST_BYTES`.
    """
    try:
        with regular.open_file(path) as f:
            size = os.fstat(f.fileno()).st_size
            if f.read(2) == _GZIP:
                f.seek(0)
                with gzip.open(f) as unpacked:
                    return _read(path, unpacked, None, size * _MOST_PACKED)
            f.seek(0)
            return _read(path, f, size, size)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path} cannot be read ({e}); fetch the file again.") from e


def _read(path: Path, f: IO[bytes] | gzip.GzipFile, size: int | None, possible: int) -> np.ndarray:
    """Reads an idx file from its beginning.

    Args:
      path: for the sentences.
      f: the content.
      size: of the content in bytes, if that is known.
      possible: bytes that the content cannot exceed.
    """
    start = f.read(4)
    if (
        len(start) < 4
        or start[:2] != b"\0\0"
        or start[2] != _UNSIGNED_BYTE
        or start[3] > _MOST_AXES
    ):
        raise UserError(f"{path} is not an idx file of bytes; point data.path at idx files.")
    axes = start[3]
    header = f.read(4 * axes)
    if len(header) < 4 * axes:
        raise UserError(f"{path} ends inside its header; fetch the file again.")
    shape = struct.unpack(f">{axes}I", header)
    body = math.prod(shape)
    expected = len(start) + len(header) + body
    if expected <= possible and expected > MOST_BYTES:
        raise UserError(
            f"{path} is too large to be held in memory ({expected} bytes, more than {MOST_BYTES}); "
            f"use a folder of images or TFDS."
        )
    # One byte more than wanted shows that there are too many.
    content = f.read(body + 1) if expected <= possible else b""
    if len(content) != body:
        read = f"{len(start) + len(header) + len(content)}"
        unknown = f"at most {possible}" if expected > possible else f"{read} or more"
        holds = size or (read if len(content) < body and expected <= possible else unknown)
        raise UserError(
            f"{path} holds {holds} bytes, but its header {shape} asks for {expected}: "
            f"it is truncated or damaged; fetch the file again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _find(folder: Path, stem: str) -> Path:
    dotted = stem.replace("-idx", ".idx")  # as some archives unpack
    for name in (stem, f"{stem}.gz", dotted, f"{dotted}.gz"):
        if os.path.isfile(folder / name):
            return folder / name
    raise UserError(
        f"{folder}/{stem}[.gz] is missing; set data.path to the folder that holds the four idx "
        f"files of the data set."
    )


def _read_split(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise UserError(
            f"{images_path} {images.shape} and {labels_path} {labels.shape} do not belong "
            f"together: expected as many images (count, rows, columns) as labels (count)."
        )
    if not images.size:
        raise UserError(f"{images_path} holds no images; fetch the file again.")
    return images, labels.astype(np.int32)


def open_idx(recipe: DataRecipe) -> Source:
    """Reads the four files of an MNIST-like data set from ``data.path``.

    Raises:
      UserError: if a file is missing or damaged, or two files do not belong together.
    """
    what = "the folder that holds the four idx files of the data set"
    folder = local(folder_at(recipe.path, what))
    splits, arrays = [], []
    for prefix in ("train", "t10k"):
        images, labels = _read_split(folder, prefix)
        pixels = fit_arrays(images, recipe.image_size, recipe.channels, recipe.fit)
        names = [f"{prefix}/{i:05}" for i in range(len(labels))]
        splits.append(ArrayExamples(pixels, labels, names))
        arrays += [pixels, labels]
    classes = int(max(s.labels.max() for s in splits)) + 1
    class_names = recipe.class_names or tuple(str(c) for c in range(classes))
    return Source(
        name=folder.name,
        class_names=class_names,
        image_size=splits[0].pixels.shape[1],
        channels=splits[0].pixels.shape[3],
        train=splits[0],
        test=splits[1],
        fingerprint=fingerprint(*arrays),
    )
