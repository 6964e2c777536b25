"""Whatever classes and recipes are called, pictures show it as words."""

import io
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from delt_jax.comparison import figures as comparison_figures
from delt_jax.reporting import charts, figures, run_charts, svg
from delt_jax.reporting.words import printed

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
    count = len(names)
    pixels = np.zeros((count, 2, 8, 8, 1), np.uint8)
    return [
        figures.sheet(pixels, pixels, names, [1, 2]),
        figures.nearest_sheet(pixels, pixels, np.zeros((count, 2)), names),
        comparison_figures.side_by_side(dict.fromkeys(names, pixels), names),
    ]


def chart_all(names):
    """Every kind of chart with names in it."""
    values, look = np.linspace(0.1, 0.9, len(names)), svg.Look("s0")
    curves = [charts.Curve(name, look, [(1, 0.5, 0.1), (10, 0.6, 0.1)]) for name in names]
    return [
        *run_charts.per_class_chart({"recovered": values}, names).panels,
        *run_charts.confusion_chart(np.eye(len(names), dtype=int), names).panels,
        charts.dots([(name, [charts.Dot(0.5, look)]) for name in names], "x", names[0]),
        charts.curves(curves, charts.Axes("x", names[0], log_x=True), names[0]),
        charts.key([(name, look) for name in names]),
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


def test_charts_with_any_names_are_markup_that_can_be_read():
    for panel in chart_all(HOSTILE):
        root = ElementTree.fromstring(svg.inline(panel))
        assert {e.tag for e in root.iter()} <= {
            *("svg", "g", "path", "rect", "circle", "polyline", "text")
        }
        assert all(len(e.text or "") <= 32 for e in root.iter("text"))


def test_ordinary_names_stay():
    for name in ("cat", "n02085620 Chihuahua", "große Katze", "a-b_c.d", "x" * 32):
        assert printed(name) == name


def test_long_names_are_cut():
    assert printed("x" * 33) == "x" * 31 + "…"


def test_rows_of_a_sheet_whose_names_look_alike_stay_apart():
    pixels = np.zeros((1, 2, 8, 8, 1), np.uint8)
    one = comparison_figures.side_by_side({"a\n": pixels}, ("c",))
    two = comparison_figures.side_by_side({"a\n": pixels, "a\t": pixels}, ("c",))
    assert size(two)[1] > size(one)[1]
