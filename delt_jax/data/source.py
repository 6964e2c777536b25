"""What every source of real images provides: ordered classes, and examples by index."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from delt_jax.errors import UserError


class Examples(Protocol):
    """One split."""

    @property
    def labels(self) -> np.ndarray:
        """Classes, int32 [N]."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """One identifier per example, in the same order."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the examples, uint8 [len(indices), S, S, C]."""
        ...


@dataclass(frozen=True)
class Source:
    """A data set of real images.

    Attributes:
      name: for people.
      class_names: in label order; travels with everything made from this source.
      image_size: side in pixels of what `images` returns.
      channels: 1 or 3.
      train, test: the splits.
      fingerprint: changes when the content changes.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    train: Examples
    test: Examples
    fingerprint: str


@dataclass(frozen=True)
class ArrayExamples:
    """Examples held in memory: pixels uint8 [N, S, S, C]."""

    pixels: np.ndarray
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the examples."""
        return self.pixels[indices]


def batches(examples: Examples, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices, images) over all examples in order; the last batch may be smaller."""
    for start in range(0, len(examples), size):
        indices = np.arange(start, min(start + size, len(examples)))
        yield indices, examples.images(indices)


def fit_image(image: Image.Image, size: int, channels: int, fit: str) -> np.ndarray:
    """Brings a decoded image to uint8 [size, size, channels].

    Args:
      image: any mode of 8 bits per channel.
      size: side of the result; 0 keeps a square image's own.
      channels: 1 (luminance) or 3; 0 keeps grey images grey and makes all others RGB.
      fit: "resize" scales the shorter side to `size` (bilinear, antialiased) and takes the
        centre; "pad" puts zeros around an image that is no larger than `size`.
    """
    channels = channels or (1 if image.mode in ("1", "L", "LA") else 3)
    image = image.convert("L" if channels == 1 else "RGB")
    size = size or min(image.size)
    if fit == "resize" and image.size != (size, size):
        scale = size / min(image.size)
        wide = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        image = image.resize(wide, Image.Resampling.BILINEAR)
    if fit == "pad" and max(image.size) > size:
        raise UserError(
            f'data.fit is "pad", but an image of {image.width}x{image.height} px is larger '
            f'than data.image_size {size}; raise it or use data.fit "resize".'
        )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    # A crop box that reaches outside the image is filled with zeros: that is the padding.
    image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def fit_arrays(pixels: np.ndarray, size: int, channels: int, fit: str) -> np.ndarray:
    """`fit_image` for a stack uint8 [N, H, W] or [N, H, W, C]; a no-op where nothing changes."""
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    native = 1 if pixels.ndim == 3 else 3
    if pixels.shape[1:3] == (size or pixels.shape[1],) * 2 and channels in (0, native):
        return pixels.reshape(*pixels.shape[:3], native)
    return np.stack([fit_image(Image.fromarray(p), size, channels, fit) for p in pixels])


def fingerprint(*arrays: np.ndarray) -> str:
    """Content hash of arrays, hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
