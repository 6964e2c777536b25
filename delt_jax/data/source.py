"""What every source of real images provides: ordered classes, and examples by index."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

from delt_jax.data.fit import decode, fit_image
from delt_jax.data.names import printable
from delt_jax.errors import UserError
from delt_jax.store.pictures import MOST_PIXELS, TooLargeError, UnreadableError

TEST_IMAGES = "test images"
READS, TOO_LARGE = 1, 2  # outcomes of `Readable`


class Examples(Protocol):
    """One split: labels and names of its examples, and their pixels by index."""

    @property
    def labels(self) -> np.ndarray:
        """Classes, int32 [N]."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """One identifier per example, in the same order."""
        ...

    @property
    def workers(self) -> int:
        """Worker processes for `delt_jax.data.batches`; 0 if there is nothing to decode."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the examples, uint8 [len(indices), S, S, C], on the host or a device."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set of real images.

    Attributes:
      name: as printed and drawn.
      class_names: in label order; stored with everything made from this source.
      image_size: side in pixels of what `images` returns.
      channels: 1 or 3.
      train, test: the splits.
      fingerprint: hash that changes when the content changes.
      notes: sentences for the user about what opening it found out.
      found: arrays by file name that took long to compute and belong into `cache`.
      cache: folder for what may be computed again; None caches nothing.
      scored: phrase for what `test` holds, as printed beside scores.
      content: hash like `fingerprint` that is equal for copies of the data on other hosts, which
        have other times; empty where `fingerprint` is.
      all_classes: names of all outputs of networks that know more classes than these, in order;
        empty where nothing is known of them.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    train: Examples
    test: Examples
    fingerprint: str
    notes: tuple[str, ...] = ()
    found: Mapping[str, np.ndarray] = field(default_factory=dict)
    cache: Path | None = None
    scored: str = TEST_IMAGES
    content: str = ""
    all_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArrayExamples:
    """Examples in memory: pixels uint8 [N, S, S, C], labels int32 [N], and names."""

    pixels: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    workers: ClassVar[int] = 0

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the examples, uint8 [len(indices), S, S, C]."""
        return self.pixels[indices]


class Encoded(Protocol):
    """Image files by index, wherever they are stored."""

    def read(self, indices: np.ndarray) -> Sequence[bytes | UnreadableError]:
        """Contents of the files; for what cannot be read, why."""
        ...


@dataclass(frozen=True)
class EncodedExamples:
    """Examples that are decoded at every use.

    Attributes:
      encoded: the image files.
      labels, names: as in `Examples`.
      where: text before a name in sentences, such as the folder's path.
      image_size, channels, fit: see `delt_jax.data.fit.fit_image`.
      workers: processes to decode in.
      as_stored: whether all files are known to have this size, so that fitting changes none.
      most_pixels: that a picture may have.
    """

    encoded: Encoded
    labels: np.ndarray
    names: Sequence[str]
    where: str
    image_size: int
    channels: int
    fit: str
    workers: int
    as_stored: bool = False
    most_pixels: int = MOST_PIXELS

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Decodes and fits the examples.

        Raises:
          UserError: naming the first that cannot be read.
        """
        images = self.decoded(indices)
        return np.stack(
            [fit_image(image, self.image_size, self.channels, self.fit) for image in images]
        )

    def decoded(self, indices: np.ndarray) -> Iterator[Image.Image]:
        """Decodes the examples one after another, each as large as its file has it.

        Raises:
          UserError: naming the first that cannot be read.
        """
        for i, content in zip(indices, self.encoded.read(indices), strict=True):
            try:
                yield decode(content, self.names[i], self.most_pixels)
            except TooLargeError as e:
                raise UserError(
                    f"{self.where}{printable(self.names[i])} has {e}, and data.max_pixels allows "
                    f"{self.most_pixels:,}; raise that, make the picture smaller, or leave out "
                    f'what cannot be read with data.unreadable "skip".'
                ) from e
            except UnreadableError as e:
                raise UserError(
                    f"{self.where}{printable(self.names[i])} cannot be read as an image ({e}); "
                    f"mend or remove it, or leave out all such files with data.unreadable "
                    f'"skip".'
                ) from e


@dataclass(frozen=True)
class Readable:
    """Tells which image files decode; has the shape of examples, so that `batches` can read it."""

    encoded: Encoded
    labels: np.ndarray
    names: Sequence[str]
    workers: int
    most_pixels: int = MOST_PIXELS

    def __len__(self) -> int:
        """Number of files."""
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Of each file `READS`, `TOO_LARGE`, or 0 if it does not decode, uint8 [len(indices)]."""
        contents = self.encoded.read(indices)
        tried = [
            self._outcome(content, self.names[i])
            for i, content in zip(indices, contents, strict=True)
        ]
        return np.array(tried, np.uint8)

    def _outcome(self, content: bytes | UnreadableError, name: str) -> int:
        try:
            decode(content, name, self.most_pixels)
        except TooLargeError:
            return TOO_LARGE
        except UnreadableError:
            return 0
        return READS


def split_mask(
    labels: np.ndarray, share: float, seed: int, readable: np.ndarray | None = None
) -> np.ndarray:
    """Draws a test split with the same share of every class, at least one image of each.

    Args:
      labels: int [N].
      share: part of each class that goes into the test split, in (0, 1).
      seed: of the random draw.
      readable: bool [N], which images there are to draw from; all by default.

    Returns:
      bool [N], true for the test split; a class of one image stays in the training split.
    """
    draw = np.random.default_rng(seed)
    in_test = np.zeros(len(labels), bool)
    there = np.ones(len(labels), bool) if readable is None else readable
    for c in np.unique(labels[there]):
        members = draw.permutation(np.flatnonzero((labels == c) & there))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        in_test[members[:count]] = True
    return in_test


def fingerprint(*arrays: np.ndarray) -> str:
    """Content hash of arrays, hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
