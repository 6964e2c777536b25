"""What a report draws of a run: its images as a sheet and for the page, and its charts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from delt_jax.data import Source, read
from delt_jax.data.classes import in_words
from delt_jax.evaluation import dd_ranking
from delt_jax.evaluation.fresh_views import FreshViews
from delt_jax.evaluation.metrics import Score, ScoreRow
from delt_jax.formats.distilled import DistilledSet
from delt_jax.recovery.schedule import join_rounds
from delt_jax.reporting import figures, nearest, run_charts
from delt_jax.reporting.figures import Strip
from delt_jax.reporting.svg import Chart
from delt_jax.stages.summary import is_optimised, is_recovered


class Sheet(NamedTuple):
    """Images of some classes, as a sheet shows them.

    Attributes:
      class_names: one per class.
      above: uint8 [classes, n, S, S, C], what recovery started from; None where it is not shown.
      images: uint8 [classes, n, S, S, C].
      iterations: of each of a class's n images; empty where they are unknown.
      beneath: [classes][n] words, empty ones where there is nothing to say.
      are_starts: whether `above` are the images that recovery started from.
    """

    class_names: list[str]
    above: np.ndarray | None
    images: np.ndarray
    iterations: list[int]
    beneath: list[list[str]]
    are_starts: bool


def _shown(
    synthetic: DistilledSet, most_classes: int = figures.SHEET_CLASSES
) -> tuple[int, np.ndarray]:
    """Number of classes that sheets show, and which ranks of each, int [n]."""
    ipc = synthetic.ipc
    columns = np.unique(np.linspace(0, ipc - 1, min(figures.SHEET_COLUMNS, ipc)).astype(int))
    return min(most_classes, len(synthetic.class_names)), columns


def sheet_of(synthetic: DistilledSet, starts: np.ndarray | None, seen: FreshViews | None) -> Sheet:
    """Chooses images, with the teacher's probabilities where all of these are known.

    Without start images to show, as of noise, there are more classes.
    """
    ipc, classes = synthetic.ipc, len(synthetic.class_names)
    shows_starts = starts is not None and "noise_seed" not in synthetic.manifest.get("start", {})
    ranks = min(figures.SHEET_COLUMNS, ipc)
    most = figures.SHEET_CLASSES if shows_starts else figures.GALLERY // ranks
    rows, columns = _shown(synthetic, most)
    iterations: list[int] = []
    if is_optimised(synthetic):
        r = synthetic.manifest["settings"]["recover"]
        step = r["round_iterations"] or r["iterations"]
        joins = join_rounds(ipc, r["iterations"] // step)
        iterations = [r["iterations"] - joins[i] * step for i in columns]

    def cells(values):
        return values.reshape(classes, ipc, *values.shape[1:])[:rows, columns]

    said = [[""] * len(columns)] * rows
    if seen is not None and len(seen.indices) == classes * ipc:
        said = [[f"{value:.0%}" for value in line] for line in cells(seen.probability)]
    above = cells(starts) if shows_starts else None
    names = list(in_words(synthetic.class_names[:rows]))
    recovered = is_recovered(synthetic)
    return Sheet(names, above, cells(synthetic.images), iterations, said, recovered)


def sheet_png(sheet: Sheet) -> bytes:
    """The sheet as a picture of its own: start images above recovered ones, or a gallery."""
    if sheet.above is not None:
        return figures.sheet(
            *(sheet.above, sheet.images, sheet.class_names, sheet.iterations, sheet.beneath)
        )
    said = sheet.beneath
    if len(set(sheet.iterations)) > 1:
        counts = [f"{count} iterations" for count in sheet.iterations]
        said = [
            [", ".join(filter(None, both)) for both in zip(counts, line, strict=True)]
            for line in said
        ]
    return figures.gallery(sheet.images, sheet.class_names, said)


def sheet_strips(sheet: Sheet) -> list[Strip]:
    """The sheet for the page, class by class."""
    count = sheet.images.shape[1]
    strips = []
    for c, name in enumerate(sheet.class_names):
        sets, seen = [sheet.images[c]], f"{_images(count)} of the set"
        if sheet.above is not None:
            sets = [sheet.above[c], sheet.images[c]]
            kind = "start" if sheet.are_starts else "real"
            made = "what recovery made of each" if sheet.are_starts else "images of the set"
            seen = f"above, {_images(count, kind)}; below, {made}"
        strips.append(figures.strip(name, f"{name}: {seen}.", sets, sheet.beneath[c]))
    return strips


def _images(count: int, kind: str = "") -> str:
    return f"{count} {kind}{' ' * bool(kind)}image{'s' * (count != 1)}"


def nearest_pictures(
    source: Source, synthetic: DistilledSet, found: nearest.Nearest
) -> tuple[bytes, list[Strip]]:
    """Synthetic images above the nearest real ones: as a picture of its own, and for the page."""
    rows, columns = _shown(synthetic)
    places = (np.arange(rows)[:, None] * synthetic.ipc + columns).reshape(-1)
    shape = (rows, len(columns))
    real = read(source.train, found.pixels_any.indices[places])
    real = real.reshape(*shape, *real.shape[1:])
    ours = synthetic.images[places].reshape(real.shape)
    rms = found.pixels_any.distances[places].reshape(shape)
    names = in_words(synthetic.class_names[:rows])
    strips = [
        figures.strip(
            name,
            f"{name}: above, {_images(len(columns), 'distilled')}; below, the real training image "
            f"nearest to each, at {rms[c].min():.3f} to {rms[c].max():.3f}.",
            [ours[c], real[c]],
            [f"{value:.3f}" for value in rms[c]],
        )
        for c, name in enumerate(names)
    ]
    return figures.nearest_sheet(ours, real, rms, names), strips


def score_charts(
    rows: list[ScoreRow], trained: Mapping[str, Score], class_names: Sequence[str]
) -> dict[str, Chart]:
    """Charts of scores by name: all sets side by side, then the first distilled row by class.

    Args:
      rows: those of the evaluation.
      trained: scores by id.
      class_names: one per class.
    """
    ipc = dd_ranking.whole_ipc(rows)
    first = next((r for r in rows if r.is_distilled and r.ipc == ipc), None)
    if first is None:
        return {}
    beside = {
        r.image_set: np.array(r.per_class, float)
        for r in reversed(rows)  # so that the first of several rows is what remains
        if r.student == first.student
        and (
            (r.image_set, r.regime, r.ipc) == ("random", first.regime, ipc) or r.image_set == "full"
        )
    }
    accuracies = {first.image_set: np.array(first.per_class, float)}
    accuracies |= {name: beside[name] for name in ("random", "full") if name in beside}
    charts = {
        "accuracy": run_charts.accuracy_chart(rows, ipc),
        "per_class": run_charts.per_class_chart(accuracies, class_names),
        "ipc": run_charts.ipc_chart(rows),
    }
    counts = [trained[i].confusion for i in first.scores]
    if all(counts):
        charts["confusion"] = run_charts.confusion_chart(np.sum(counts, axis=0), class_names)
    return {name: chart for name, chart in charts.items() if chart is not None}
