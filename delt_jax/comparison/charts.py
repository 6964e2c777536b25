"""Charts of a comparison: accuracy over images, compute and bytes, and diversity of classes."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from delt_jax.comparison.names import SharedParts, shared_parts
from delt_jax.comparison.tables import CellResult, Line, lines
from delt_jax.evaluation import verdict
from delt_jax.reporting import charts, svg
from delt_jax.reporting.charts import Axes, Curve, Dot
from delt_jax.reporting.colours import SERIES
from delt_jax.reporting.svg import Chart, Look, Panel

_TOLD = 4  # sets that the words of a panel name

CurvePoints = Sequence[tuple[float, float, float]]  # x, mean and deviation in % of each point
Panels = Mapping[tuple[str, str], Mapping[str, CurvePoints]]  # by student and labels, by name


def looks(names: Sequence[str], baselines: Collection[str]) -> dict[str, Look]:
    """How each set is drawn in all charts; real images have outlines and dashed lines."""
    colours, marks = SERIES, svg.MARKERS
    return {
        name: Look(colours[k % len(colours)], marks[k % len(marks)], name in baselines)
        for k, name in enumerate(names)
    }


def of_cells(cells: Sequence[CellResult]) -> dict[str, Chart]:
    """Charts by name: accuracy of the first student over IPC, compute and bytes; diversity.

    Args:
      cells: that are finished.
    """
    listed = lines(cells)
    first = [line for line in listed if line.row.student == listed[0].row.student and line.row.ipc]
    baselines = {line.row.image_set for line in first if line.is_baseline}
    drawn = looks(list(dict.fromkeys(line.row.image_set for line in first)), baselines)
    shared = shared_parts([cell.method for cell in cells])
    whole = [line for line in first if line.is_baseline or line.row.ipc == line.cell.ipc]
    sized = sorted(
        (line for line in first if line.size is not None), key=lambda line: line.size or 0
    )
    found = {
        "accuracy_ipc": _over_ipc(points(first, lambda line: line.row.ipc), drawn, shared),
        "accuracy_bytes": _over(
            points(sized, lambda line: line.size or 0),
            (drawn, shared),
            "bytes",
            "Accuracy against bytes",
            "Bytes of images and labels; online labels count the weights of the teachers.",
        ),
        "accuracy_compute": _over(
            points([line for line in whole if _paid(line) is not None], lambda x: _paid(x) or 0),
            (drawn, shared),
            "image-iterations",
            "Accuracy against compute",
            "Image-iterations of synthesis, which real images do without.",
        ),
        "diversity": _diversity(cells, shared),
    }
    return {name: chart for name, chart in found.items() if chart.panels}


def points(
    listed: Sequence[Line], x: Callable[[Line], float]
) -> dict[tuple[str, str], dict[str, list[tuple[float, float, float]]]]:
    """Points of curves by name, by student and labels; accuracies in %."""
    panels: dict[tuple[str, str], dict[str, list[tuple[float, float, float]]]] = {}
    for line in listed:
        panel = panels.setdefault((line.row.student, line.row.regime), {})
        point = (x(line), 100 * line.row.last_mean, 100 * line.row.last_std)
        panel.setdefault(line.row.image_set, []).append(point)
    return panels


def _paid(line: Line) -> int | None:
    """Image-iterations of synthesis; None of imported sets, and learned ones, whose cost more."""
    if line.is_baseline:
        return 0
    is_learned = "learned" in line.cell.summary
    return None if is_learned else line.cell.summary.get("image_iterations")


def _title(student: str, regime: str) -> str:
    return f"{student}, {verdict.labels(regime)}"


def _ranked(curves: Mapping[str, CurvePoints], shared: SharedParts) -> str:
    """The best sets of a panel in words, each by its best point."""
    best = sorted(((max(p[1] for p in line), name) for name, line in curves.items()), reverse=True)
    named = ", ".join(f"{shared.short(name)} {value:.1f}" for value, name in best[:_TOLD])
    more = len(best) - _TOLD
    return f"Highest accuracies in percent: {named}{f', then {more} more' * (more > 0)}."


def _over_ipc(panels: Panels, drawn: Mapping[str, Look], shared: SharedParts) -> Chart:
    """Curves over images per class; of a single number a row for each set, the best on top."""
    numbers = sorted({x for lines in panels.values() for line in lines.values() for x, *_ in line})
    caption = (
        "Accuracy after the last epoch; outlines: real images. Bars: standard deviation over seeds."
    )
    if len(numbers) > 1:
        axis = "images per class"
        return _over(panels, (drawn, shared), axis, "Accuracy", caption, numbers)
    found = []
    for (student, regime), sets in panels.items():
        title = _title(student, regime)
        best = sorted(sets.items(), key=lambda item: -item[1][0][1])
        rows = [
            (shared.short(name), [Dot(value, drawn[name], error)])
            for name, ((_, value, error), *_) in best
        ]
        axis = f"accuracy, %, at {numbers[0]:g} image{'s' * (numbers[0] != 1)} per class"
        found.append(charts.dots(rows, axis, f"{title}. {_ranked(sets, shared)}", (), title))
    return Chart("Accuracy", caption, found)


def _over(
    panels: Panels,
    look: tuple[Mapping[str, Look], SharedParts],
    axis: str,
    title: str,
    caption: str,
    ticks: Sequence[float] = (),
) -> Chart:
    """Accuracy over a quantity: a panel for each kind of labels, on equal axes.

    Args:
      panels: their curves.
      look: how sets are drawn, and what their names share.
      axis: the quantity.
      title, caption: of the chart.
      ticks: places with words; by default round numbers.
    """
    drawn, shared = look
    found: list[Panel] = []
    every = [point for sets in panels.values() for line in sets.values() for point in line]
    for (student, regime), sets in panels.items():
        above = _title(student, regime)
        curves = [Curve(shared.short(name), drawn[name], line) for name, line in sets.items()]
        axes = Axes(f"{axis}; accuracy, %", above, log_x=True, x_ticks=ticks, beside=every)
        alt = f"{above}, over {axis}. {_ranked(sets, shared)}"
        found.append(charts.curves(curves, axes, alt, has_legend=False))
    names = dict.fromkeys(name for sets in panels.values() for name in sets)
    return Chart(title, caption, found, charts.key([(shared.short(n), drawn[n]) for n in names]))


def _diversity(cells: Sequence[CellResult], shared: SharedParts) -> Chart:
    """Similarity within each class, of cells with the first one's: a panel for each IPC."""
    classes = cells[0].summary["class_names"]
    sets = similarities(cells)
    names = [n for n in dict.fromkeys(n for panel in sets.values() for n in panel) if n != "real"]
    drawn = looks(names, ()) | {"real": Look("s7", "diamond", True)}
    panels = []
    for ipc, values in sets.items():
        means = ", ".join(f"{shared.short(n)} {charts.mean_of(v)}" for n, v in values.items())
        alt = f"Similarity within {len(classes)} classes at {ipc} images per class; means: {means}."
        panels.append(_similarities(values, drawn, classes, f"IPC {ipc}", alt))
    caption = "Similarity of teacher features within a class; lower is more diverse."
    entries = [(shared.short(n), drawn[n]) for n in (*names, "real")]
    return Chart("Diversity", caption, panels, charts.key(entries))


def similarities(cells: Sequence[CellResult]) -> dict[int, dict[str, np.ndarray]]:
    """Similarity within each class by method, by IPC, of cells with the first one's classes.

    Returns:
      float [classes] each, NaN where it is not known; "real" is the yardstick.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for cell in sorted(cells, key=lambda c: c.ipc):
        similar = cell.summary["similarity_per_class"]
        if similar and cell.summary["class_names"] == cells[0].summary["class_names"]:
            panel = found.setdefault(cell.ipc, {})
            if "real" in similar:
                panel.setdefault("real", np.array(similar["real"], float))
            panel[cell.method] = np.array(similar["recovered"], float)
    return found


def _similarities(
    values: Mapping[str, np.ndarray],
    drawn: Mapping[str, Look],
    classes: Sequence[str],
    title: str,
    alt: str,
) -> Panel:
    if len(classes) <= charts.NAMED:
        rows = [
            (name, [Dot(float(v[c]), drawn[n]) for n, v in values.items()])
            for c, name in enumerate(classes)
        ]
        return charts.dots(rows, "cosine similarity", alt, (), title)
    order = np.argsort(-next(iter(values.values())), kind="stable")
    curves = [
        Curve(n, drawn[n], [(k, float(v[c]), 0.0) for k, c in enumerate(order) if v[c] == v[c]])
        for n, v in values.items()
    ]
    axes = Axes("classes in descending order of the first", title, has_marks=False)
    return charts.curves([curve for curve in curves if curve.points], axes, alt, False)
