"""What headers tell, and that transparent pictures are not read without a word."""

import io

import numpy as np
import pytest
from PIL import Image

from delt_jax.data import headers, open_source
from delt_jax.data.source import EncodedExamples
from delt_jax.recipe import DataRecipe


class Stored:
    """Contents in a list; keeps which were read."""

    def __init__(self, contents):
        self.contents, self.asked = contents, []

    def read(self, indices):
        self.asked += indices.tolist()
        return [self.contents[i] for i in indices]


def encoded(image, kind="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def examples_of(contents):
    names = [f"{i}.png" for i in range(len(contents))]
    labels = np.zeros(len(contents), np.int32)
    return EncodedExamples(Stored(contents), labels, names, "", 8, 3, "resize", 0)


def drawing(alpha, side=8):
    """Black, with a corner of this alpha."""
    image = Image.new("RGBA", (side, side), (0, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, alpha))
    return image


PALETTE = Image.new("P", (8, 8))
WAYS = {
    "rgba": (encoded(drawing(0)), 1, 1),
    "grey": (encoded(drawing(0).convert("LA")), 1, 1),
    "palette": (encoded(PALETTE, transparency=0), 1, 1),
    "webp": (encoded(drawing(0), "WEBP", lossless=True), 1, 1),
    "nearly opaque": (encoded(drawing(200)), 1, 0),
    "opaque": (encoded(drawing(255)), 1, 0),
    "no alpha": (encoded(drawing(0).convert("RGB")), 0, 0),
    "damaged": (encoded(drawing(0, 64))[:70], 0, 0),
    "no picture": (b"text", 0, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_see_through_is_counted(way):
    content, decoded, clear = WAYS[way]
    found = headers.look(examples_of([content]), np.array([0]))
    assert (found.decoded, found.clear) == (decoded, clear)
    assert len(found.notes) == clear


def test_sides_and_grey_are_of_what_is_asked_for_and_can_be_read():
    images = [Image.new(mode, (9, 4 + i)) for i, mode in enumerate(("L", "RGB", "1", "RGB"))]
    examples = examples_of([*map(encoded, images), b"", b"text"])
    found = headers.look(examples, np.array([0, 2, 3, 4, 5]))
    assert (found.sides, found.grey) == ((4, 6, 7), 2)
    assert examples.encoded.asked == [0, 2, 3, 4, 5]


def test_few_are_decoded():
    found = headers.look(examples_of([encoded(drawing(0))] * 50), np.arange(50))
    assert (len(found.sides), found.decoded, found.clear) == (50, 20, 20)


def folder_of(root, alpha, kind="PNG"):
    for name, shade in (("a", 10), ("b", 200)):
        (root / name).mkdir(parents=True)
        for i in range(4):
            image = Image.new("RGBA", (28, 28), (shade, i, 0, alpha))
            image.convert("RGB" if kind == "JPEG" else "RGBA").save(
                root / name / f"{i}.{kind.lower()}", kind
            )
    return root


@pytest.mark.parametrize("given", [{}, {"image_size": 16, "channels": 3}])
@pytest.mark.parametrize("alpha", [0, 255])
def test_a_folder_says_so_whatever_is_set(tmp_path, alpha, given):
    source = open_source(DataRecipe(name="folder", path=str(folder_of(tmp_path, alpha)), **given))
    said = [note for note in source.notes if "transparency is dropped" in note]
    assert len(said) == (alpha == 0)
    assert all("8 of 8 pictures" in note for note in said)


def test_no_jpeg_is_read_for_it(tmp_path, monkeypatch):
    folder_of(tmp_path, 255, "JPEG")
    looked = []
    monkeypatch.setattr(
        headers, "look", lambda _, places: looked.extend(places) or headers.Headers((), 0, 0, 0)
    )
    given = {"image_size": 16, "channels": 3}
    open_source(DataRecipe(name="folder", path=str(tmp_path), **given))
    assert looked == []
