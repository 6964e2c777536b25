"""What some pictures tell before all are decoded: their sides, whether they are grey, or clear."""

import contextlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from delt_jax.data.fit import is_grey
from delt_jax.data.source import EncodedExamples
from delt_jax.store import pictures
from delt_jax.store.pictures import UnreadableError

_AT_ONCE = 20  # pictures in memory
_DECODED = 20  # pictures with an alpha channel that are decoded, to see whether it matters
_DECODED_PIXELS = 2**24  # of the largest of them


class Headers(NamedTuple):
    """Of those pictures that can be read.

    Attributes:
      sides: shorter sides in pixels.
      grey: how many are grey.
      decoded: how many with an alpha channel were decoded.
      clear: how many of these have parts that are see-through.
    """

    sides: tuple[int, ...]
    grey: int
    decoded: int
    clear: int

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where transparency is lost."""
        return pictures.transparency_notes(self.clear, self.decoded)


def look(examples: EncodedExamples, places: np.ndarray) -> Headers:
    """Reads the headers of the pictures at `places`, int [n]; of others it says nothing.

    What cannot be read is passed over: it is named when it is decoded.
    """
    sides, grey = [], 0
    alphas: list[int | None] = []
    for picture in _opened(examples, places):
        sides.append(min(picture.size))
        grey += is_grey(picture.mode)
        small = picture.width * picture.height <= _DECODED_PIXELS
        if picture.has_transparency_data and small and len(alphas) < _DECODED:
            with contextlib.suppress(UnreadableError), pictures.as_unreadable():
                alphas.append(pictures.least_alpha(picture))
    clear, decoded = pictures.see_through(alphas)
    return Headers(tuple(sides), grey, decoded, clear)


def _opened(examples: EncodedExamples, places: np.ndarray) -> Iterator[Image.Image]:
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        for i, content in zip(some, examples.encoded.read(some), strict=True):
            with contextlib.suppress(UnreadableError, OSError):
                if isinstance(content, bytes):
                    name = examples.names[int(i)]
                    yield pictures.open_picture(io.BytesIO(content), name, examples.most_pixels)
