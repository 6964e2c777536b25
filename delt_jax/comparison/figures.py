"""Sheets of the images of several sets, as PNG bytes; pure functions of arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from delt_jax.comparison.names import shared_parts
from delt_jax.reporting.figures import enlarged, image_png
from delt_jax.reporting.words import all_printed, printed

_CELL = 56  # pixels of a small image on a sheet
_PAPER, _INK = "#ffffff", "#222222"
_LONG = 100  # characters of a recipe's name, whose end tells it from others


def side_by_side(rows: Mapping[str, np.ndarray], class_names: Sequence[str]) -> bytes:
    """Draws the same classes of several sets: a row per set, n images of each class side by side.

    Args:
      rows: uint8 [classes, n, S, S, C] by the set's name, all of one shape.
      class_names: one per class.
    """
    classes, count, size = next(iter(rows.values())).shape[:3]
    cell, gap, between = size * max(1, _CELL // size), 2, 10
    font = ImageFont.load_default(13)
    shared = shared_parts([name for name in rows if name != "real"])
    names = [printed(shared.short(name), _LONG) for name in rows]
    class_names = all_printed(class_names)
    margin = 12 + max(int(font.getlength(name)) for name in names)
    step = max(
        count * (cell + gap) + between,
        *(int(font.getlength(name)) + between for name in class_names),
    )
    top = 24
    page = Image.new("RGB", (margin + classes * step, top + len(rows) * (cell + gap + 4)), _PAPER)
    pen = ImageDraw.Draw(page)
    for c, name in enumerate(class_names):
        middle = margin + c * step + count * (cell + gap) // 2
        if count * (cell + gap) < font.getlength(name):  # begins with its images
            pen.text((margin + c * step, 4), name, fill=_INK, font=font)
        else:
            pen.text((middle, 4), name, fill=_INK, font=font, anchor="mt")
    for r, (name, images) in enumerate(zip(names, rows.values(), strict=True)):
        y = top + r * (cell + gap + 4)
        pen.text((4, y + cell // 2), name, fill=_INK, font=font, anchor="lm")
        for c in range(classes):
            for i, image in enumerate(images[c]):
                page.paste(enlarged(image, cell), (margin + c * step + i * (cell + gap), y))
    return image_png(page)
