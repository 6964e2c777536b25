"""Square crops of image files as they are, before they are fitted to a size (RDED).

Both classes have the shape of examples, so that `batches` reads them and its workers cut them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from delt_jax.data.in_memory import CachedExamples
from delt_jax.data.source import EncodedExamples, Examples

_TRIES = 10  # draws of an area, of which the first whose square fits is taken
_STREAM = 0xC1075  # tells these draws from others of the same seed


def files_of(examples: Examples) -> EncodedExamples | None:
    """The image files behind examples, wherever their pixels are cached.

    None where there are no files, and where these have the examples' size already, so that their
    pixels are those of the examples.
    """
    while isinstance(examples, CachedExamples):
        examples = examples.examples
    return examples if isinstance(examples, EncodedExamples) and not examples.as_stored else None


def square_boxes(
    draw: np.random.Generator, size: tuple[int, int], count: int, least_area: float
) -> np.ndarray:
    """Boxes of torchvision's RandomResizedCrop(scale=(least_area, 1), ratio=(1, 1)).

    Args:
      draw: where they are drawn from.
      size: height and width of the image.
      count: number of boxes.
      least_area: of a square, as a share of the image's.

    Returns:
      int32 [count, 4]: top, left, height, width; the central square where ten draws are too large.
    """
    height, width = size
    areas = height * width * draw.uniform(least_area, 1.0, (count, _TRIES))
    places = draw.random((count, 2))
    sides = np.rint(np.sqrt(areas)).astype(np.int64)
    fits = (sides >= 1) & (sides <= min(size))
    is_drawn = np.any(fits, axis=1)
    side = np.where(is_drawn, sides[np.arange(count), fits.argmax(1)], min(size))
    free = np.stack([height - side, width - side], axis=1)
    drawn = np.minimum(np.floor(places * (free + 1)).astype(np.int64), free)
    corners = np.where(is_drawn[:, None], drawn, free // 2)
    return np.concatenate([corners, side[:, None], side[:, None]], axis=1).astype(np.int32)


def cut(image: Image.Image, box: Sequence[int], side: int, channels: int) -> np.ndarray:
    """A crop scaled to uint8 [side, side, channels], bilinear and antialiased.

    Args:
      image: any mode of 8 bits per channel.
      box: top, left, height, width.
      side: of the result in pixels.
      channels: 1 or 3.
    """
    top, left, height, width = map(int, box)
    part = image.crop((left, top, left + width, top + height))
    part = part.convert("L" if channels == 1 else "RGB")
    part = part.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(part, np.uint8).reshape(side, side, channels)


@dataclass(frozen=True)
class _Crops(ABC):
    """What both kinds of crops share.

    Attributes:
      files: the image files.
      side: pixels that a crop is scaled to.
    """

    files: EncodedExamples
    side: int

    @property
    def labels(self) -> np.ndarray:
        """Classes of the files, int32 [N]."""
        return self.files.labels

    @property
    def names(self) -> Sequence[str]:
        """One identifier per file."""
        return self.files.names

    @property
    def workers(self) -> int:
        """Worker processes that cut."""
        return self.files.workers

    def __len__(self) -> int:
        """How many there are to read."""
        return len(self.labels)

    @abstractmethod
    def images(self, indices: np.ndarray) -> np.ndarray:
        """Crops, with the leading axis of the indices."""


@dataclass(frozen=True)
class RandomCrops(_Crops):
    """Random square crops of every file.

    Attributes:
      count: crops of a file.
      least_area: of a crop, as a share of the file's.
      seed: of the crops, which depend on it and on the file's index alone.
    """

    count: int
    least_area: float
    seed: int

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The crops and where they are from.

        Returns:
          Records [n] of "boxes", int32 [count, 4], and "pixels", uint8 [count, side, side, C].
        """
        shape = (self.count, self.side, self.side, self.files.channels)
        kinds = [("boxes", np.int32, (self.count, 4)), ("pixels", np.uint8, shape)]
        found = np.zeros(len(indices), kinds)
        for place, image in enumerate(self.files.decoded(indices)):
            draw = np.random.default_rng([self.seed, _STREAM, int(indices[place])])
            boxes = square_boxes(draw, (image.height, image.width), self.count, self.least_area)
            crops = [cut(image, box, self.side, self.files.channels) for box in boxes]
            found[place] = boxes, np.stack(crops)
        return found


@dataclass(frozen=True)
class GivenCrops(_Crops):
    """One given crop of each of some files; counts the crops, not the files.

    Attributes:
      chosen: int [M], index of each crop's file.
      boxes: int32 [M, 4].
    """

    chosen: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.chosen)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Crops, uint8 [n, side, side, C]."""
        images = self.files.decoded(self.chosen[indices])
        boxes = self.boxes[indices]
        channels = self.files.channels
        return np.stack(
            [cut(image, box, self.side, channels) for image, box in zip(images, boxes, strict=True)]
        )
