"""idx files, the format of MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST)."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from delt_jax.data.fit import fit_arrays
from delt_jax.data.source import ArrayExamples, Source, fingerprint
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Reads one idx file of unsigned bytes, plain or gzipped.

    Returns:
      uint8 array of the shape in the file's header.

    Raises:
      UserError: if the file cannot be read, is not idx, or holds fewer or more bytes than
        its header says.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path} cannot be read ({e}); fetch the file again.") from e
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise UserError(f"{path} is not an idx file of bytes; point data.path at idx files.")
    axes = content[3]
    header = 4 + 4 * axes
    if len(content) < header:
        raise UserError(f"{path} ends inside its header; fetch the file again.")
    shape = struct.unpack(f">{axes}I", content[4:header])
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise UserError(
            f"{path} holds {len(content)} bytes, but its header {shape} asks for {expected}: "
            f"it is truncated or damaged; fetch the file again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, stem: str) -> Path:
    dotted = stem.replace("-idx", ".idx")  # as some archives unpack
    for name in (stem, f"{stem}.gz", dotted, f"{dotted}.gz"):
        if (folder / name).is_file():
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
    if not len(labels):
        raise UserError(f"{images_path} holds no images; fetch the file again.")
    return images, labels.astype(np.int32)


def open_idx(recipe: DataRecipe) -> Source:
    """Reads the four files of an MNIST-like data set from ``data.path``.

    Raises:
      UserError: if a file is missing or damaged, or two files do not belong together.
    """
    folder = Path(recipe.path)
    if not recipe.path or not folder.is_dir():
        raise UserError(
            f"data.path {recipe.path!r} is not a folder; set it to the folder that holds the "
            f"four idx files of the data set."
        )
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
