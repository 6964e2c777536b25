"""Images of sets as PNG files in memory: pure functions of arrays."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from delt_jax.reporting.words import all_printed

SHEET_CLASSES, SHEET_COLUMNS = 10, 10  # classes on a sheet, and images of each, at most
GALLERY = 100  # images of a gallery, at most
_CELL = 56  # pixels to which small images are enlarged on a sheet
_ACROSS, _FEW = 10, 20  # images in a line of a gallery; of so many or fewer half of that
_WIDEST = 1640  # pixels of a gallery, whose large images are made smaller
_INK, _PAPER = "#222222", "#ffffff"
_LARGEST = 96  # pixels of an image on a page
_MARGIN = 2  # clear pixels around an image on a page


class Strip(NamedTuple):
    """Images of a class for a page, which has the words.

    Attributes:
      name: above them.
      alt: what is to be seen.
      png: the images side by side, sets above one another, on clear ground.
      width, height: of the PNG in pixels.
      beneath: words below each column, or none.
    """

    name: str
    alt: str
    png: bytes
    width: int
    height: int
    beneath: Sequence[str] = ()


def image_png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def strip(name: str, alt: str, sets: Sequence[np.ndarray], beneath: Sequence[str] = ()) -> Strip:
    """Lays images of a class out for a page of any colour; large ones are made smaller.

    Args:
      name: above them.
      alt: what is to be seen.
      sets: uint8 [n, S, S, C] each, a row for each.
      beneath: n words below the columns, or none.
    """
    count, size = sets[0].shape[:2]
    side = min(size * max(1, _CELL // size), _LARGEST)
    cell = side + 2 * _MARGIN
    picture = Image.new("RGBA", (count * cell, len(sets) * cell))
    for row, images in enumerate(sets):
        for column, image in enumerate(images):
            place = (column * cell + _MARGIN, row * cell + _MARGIN)
            picture.paste(resized(image, side), place)
    return Strip(name, alt, image_png(picture), *picture.size, beneath if any(beneath) else ())


def enlarged(image: np.ndarray, side: int) -> Image.Image:
    """Enlarges pixels uint8 [S, S, 1 or 3] to an RGB image `side` pixels wide, unsmoothed."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def sheet(
    start: np.ndarray,
    recovered: np.ndarray,
    class_names: Sequence[str],
    iterations: Sequence[int],
    beneath: Sequence[Sequence[str]] = (),
) -> bytes:
    """Two rows per class, in the order in which images join: start images above recovered ones.

    Args:
      start, recovered: uint8 [classes, n, S, S, C].
      class_names: one per class.
      iterations: number of optimisation steps of each of a class's n images; empty where it is
        unknown.
      beneath: [classes][n] words below the images, or none.
    """
    columns = [f"{n}" for n in iterations]
    return _paired(start, recovered, class_names, columns, "iterations", beneath)


def gallery(
    images: np.ndarray, class_names: Sequence[str], beneath: Sequence[Sequence[str]] = ()
) -> bytes:
    """All images side by side, those of a class next to each other, with the class beneath.

    Args:
      images: uint8 [classes, n, S, S, C], where n is at most 10.
      class_names: one per class.
      beneath: [classes][n] words below the class's name, or none.
    """
    classes, count, size = images.shape[:3]
    class_names = all_printed(class_names)
    across = _ACROSS // 2 if classes * count <= _FEW and count <= _ACROSS // 2 else _ACROSS
    across = min(across // count, classes) * count
    gap, line, font = 4, 15, ImageFont.load_default(13)
    cell = min(size * max(1, _CELL // size), _WIDEST // across - gap)
    height = cell + line * (2 if any(map(any, beneath)) else 1) + 3 * gap
    lines = -(-classes * count // across)
    page = Image.new("RGB", (across * (cell + gap) + gap, lines * height + gap), _PAPER)
    pen = ImageDraw.Draw(page)
    for k, image in enumerate(images.reshape(classes * count, *images.shape[2:])):
        x, y = gap + k % across * (cell + gap), gap + k // across * height
        page.paste(resized(image, cell), (x, y))
        words = [class_names[k // count], *([beneath[k // count][k % count]] if beneath else ())]
        for row, word in enumerate(words):
            place = (x + cell // 2, y + cell + gap + row * line)
            pen.text(place, fitting(word, font, cell), fill=_INK, font=font, anchor="mt")
    return image_png(page)


def resized(image: np.ndarray, side: int) -> Image.Image:
    """Pixels uint8 [S, S, 1 or 3] as an RGB image `side` pixels wide, smoothed where it shrinks."""
    if side >= len(image):
        return enlarged(image, side)
    return enlarged(image, len(image)).resize((side, side), Image.Resampling.LANCZOS)


def fitting(word: str, font: Any, width: int) -> str:
    """A word, cut short with an ellipsis where it is wider than so many pixels."""
    if font.getlength(word) <= width:
        return word
    end = next(n for n in range(len(word) - 1, -1, -1) if font.getlength(word[:n] + "…") <= width)
    return word[:end] + "…"


def nearest_sheet(
    synthetic: np.ndarray, real: np.ndarray, rms: np.ndarray, class_names: Sequence[str]
) -> bytes:
    """Two rows per class: synthetic images above the nearest real ones, and how near they are.

    Args:
      synthetic, real: uint8 [classes, n, S, S, C].
      rms: float [classes, n], root mean square difference of pixels in [0, 1], printed beneath.
      class_names: one per class.
    """
    beneath = [[f"{value:.3f}" for value in line] for line in rms]
    return _paired(synthetic, real, class_names, beneath=beneath)


def _paired(
    above: np.ndarray,
    below: np.ndarray,
    class_names: Sequence[str],
    columns: Sequence[str] = (),
    columns_are: str = "",
    beneath: Sequence[Sequence[str]] = (),
) -> bytes:
    """Draws pairs of images, those of a class in a line, with words above columns or below pairs.

    Args:
      above, below: uint8 [classes, n, S, S, C].
      class_names: one per class.
      columns: n words above the columns, or none.
      columns_are: what these words are.
      beneath: [classes][n] words below the pairs, or none.
    """
    classes, count, size = below.shape[:3]
    class_names = all_printed(class_names)
    scale = max(1, _CELL // size)
    cell, gap = size * scale, 4
    font = ImageFont.load_default(13)
    margin = 12 + max(int(font.getlength(name)) for name in (*class_names, "recovered"))
    rows = (above, below)
    top, pair = 22, 2 * cell + gap + (24 if any(map(any, beneath)) else 12)
    width = margin + count * (cell + gap)
    page = Image.new("RGB", (width, top + classes * pair), _PAPER)
    pen = ImageDraw.Draw(page)
    for i, word in enumerate(columns):
        x = margin + i * (cell + gap) + cell // 2
        pen.text((x, 4), word, fill=_INK, font=font, anchor="mt")
    if columns:
        pen.text((4, 4), columns_are, fill=_INK, font=font)
    for c in range(classes):
        y = top + c * pair
        pen.text((4, y + cell - 8), class_names[c], fill=_INK, font=font)
        for row, images in enumerate(rows):
            for i, image in enumerate(images[c]):
                place = (margin + i * (cell + gap), y + row * (cell + gap // 2))
                page.paste(enlarged(image, cell), place)
        for i, word in enumerate(beneath[c] if beneath else ()):
            x = margin + i * (cell + gap) + cell // 2
            pen.text((x, y + 2 * cell + gap + 2), word, fill=_INK, font=font, anchor="mt")
    return image_png(page)
