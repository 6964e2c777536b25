"""The report's pictures: what is drawn where, and that it follows the data."""

import io

import numpy as np
import pytest
from PIL import Image

from delt_jax.reporting import figures

GAP, TOP = 4, 22  # between cells, and above the first row


def decode(png: bytes) -> np.ndarray:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def stacks(classes: int, count: int, size: int, channels: int):
    draw = np.random.default_rng(size)
    shape = (classes, count, size, size, channels)
    return draw.integers(0, 250, shape, np.uint8), draw.integers(0, 250, shape, np.uint8)


def enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    """Nearest-neighbour upscaling, as RGB."""
    rgb = image if image.shape[-1] == 3 else np.repeat(image, 3, -1)
    return rgb.repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "scale"), [(8, 7), (28, 2), (50, 1), (64, 1)])
def test_sheet_shows_every_image_in_its_place(size, scale, channels):
    classes, count = 2, 3
    start, recovered = stacks(classes, count, size, channels)
    png = figures.sheet(start, recovered, ["zero", "one"], [300, 200, 100])
    page = decode(png)
    cell = size * scale
    pair = 2 * cell + GAP + 12
    margin = page.shape[1] - count * (cell + GAP)
    assert page.shape[0] == TOP + classes * pair
    assert margin > 12
    for c in range(classes):
        for i in range(count):
            x, y = margin + i * (cell + GAP), TOP + c * pair
            for images, top in ((start, y), (recovered, y + cell + GAP // 2)):
                np.testing.assert_array_equal(
                    page[top : top + cell, x : x + cell],
                    enlarged(images[c, i], scale),
                    err_msg=f"class {c}, image {i}",
                )
    paper = page[TOP : TOP + cell, margin + cell : margin + cell + GAP]
    np.testing.assert_array_equal(paper, 255)


def test_sheet_captions():
    start, recovered = stacks(2, 2, 8, 1)

    def page(names=("a", "b"), iterations=(20, 10)):
        return decode(figures.sheet(start, recovered, names, iterations))

    plain = page()
    margin = plain.shape[1] - 2 * 60
    assert (plain[:TOP] < 128).any()
    # The class names stand left of their rows, the iterations above their columns.
    other_name = page(names=("a", "c")) != plain
    assert other_name[TOP + 128 :, :margin].any()
    assert not other_name[: TOP + 120].any()
    assert not other_name[:, margin:].any()
    other_steps = page(iterations=(20, 30)) != plain
    assert other_steps[:TOP, margin + 60 :].any()
    assert not other_steps[TOP:].any()
    assert not other_steps[:, : margin + 60].any()
    wider = page(names=("a", "a rather long name of a class"))
    assert wider.shape[1] > plain.shape[1]
    np.testing.assert_array_equal(wider[TOP:, -120:], plain[TOP:, -120:])


def test_sheet_of_one_image():
    start, recovered = stacks(1, 1, 8, 3)
    page = decode(figures.sheet(start, recovered, ["only"], [10]))
    assert page.shape[0] == TOP + 2 * 56 + GAP + 12


def test_gallery_shows_every_image_and_names_it():
    images, _ = stacks(7, 2, 28, 3)
    names = [f"class {c}" for c in range(7)]
    page = decode(figures.gallery(images, names))
    height = 56 + 15 + 3 * GAP
    assert page.shape == (4 * height + GAP, 4 * 60 + GAP, 3)  # two classes in a line
    for k, image in enumerate(images.reshape(14, 28, 28, 3)):
        x, y = GAP + k % 4 * 60, GAP + k // 4 * height
        np.testing.assert_array_equal(page[y : y + 56, x : x + 56], enlarged(image, 2))
        assert (page[y + 60 : y + 74, x : x + 56] < 128).any()
    beneath = [[f"{c}{rank}" for rank in range(2)] for c in range(7)]
    taller = decode(figures.gallery(images, names, beneath))
    assert taller.shape[0] == page.shape[0] + 4 * 15
    blank = [["", ""]] * 7
    np.testing.assert_array_equal(decode(figures.gallery(images, names, blank)), page)


@pytest.mark.parametrize(("classes", "count", "size", "across"), [(30, 1, 224, 10), (1, 3, 300, 3)])
def test_gallery_of_large_images_is_no_wider_than_a_page(classes, count, size, across):
    images = np.full((classes, count, size, size, 3), 100, np.uint8)
    page = decode(
        figures.gallery(images, ["a name that is longer than any image is wide" * 3] * 30)
    )
    cell = min(size, 1640 // across - GAP)
    assert page.shape[:2] == (
        -(-classes * count // across) * (cell + 27) + GAP,
        across * (cell + GAP) + GAP,
    )
    np.testing.assert_array_equal(page[GAP : GAP + cell, GAP : GAP + cell], 100)


def test_nearest_sheet_shows_pairs_and_distances():
    above, below = stacks(2, 3, 8, 1)
    rms = np.array([[0.01, 0.02, 0.03], [0.11, 0.12, 0.13]])
    page = decode(figures.nearest_sheet(above, below, rms, ["a", "b"]))
    cell, pair = 56, 2 * 56 + GAP + 24
    margin = page.shape[1] - 3 * (cell + GAP)
    assert page.shape[0] == TOP + 2 * pair
    for c in range(2):
        for i in range(3):
            x, y = margin + i * (cell + GAP), TOP + c * pair
            for images, top in ((above, y), (below, y + cell + GAP // 2)):
                shown = page[top : top + cell, x : x + cell]
                np.testing.assert_array_equal(shown, enlarged(images[c, i], 7))
    # A distance stands under its pair and nowhere else.
    rms[1, 2] = 0.14
    changed = decode(figures.nearest_sheet(above, below, rms, ["a", "b"])) != page
    assert changed[TOP + pair + 2 * cell + GAP :, margin + 2 * (cell + GAP) :].any()
    assert not changed[: TOP + pair + 2 * cell + GAP].any()
    assert not changed[:, : margin + 2 * (cell + GAP)].any()


def test_a_strip_has_a_row_for_each_set_on_clear_ground():
    above, below = stacks(1, 3, 28, 3)
    strip = figures.strip("cat", "three cats", [above[0], below[0]], ["a", "b", "c"])
    with Image.open(io.BytesIO(strip.png)) as image:
        page = np.asarray(image)
    assert page.shape == (strip.height, strip.width, 4) == (2 * 60, 3 * 60, 4)
    for row, images in enumerate((above[0], below[0])):
        for i, image in enumerate(images):
            cell = page[row * 60 : row * 60 + 60, i * 60 : i * 60 + 60]
            np.testing.assert_array_equal(cell[2:-2, 2:-2, :3], enlarged(image, 2))
            assert (cell[2:-2, 2:-2, 3] == 255).all()
            assert (cell[:2, :, 3] == 0).all()
    large = figures.strip("cat", "", [np.zeros((2, 224, 224, 3), np.uint8)], ["", ""])
    assert (large.width, large.height, large.beneath) == (2 * 100, 100, ())
