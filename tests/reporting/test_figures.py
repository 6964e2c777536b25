"""The report's pictures: what is drawn where, and that it follows the data."""

import io

import chex
import numpy as np
import pytest
from PIL import Image

from delt_jax.recovery.schedule import make_schedule
from delt_jax.recovery.types import Losses
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


def losses(offset: float = 0.0) -> Losses:
    draw = np.random.default_rng(0)
    values = [draw.uniform(1, 2, (2, 30)).astype(np.float32) + offset for _ in range(3)]
    values[2][1, 20:] = np.nan  # a shorter batch
    return Losses(*values, np.zeros((2, 30), np.float32))


def check_changes(draw, *different):
    """`draw` gives pictures; the same data draw the same one, others another."""
    pages = [decode(draw(data)) for data in different]
    chex.assert_trees_all_equal(decode(draw(different[0])), pages[0])
    for page in pages:
        assert min(page.shape[:2]) > 200
        assert (page == 255).all(-1).mean() > 0.2  # on white paper
        assert (page != 255).any()
    for other in pages[1:]:
        assert other.shape != pages[0].shape or (other != pages[0]).any()


@pytest.mark.filterwarnings("error")
def test_loss_curves():
    only_bn = losses()._replace(bn=losses().bn * 3)
    check_changes(
        lambda data: figures.loss_curves(*data),
        (losses(), [0, 10]),
        (only_bn, [0, 10]),
        (losses(), [0, 20]),
    )


@pytest.mark.filterwarnings("error")
def test_every_term_has_a_curve():
    """Where a file has them; sets of older versions have the sum alone."""
    ours = losses()
    summed = ours._replace(further=ours.bn)
    one = summed._replace(terms={"first": ours.bn})
    two = summed._replace(terms={"first": ours.bn, "outside.terms:SECOND": -ours.loss})
    check_changes(lambda data: figures.loss_curves(data, [0]), ours, summed, one, two)
    unknown = one._replace(terms={"first": np.full_like(ours.bn, np.nan)})
    chex.assert_trees_all_equal(figures.loss_curves(unknown, [0]), figures.loss_curves(summed, [0]))


def ink(page: np.ndarray, colour: str) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((page == rgb).all(-1).sum())


def test_schedule_chart():
    early_late = make_schedule(2, 5, 400, 100, 100)
    full = make_schedule(2, 5, 400, 0, 100)
    check_changes(figures.schedule_chart, early_late, full, make_schedule(2, 5, 400, 200, 100))
    blue = figures.COLOURS["recovered"]
    shares = [ink(decode(figures.schedule_chart(s)), blue) for s in (early_late, full)]
    paid = early_late[0].image_iterations / full[0].image_iterations
    assert shares[0] / shares[1] == pytest.approx(paid, abs=0.05)


def test_schedule_chart_shows_the_first_batch():
    one = figures.schedule_chart(make_schedule(2, 10, 400, 50, 10))
    assert one == figures.schedule_chart(make_schedule(1, 10, 400, 50, 10))


def similarity(**changed) -> dict[str, np.ndarray]:
    values = {"real": [0.5, 0.6, 0.7], "start": [0.55, 0.5, 0.65], "recovered": [0.7, 0.8, 0.9]}
    return {k: np.array(v) for k, v in (values | changed).items()}


@pytest.mark.filterwarnings("error")
def test_similarity_chart():
    names = ["zero", "one", "two"]
    check_changes(
        lambda data: figures.similarity_chart(data, names),
        similarity(),
        similarity(recovered=[0.7, 0.8, 0.6]),
        similarity(start=[0.55, np.nan, 0.65]),
    )
    check_changes(lambda n: figures.similarity_chart(similarity(), n), names, ["zero", "one", "x"])
    page = decode(figures.similarity_chart(similarity(), names))
    for colour in figures.COLOURS.values():
        assert ink(page, colour) > 500


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [3, 60])
def test_per_class_chart(classes):
    draw = np.random.default_rng(0)
    names = [f"class {c}" for c in range(classes)]
    all_three = {name: draw.uniform(size=classes) for name in ("recovered", "random", "full")}
    two = {name: all_three[name] for name in ("recovered", "random")}
    unknown = two | {"random": np.where(np.arange(classes) == 1, np.nan, two["random"])}
    check_changes(lambda data: figures.per_class_chart(data, names), all_three, two, unknown)
    page = decode(figures.per_class_chart(all_three, names))
    for name in all_three:
        assert ink(page, figures.COLOURS[name]) > 100


def test_per_class_bars_are_as_high_as_the_accuracies():
    def area(accuracy):
        page = decode(figures.per_class_chart({"recovered": np.full(4, accuracy)}, list("abcd")))
        return ink(page, figures.COLOURS["recovered"])  # and the legend, which is always the same

    assert (area(0.8) - area(0.2)) / (area(0.5) - area(0.2)) == pytest.approx(2, abs=0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 20, 60])
def test_confusion_chart(classes):
    names = [f"class {c}" for c in range(classes)]
    right = 10 * np.eye(classes, dtype=int)
    one_wrong = right.copy()
    one_wrong[0] = [0, 10] + [0] * (classes - 2)
    empty = right.copy()
    empty[1] = 0
    check_changes(lambda data: figures.confusion_chart(data, names), right, one_wrong, empty)
    assert figures.confusion_chart(right, names) == figures.confusion_chart(3 * right, names)


@pytest.mark.filterwarnings("error")
def test_ipc_chart():
    line = [(1, 0.5, 0.02), (5, 0.7, 0.01), (10, 0.8, 0.0)]
    check_changes(
        figures.ipc_chart,
        {"conv3, online": line},
        {"conv3, online": [(1, 0.6, 0.02), *line[1:]]},
        {"conv3, online": [(1, 0.5, 0.1), *line[1:]]},
        {"conv3, online": [(2, 0.5, 0.02), *line[1:]]},
        {"conv3, online": line, "conv3, hard": line[1:]},
    )
