"""Whatever classes and recipes are called, pictures show it as words."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from delt_jax.comparison import figures as comparison_figures
from delt_jax.reporting import figures
from delt_jax.reporting.words import charted, printed

HOSTILE = (
    "cost_$5_to_$10",
    r"$\frac",
    r"\$\frac{1}{2}$",
    "$$",
    "_hidden",
    "two\nlines",
    "tab\tnul\0bell\a",
    "x" * 3000,
    "\N{DOG FACE}\N{ZERO WIDTH JOINER}\N{SNOWFLAKE}\N{VARIATION SELECTOR-16}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "كلب",
    "强い犬",
    "%s {0} <b> & | `",
    "\udcff",
    "",
    " ",
)


@pytest.fixture(autouse=True)
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def size(png: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image.size


def draw_all(names):
    """Every picture with names of classes in it."""
    count, values = len(names), np.linspace(0.1, 0.9, len(names))
    pixels = np.zeros((count, 2, 8, 8, 1), np.uint8)
    curve, lines = [(1, 0.5, 0.1), (10, 0.6, 0.1)], dict.fromkeys(names, values)
    return [
        figures.similarity_chart({"real": values, "recovered": values}, names),
        figures.per_class_chart({"recovered": values}, names),
        figures.confusion_chart(np.eye(count, dtype=int), names),
        figures.sheet(pixels, pixels, names, [1, 2]),
        figures.nearest_sheet(pixels, pixels, np.zeros((count, 2)), names),
        figures.ipc_chart({f"{name}, hard": curve for name in names}),
        comparison_figures.diversity_chart({"IPC 1": {"real": values} | lines}, names),
        comparison_figures.accuracy_chart(
            {f"{names[0]}, hard": dict.fromkeys(names, curve)}, [], ""
        ),
        comparison_figures.side_by_side(dict.fromkeys(names, pixels), names),
    ]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_any_name_can_be_drawn(name, capfd):
    for picture in draw_all((name, "other")):
        width, height = size(picture)
        assert max(width, height) < 4000
    assert capfd.readouterr() == ("", "")


def test_all_hostile_names_at_once(capfd):
    assert all(max(size(picture)) < 8000 for picture in draw_all(HOSTILE))
    assert capfd.readouterr() == ("", "")


def test_dollars_are_drawn_as_they_are():
    """matplotlib finds no formula in a charted name, and shows the name itself."""
    from matplotlib.text import Text

    for name in ("cost_$5_to_$10", r"$\frac", r"\$5$", "$"):
        shown, is_formula = Text(0, 0, "")._preprocess_math(charted(name))
        assert (shown, bool(is_formula)) == (name, False)


def test_ordinary_names_stay():
    for name in ("cat", "n02085620 Chihuahua", "große Katze", "a-b_c.d", "x" * 32):
        assert printed(name) == charted(name) == name


def test_long_names_are_cut_and_recipes_keep_their_ends():
    assert printed("x" * 33) == "x" * 31 + "…"
    curve = [(1, 0.5, 0.1)]
    lines = {f"configs/a:{'y' * 60}{end}": curve for end in ("one", "two")}
    assert comparison_figures.accuracy_chart({"hard": lines}, [], "x")


def test_rows_of_a_sheet_whose_names_look_alike_stay_apart():
    pixels = np.zeros((1, 2, 8, 8, 1), np.uint8)
    one = comparison_figures.side_by_side({"a\n": pixels}, ("c",))
    two = comparison_figures.side_by_side({"a\n": pixels, "a\t": pixels}, ("c",))
    assert size(two)[1] > size(one)[1]
