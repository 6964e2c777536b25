"""Drawings as SVG: shapes, words, scales and markers; their colours are those of the page.

A shape has the class of a colour's role and draws in `currentColor`, so that one drawing serves
light and dark screens, inside a page and in a file of its own.
"""

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from delt_jax.reporting import colours

Element = ElementTree.Element
FONT = 12  # size of words, in units of which a panel is `WIDTH` wide
WIDTH = 340  # of a panel: about that of a phone's screen in pixels
_NAMESPACE = "http://www.w3.org/2000/svg"
_BETWEEN = 16  # panels of a file
_NARROW, _WIDE = "fijlrtI.,:;|'!()[] ", "mwMW@%—"
MARKERS = ("circle", "square", "diamond", "up", "down", "cross")


class Panel(NamedTuple):
    """One drawing.

    Attributes:
      width, height: its size in units.
      alt: what is to be seen, for those who cannot see it.
      shapes: what is drawn, in this order.
    """

    width: float
    height: float
    alt: str
    shapes: list[Element]


class Chart(NamedTuple):
    """Panels that belong together, with words.

    Attributes:
      title: heading.
      caption: what the reader must know to read it.
      panels: one or more.
      key: their legend, where they share one.
    """

    title: str
    caption: str
    panels: list[Panel]
    key: Panel | None = None


class Look(NamedTuple):
    """How a series is drawn.

    Attributes:
      role: of its colour.
      marker: one of `MARKERS`.
      hollow: whether markers are outlines and lines are dashed, as those of real images are.
    """

    role: str
    marker: str = "circle"
    hollow: bool = False


class Scale(NamedTuple):
    """Places of values along an axis.

    Attributes:
      low, high: ends of the range of values.
      start, end: their places.
      logarithmic: whether equal ratios are equally long. 0 then has a place before all others.
      least: the smallest value above 0, of a logarithmic scale.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    least: float = 1.0

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, start = self.low, self.high, self.start
        if self.logarithmic:
            if low <= 0:
                if value <= 0:
                    return start
                low, start = self.least, start + 0.14 * (self.end - start)
            low, high, value = (float(np.log10(x)) for x in (low, high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return start + share * (self.end - start)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        if not self.logarithmic:
            return round_steps(self.low, self.high)
        if self.low > 0:
            return round_numbers(self.low, self.high)
        return [0.0, *round_numbers(self.least, self.high)]


def linear(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale with some air beyond all values, which are not NaN."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    air = 0.06 * (high - low) or max(0.02 * abs(high), 1e-6)
    return Scale(low - air, high + air, start, end)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale of positive values, or of such and 0."""
    positive = [value for value in values if value > 0]
    if not positive:
        return linear(values, start, end)
    low = 0.0 if min(values) <= 0 else min(positive)
    return Scale(low, max(positive), start, end, True, min(positive))


def round_steps(low: float, high: float, most: int = 6) -> list[float]:
    """Ticks of a linear axis, at most so many, whose distance is 1, 2 or 5 times a power of ten.

    >>> round_steps(0.3, 10.2), round_steps(0, 0)
    ([2.0, 4.0, 6.0, 8.0, 10.0], [0.0])
    """
    if low == high:
        return [float(low)]
    power = 10.0 ** np.floor(np.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most)
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(n * step) for n in range(first, last + 1)]


def round_numbers(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, or powers alone if these do.

    Between numbers that are nearer to each other they are as those of a linear axis.

    >>> round_numbers(1200, 21000), round_numbers(3, 5000), round_numbers(11, 19)
    ([2000.0, 5000.0, 10000.0, 20000.0], [10.0, 100.0, 1000.0], [12.0, 14.0, 16.0, 18.0])
    """
    if low == high:
        return [low]
    decades = range(int(np.floor(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    found = [tick for tick in ticks if low <= tick <= high]
    return found if len(found) > 1 else round_steps(low, high)


def short(value: float) -> str:
    """A number in few characters.

    >>> [short(x) for x in (0.25, 1500, 20_000, 4.8e6)]
    ['0.25', '1.5k', '20k', '4.8M']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def width_of(words: str, size: float = FONT) -> float:
    """About how wide words are drawn."""

    def share(character: str) -> float:
        if unicodedata.east_asian_width(character) in "WF":
            return 1.0
        if character in _NARROW:
            return 0.36
        return 0.88 if character in _WIDE else 0.7 if character.isupper() else 0.63

    return size * sum(map(share, words))


def cut(words: str, width: float, size: float = FONT) -> str:
    """Words, with an ellipsis at their end where they are wider."""
    if width_of(words, size) <= width:
        return words
    ends = range(len(words) - 1, -1, -1)
    return next((words[:n] + "…" for n in ends if width_of(words[:n] + "…", size) <= width), "…")


def shape(tag: str, role: str, outline: bool = False, **attributes: Any) -> Element:
    """A filled shape or an outline; "_" in the name of an attribute stands for "-"."""
    drawn = {"class": role}
    drawn |= {"fill": "none", "stroke": "currentColor"} if outline else {"fill": "currentColor"}
    named = {name.replace("_", "-"): _plain(value) for name, value in attributes.items()}
    return Element(tag, drawn | named)


def text(words: str, x: float, y: float, role: str = "ink", **attributes: Any) -> Element:
    """Words whose base line begins at a point, or as `text_anchor` says."""
    found = shape("text", role, x=x, y=y, **attributes)
    found.text = words
    return found


def line(points: Sequence[tuple[float, float]], look: Look, stroke: float = 1.6) -> Element:
    """Points joined by straight lines."""
    listed = " ".join(f"{_plain(x)},{_plain(y)}" for x, y in points)
    dashes: dict[str, Any] = {"stroke_dasharray": "4 3"} if look.hollow else {}
    return shape(
        *("polyline", look.role, True),
        points=listed,
        stroke_width=stroke,
        stroke_linejoin="round",
        **dashes,
    )


def marker(x: float, y: float, look: Look) -> list[Element]:
    """The mark of a series at a point; an outline is large enough for a full mark within."""
    r = 4.8 if look.hollow else 3.6
    at = f"translate({_plain(x)} {_plain(y)})"
    sides = {
        "square": f"M{-r:g} {-r:g}H{r:g}V{r:g}H{-r:g}Z",
        "diamond": f"M0 {-1.35 * r:g}L{1.35 * r:g} 0L0 {1.35 * r:g}L{-1.35 * r:g} 0Z",
        "up": f"M0 {-1.2 * r:g}L{1.2 * r:g} {r:g}H{-1.2 * r:g}Z",
        "down": f"M0 {1.2 * r:g}L{1.2 * r:g} {-r:g}H{-1.2 * r:g}Z",
        "cross": f"M{-r:g} {-r:g}L{r:g} {r:g}M{-r:g} {r:g}L{r:g} {-r:g}",
    }
    if look.marker == "cross":
        return [shape("path", look.role, True, d=sides["cross"], transform=at, stroke_width=2.2)]

    def drawn(role: str, outline: bool = False, **attributes: float) -> Element:
        if look.marker == "circle":
            return shape("circle", role, outline, cx=x, cy=y, r=1.1 * r, **attributes)
        return shape("path", role, outline, d=sides[look.marker], transform=at, **attributes)

    if look.hollow:  # what lies behind must not show
        return [drawn("card"), drawn(look.role, True, stroke_width=1.8)]
    return [drawn(look.role)]


def legend(entries: Sequence[tuple[str, Look]], width: float) -> tuple[list[Element], float]:
    """Marks with their names, in as many lines as they need; and the height of these."""
    shapes: list[Element] = []
    x, y, row = 0.0, 0.0, FONT + 7
    for name, look in entries:
        name = cut(name, width - 20)
        if x and x + 18 + width_of(name) > width:
            x, y = 0.0, y + row
        shapes += [*marker(x + 6, y + 8, look), text(name, x + 16, y + 12)]
        x += 16 + width_of(name) + 18
    return shapes, y + row


def x_axis(
    scale: Scale, top: float, bottom: float, ticks: Sequence[tuple[float, str]]
) -> list[Element]:
    """Vertical lines with words beneath, but for words that would touch their neighbours.

    Args:
      scale: of the axis.
      top, bottom: ends of the lines.
      ticks: values and words, in ascending order.
    """
    shapes, free = [], -np.inf
    for value, words in ticks:
        x, half = scale(value), width_of(words, FONT - 1) / 2
        if x - half < free:
            continue
        free = x + half + 6
        shapes.append(shape("path", "line", True, d=f"M{_plain(x)} {_plain(top)}V{_plain(bottom)}"))
        shapes.append(_small(words, x, bottom + 15, text_anchor="middle"))
    return shapes


def y_axis(
    scale: Scale, left: float, right: float, ticks: Sequence[tuple[float, str]]
) -> list[Element]:
    """Horizontal lines with words before them; the arguments are as those of `x_axis`."""
    shapes, free = [], np.inf
    for value, words in ticks:
        y = scale(value)
        if y + 7 > free:
            continue
        free = y - 7
        shapes.append(shape("path", "line", True, d=f"M{_plain(left)} {_plain(y)}H{_plain(right)}"))
        shapes.append(_small(words, left - 6, y + 4, text_anchor="end"))
    return shapes


def axis_title(words: str, x: float, y: float) -> Element:
    """Words around a point below an axis."""
    return _small(words, x, y, text_anchor="middle")


def _small(words: str, x: float, y: float, **attributes: Any) -> Element:
    return text(words, x, y, "soft", font_size=FONT - 1, **attributes)


def inline(panel: Panel) -> str:
    """The drawing as an element of a page."""
    root = Element("svg", {"class": "panel", "role": "img", "aria-label": panel.alt})
    root.set("viewBox", f"0 0 {_plain(panel.width)} {_plain(panel.height)}")
    root.set("font-size", str(FONT))
    root.extend(panel.shapes)
    return ElementTree.tostring(root, encoding="unicode")


def as_file(chart: Chart) -> bytes:
    """The chart as a file of its own, panels side by side."""
    panels = [*chart.panels, *([chart.key] if chart.key else [])]
    width = sum(panel.width for panel in panels) + _BETWEEN * (1 + len(panels))
    height = max(panel.height for panel in panels) + 2 * _BETWEEN
    root = Element("svg", {"xmlns": _NAMESPACE, "viewBox": f"0 0 {_plain(width)} {_plain(height)}"})
    root.set("width", _plain(width))
    root.set("height", _plain(height))
    root.set("font-family", "system-ui, 'DejaVu Sans', sans-serif")
    root.set("font-size", str(FONT))
    named = ElementTree.SubElement(root, "title")
    named.text = chart.title
    style = ElementTree.SubElement(root, "style")
    style.text = colours.rules()
    root.append(shape("rect", "card", width="100%", height="100%"))
    widths = [panel.width + _BETWEEN for panel in panels]
    for x, panel in zip(itertools.accumulate(widths, initial=_BETWEEN), panels, strict=False):
        place = {"transform": f"translate({_plain(x)} {_BETWEEN})"}
        ElementTree.SubElement(root, "g", place).extend(panel.shapes)
    return ElementTree.tostring(root, encoding="unicode").encode() + b"\n"


def _plain(value: float | str) -> str:
    """A number with at most two decimals."""
    if isinstance(value, str):
        return value
    digits = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits
