"""Small sets decoded once and cached in memory, and the files under WORKDIR/cache behind them.

Every file there is named by the content it was made from and may be deleted at any time. Behind the
array it has the array's SHA-256; where that differs, or is not there, the file is made again.
"""

import abc
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from delt_jax.core.progress import progress
from delt_jax.data.source import EncodedExamples, Examples, Source
from delt_jax.data.stream import batches
from delt_jax.store import files, regular

_BATCH = 256
_MARK = b"sha256: "  # before the digest, at the end of a file
_PIECE = 2**24  # bytes that are hashed at a time


@dataclass(frozen=True)
class CachedExamples(abc.ABC):
    """Examples whose pixels lie in one array, on the host or on a device."""

    examples: Examples
    workers: ClassVar[int] = 0

    @property
    def labels(self) -> np.ndarray:
        """Classes, int32 [N], on the host."""
        return self.examples.labels

    @property
    def names(self) -> Sequence[str]:
        """One identifier per example."""
        return self.examples.names

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def images(self, indices: np.ndarray) -> Any:
        """Pixels of the examples, uint8 [len(indices), S, S, C]."""
        return self.pixels[indices]

    @property
    @abc.abstractmethod
    def pixels(self) -> Any:
        """All of them, uint8 [N, S, S, C]."""


@dataclass(frozen=True)
class InMemoryExamples(CachedExamples):
    """Examples decoded at first use into a file that is then mapped into memory.

    Attributes:
      path: the .npy file of all pixels.
      image_size, channels: of each image.
    """

    path: Path
    image_size: int
    channels: int

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """All of them, uint8 [N, S, S, C]."""
        shape = (len(self), self.image_size, self.image_size, self.channels)
        pixels = load(self.path, shape)
        if pixels is None:
            with progress(len(self), "decode", "image") as bar:

                def decoded() -> Iterator[np.ndarray]:
                    for _, images in batches(self.examples, _BATCH):
                        yield images
                        bar.update(len(images))

                write(self.path, shape, decoded())
            pixels = load(self.path, shape)
        assert pixels is not None
        return pixels


def cache_in_memory(source: Source, memory_mib: int, cache: Path) -> Source:
    """Caches in memory every split that fits, so that each image is decoded only once.

    Also writes the arrays in `source.found`. Only the process that holds the work directory's lock
    may call this.

    Args:
      source: as opened.
      memory_mib: for the pixels of all splits together, in MiB.
      cache: folder of the files.

    Returns:
      The source with `InMemoryExamples`, which decode at first use, where a split fits.
    """
    for name, array in source.found.items():
        if load(cache / name, array.shape) is None:
            write(cache / name, array.shape, [array])
    bytes_left = memory_mib * 2**20

    def cached(examples: Examples, split: str) -> Examples:
        nonlocal bytes_left
        size = len(examples) * source.image_size**2 * source.channels
        if not isinstance(examples, EncodedExamples) or size > bytes_left:
            return examples
        bytes_left -= size
        path = cache / f"pixels-{source.fingerprint}-{split}.npy"
        return InMemoryExamples(examples, path, source.image_size, source.channels)

    test = cached(source.test, "test")  # first: it is smaller, and read at every evaluation
    return replace(source, test=test, train=cached(source.train, "train"), cache=cache)


def decode(source: Source) -> None:
    """Decodes what is to be cached in memory now, so that other processes find it."""
    for examples in (source.test, source.train):
        if isinstance(examples, InMemoryExamples):
            _ = examples.pixels


def load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A cached array as a memory map, or None if it is missing, damaged or of another shape.

    Reads the whole file once, about a second for each GiB.
    """
    try:
        with regular.open_file(path) as f:
            f.seek(-len(_MARK) - hashlib.sha256().digest_size, 2)
            ending = f.read()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except MemoryError:
        raise
    except Exception:  # NumPy reads the header with Python's parser, which raises many types
        return None
    if array.shape != shape or not array.flags.c_contiguous:
        return None
    digest, content = _begun(array.dtype, shape), array.reshape(-1).view(np.uint8)
    for start in range(0, len(content), _PIECE):
        digest.update(content[start : start + _PIECE])
    return array if ending == _MARK + digest.digest() else None


def write(path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Writes an array that comes in blocks along its first axis, and its checksum."""

    def sealed() -> Iterator[np.ndarray]:
        digest = None
        for block in blocks:
            digest = digest or _begun(block.dtype, shape)
            digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
            yield block
        if digest is not None:
            yield np.frombuffer(_MARK + digest.digest(), np.uint8)

    with files.disk_errors_as_user_errors(path):
        path.parent.mkdir(exist_ok=True)
    files.write_npy(path, shape, sealed())


def _begun(dtype: np.dtype, shape: tuple[int, ...]) -> "hashlib._Hash":
    """SHA-256 that has seen type and shape of an array."""
    return hashlib.sha256(f"{np.dtype(dtype).str} {tuple(map(int, shape))} ".encode())
