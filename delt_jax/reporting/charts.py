"""Kinds of charts: dots in rows, curves, a matrix, and bars along an axis; functions of numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from delt_jax.reporting import svg
from delt_jax.reporting.svg import WIDTH, Element, Look, Panel
from delt_jax.reporting.words import printed

_ROW = 20  # height of a row of dots
_NAMES = 136  # width of the names of rows, at most
_RIGHT = 12  # room on the right, for half a word of the axis
_BELOW = 38  # room for the words of an axis and its title
_POINTS = 300  # of a curve; longer ones are averaged in pieces
_HEIGHT = 190  # of the field of curves
_NUMBERED = 12  # classes, up to which a matrix has numbers in its cells
NAMED = 40  # classes, up to which charts name each of them


class Dot(NamedTuple):
    """A value in a row.

    Attributes:
      value: where it lies; NaN draws nothing.
      look: of its mark.
      error: to either side.
    """

    value: float
    look: Look
    error: float = 0.0


class Curve(NamedTuple):
    """A line.

    Attributes:
      name: in the legend.
      look: of line and marks.
      points: (x, y, error) each, in the order of x.
    """

    name: str
    look: Look
    points: Sequence[tuple[float, float, float]]


class Axes(NamedTuple):
    """What the axes of curves are.

    Attributes:
      x: words below the axis.
      title: words above the field; none if empty.
      log_x, log_y: whether they are logarithmic.
      marks: places of x where vertical lines stand.
      x_ticks: places of x that have words; by default round numbers.
      has_marks: whether every point has its mark.
      beside: further points that the axes reach, such as those of panels with the same axes.
    """

    x: str
    title: str = ""
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[float] = ()
    x_ticks: Sequence[float] = ()
    has_marks: bool = True
    beside: Sequence[tuple[float, float, float]] = ()


def dots(
    rows: Sequence[tuple[str, Sequence[Dot]]],
    axis: str,
    alt: str,
    legend: Sequence[tuple[str, Look]] = (),
    title: str = "",
) -> Panel:
    """A row for every name, with its values as marks on one axis.

    Args:
      rows: names and values.
      axis: words below.
      alt: what is to be seen.
      legend: names of the marks, above.
      title: words above all; none if empty.
    """
    names = [printed(name) for name, _ in rows]
    left = min(_NAMES, max(map(svg.width_of, names))) + 10
    shapes, top = _head(title, legend)
    known = [
        end
        for _, values in rows
        for d in values
        if np.isfinite(d.value)
        for end in (d.value - d.error, d.value + d.error)
    ]
    scale = svg.linear(known, left, WIDTH - _RIGHT)
    bottom = top + _ROW * len(rows) + 2
    shapes += svg.x_axis(scale, top, bottom, [(tick, svg.short(tick)) for tick in scale.ticks()])
    for k, (name, (_, values)) in enumerate(zip(names, rows, strict=True)):
        y = top + _ROW * (k + 0.5)
        shapes.append(svg.text(svg.cut(name, _NAMES), left - 8, y + 4, text_anchor="end"))
        shown = [d for d in values if np.isfinite(d.value)]
        if len(shown) > 1:  # a thread on which the marks of a row hang
            ends = [scale(end([d.value for d in shown])) for end in (min, max)]
            shapes.append(_flat(ends[0], ends[1], y, "line", 3))
        for d in sorted(shown, key=lambda d: not d.look.hollow):  # a full mark fits in an outline
            if d.error:
                shapes.append(
                    _flat(scale(d.value - d.error), scale(d.value + d.error), y, d.look.role)
                )
            shapes += svg.marker(scale(d.value), y, d.look)
    shapes.append(svg.axis_title(axis, (left + WIDTH - _RIGHT) / 2, bottom + 33))
    return Panel(WIDTH, bottom + _BELOW, alt, shapes)


def curves(lines: Sequence[Curve], axes: Axes, alt: str, has_legend: bool = True) -> Panel:
    """Lines over one field.

    Args:
      lines: one or more.
      axes: what the axes are.
      alt: what is to be seen.
      has_legend: whether the names of the lines stand above.
    """
    listed = [(printed(c.name), c.look) for c in lines] if has_legend else []
    shapes, top = _head(axes.title, listed)
    bottom = top + _HEIGHT
    reached = [*axes.beside, *(point for c in lines for point in c.points)]
    ends = [y + sign * e for _, y, e in reached for sign in (-1, 1)]
    across = [x for x, _, _ in reached]
    y_scale = (svg.logarithmic if axes.log_y else svg.linear)(ends, bottom - 4, top + 6)
    y_ticks = [(tick, svg.short(tick)) for tick in y_scale.ticks()]
    left = 12 + max((svg.width_of(words, svg.FONT - 1) for _, words in y_ticks), default=0)
    x_scale = _x_scale(across, axes, left)
    x_ticks = [(x, svg.short(x)) for x in axes.x_ticks or x_scale.ticks()]
    shapes += svg.y_axis(y_scale, left, WIDTH - 4, y_ticks)
    shapes += svg.x_axis(x_scale, bottom, bottom + 4, x_ticks)
    for mark in axes.marks:
        x = x_scale(mark)
        shapes.append(svg.shape("path", "line", True, d=f"M{x:.2f} {top:g}V{bottom:g}"))
    for curve in lines:
        points = _thinned([(x_scale(x), y_scale(y), e) for x, y, e in curve.points])
        if len({x for x, _, _ in points}) > 1:  # not one above another
            shapes.append(svg.line([(x, y) for x, y, _ in points], curve.look))
    for curve in lines if axes.has_marks else ():
        for x, y, error in curve.points:
            if error:
                ends = [y_scale(y - error), y_scale(y + error)]
                d = f"M{x_scale(x):.2f} {ends[0]:.2f}V{ends[1]:.2f}"
                shapes.append(svg.shape("path", curve.look.role, True, d=d))
            shapes += svg.marker(x_scale(x), y_scale(y), curve.look)
    shapes.append(svg.axis_title(axes.x, (left + WIDTH) / 2, bottom + 33))
    return Panel(WIDTH, bottom + _BELOW, alt, shapes)


def _x_scale(across: Sequence[float], axes: Axes, left: float) -> svg.Scale:
    """The scale of x: to the ends of a line without marks, with air around marks."""
    air = 14 if axes.has_marks else 0
    start, end = left + air, WIDTH - 12.0
    if axes.log_x:
        return svg.logarithmic(across, start, end)
    if axes.has_marks:
        return svg.linear(across, start, end)
    return svg.Scale(min(across), max(across), start, end)


def _thinned(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Points of a curve, neighbours averaged where there are more than the screen shows."""
    if len(points) <= _POINTS:
        return points
    pieces = np.array_split(np.asarray(points), _POINTS)
    means = (piece.mean(axis=0) for piece in pieces)
    return [(float(x), float(y), float(error)) for x, y, error in means]


def matrix(shares: np.ndarray, names: Sequence[str], alt: str) -> Panel:
    """Shares in [0, 1] as cells, the darker the larger: a row for each class, answers across.

    Args:
      shares: float [classes, classes].
      names: one per class.
      alt: what is to be seen.
    """
    classes = len(names)
    words = [printed(name) for name in names]
    is_named = classes <= NAMED
    widest = min(84.0, max(map(svg.width_of, words))) if is_named else 0.0
    left = 10 + widest
    side = (WIDTH - left - 4) / classes
    is_turned = widest > side - 2
    below = 14.0 + (widest if is_turned else 14.0 * is_named)
    size = min(svg.FONT - 1.0, max(5.0, 0.9 * side))
    shapes = []
    field: dict[str, Any] = {"x": left, "y": 1, "width": side * classes, "height": side * classes}
    shapes.append(svg.shape("rect", "line", True, **field))
    for c, answer in np.argwhere(shares >= 0.005):
        x, y = left + side * int(answer), 1 + side * int(c)
        at: dict[str, Any] = {"x": x, "y": y, "width": side, "height": side}
        shapes.append(svg.shape("rect", "heat", fill_opacity=float(shares[c, answer]), **at))
        if classes <= _NUMBERED:
            number = f"{100 * shares[c, answer]:.0f}"
            place = (x + side / 2, y + side / 2 + 4)
            shapes.append(svg.text(number, *place, text_anchor="middle", font_size=svg.FONT - 1))
    for c, name in enumerate(words if is_named else ()):
        middle, name = side * (c + 0.5), svg.cut(name, 84, size)
        beside = (left - 6, 1 + middle + size / 3)
        shapes.append(svg.text(name, *beside, text_anchor="end", font_size=size))
        x, y = left + middle, 1 + side * classes + 7
        below_it: dict[str, Any] = {"dy": 8, "text_anchor": "middle"}
        if is_turned:
            below_it = {"dy": size / 3, "text_anchor": "end"}
            below_it["transform"] = f"rotate(-90 {x:.2f} {y:.2f})"
        shapes.append(svg.text(name, x, y, font_size=size, **below_it))
    height = 1 + side * classes + below
    shapes.append(svg.axis_title("answer", left + side * classes / 2, height + 12))
    return Panel(WIDTH, height + 18, alt, shapes)


def spans(
    bars: Sequence[tuple[float, float, float, float]],
    size: tuple[float, float],
    axis: str,
    alt: str,
) -> Panel:
    """Bars in a field, the first image above all others.

    Args:
      bars: start, end, first row and number of rows of each.
      size: ends of the axis and number of rows.
      axis: words below.
      alt: what is to be seen.
    """
    left, top, bottom = 34.0, 4.0, 150.0
    scale = svg.Scale(0, size[0], left, WIDTH - _RIGHT)
    down = svg.Scale(0, size[1], top, bottom)
    shapes = [*svg.x_axis(scale, top, bottom, [(t, svg.short(t)) for t in scale.ticks()])]
    for start, end, row, count in bars:
        place: dict[str, Any] = {"x": scale(start), "y": down(row)}
        extent: dict[str, Any] = {
            "width": scale(end) - scale(start),
            "height": down(row + count) - down(row),
        }
        shapes.append(svg.shape("rect", "s0", **place, **extent))
    ends = [(0.0, "1"), (size[1], str(int(size[1])))]
    for value, words in ends:
        y = down(value) + (9 if not value else 0)
        shapes.append(svg.text(words, left - 6, y, "soft", text_anchor="end", font_size=11))
    shapes.append(svg.axis_title(axis, (left + WIDTH - _RIGHT) / 2, bottom + 33))
    return Panel(WIDTH, bottom + _BELOW, alt, shapes)


def key(entries: Sequence[tuple[str, Look]]) -> Panel:
    """A legend as a panel of its own, for panels that share it."""
    named = [(printed(name), look) for name, look in entries]
    shapes, height = svg.legend(named, WIDTH)
    alt = f"Legend: {', '.join(name for name, _ in named)}."
    return Panel(WIDTH, height + 2, alt, shapes)


def mean_of(values: np.ndarray) -> str:
    """The mean of those values that are known, in words."""
    known = np.asarray(values)[np.isfinite(values)]
    return number(float(known.mean())) if len(known) else "unknown"


def number(value: float) -> str:
    """A value of an axis in words: of percents one decimal, of fractions three."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"


def _head(title: str, legend: Sequence[tuple[str, Look]]) -> tuple[list[Element], float]:
    """Words and legend above a field, and where the field begins."""
    shapes: list[Element] = []
    top = 4.0
    if title:
        words = svg.cut(printed(title), WIDTH)
        shapes.append(svg.text(words, 0, 13, font_weight="600"))
        top = 24.0
    if legend:
        marks, height = svg.legend(legend, WIDTH)
        group = Element("g", {"transform": f"translate(0 {top:g})"})
        group.extend(marks)
        shapes.append(group)
        top += height + 4
    return shapes, top


def _flat(start: float, end: float, y: float, role: str, stroke: float = 1.4) -> Element:
    d = f"M{start:.2f} {y:.2f}H{end:.2f}"
    return svg.shape("path", role, True, d=d, stroke_width=stroke)
