"""Pictures of a run as PNG files in memory: pure functions of arrays."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.recovery.types import Losses
from delt_jax.reporting.words import all_charted, all_printed, charted, missing_glyphs_unsaid

SHEET_CLASSES, SHEET_COLUMNS = 10, 10  # classes on a sheet, and images of each, at most
GALLERY = 100  # images of a gallery, at most
_CELL = 56  # pixels to which small images are enlarged on a sheet
_ACROSS, _FEW = 10, 20  # images in a line of a gallery; of so many or fewer half of that
_WIDEST = 1640  # pixels of a gallery, whose large images are made smaller
_INK, _PAPER, _GRID = "#222222", "#ffffff", "#dddddd"
COLOURS = {  # of sets of images, and of the recovered one alone
    "real": "#7f7f7f",
    "full": "#7f7f7f",
    "start": "#e69f00",
    "random": "#e69f00",
    "recovered": "#0072b2",
}
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}  # right of the axes
_PANELS = 4  # curves of losses side by side
_NAMED_CLASSES = 40  # so many names of classes fit under a chart
_COUNTED_CLASSES = 12  # so many leave room for numbers in the cells of a matrix


def image_png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def figure_png(figure: Figure) -> bytes:
    """The chart as a PNG file; equal charts give equal bytes."""
    buffer = io.BytesIO()
    with missing_glyphs_unsaid():
        figure.savefig(buffer, dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def enlarged(image: np.ndarray, side: int) -> Image.Image:
    """Enlarges pixels uint8 [S, S, 1 or 3] to an RGB image `side` pixels wide, unsmoothed."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def sheet(
    start: np.ndarray,
    recovered: np.ndarray,
    class_names: Sequence[str],
    iterations: Sequence[int],
    beneath: Sequence[Sequence[str]] = (),
) -> bytes:
    """Two rows per class, in the order in which images join: start images above recovered ones.

    Args:
      start, recovered: uint8 [classes, n, S, S, C].
      class_names: one per class.
      iterations: number of optimisation steps of each of a class's n images; empty where it is
        unknown.
      beneath: [classes][n] words below the images, or none.
    """
    columns = [f"{n}" for n in iterations]
    return _paired(start, recovered, class_names, columns, "iterations", beneath)


def gallery(
    images: np.ndarray, class_names: Sequence[str], beneath: Sequence[Sequence[str]] = ()
) -> bytes:
    """All images side by side, those of a class next to each other, with the class beneath.

    Args:
      images: uint8 [classes, n, S, S, C], where n is at most 10.
      class_names: one per class.
      beneath: [classes][n] words below the class's name, or none.
    """
    classes, count, size = images.shape[:3]
    class_names = all_printed(class_names)
    across = _ACROSS // 2 if classes * count <= _FEW and count <= _ACROSS // 2 else _ACROSS
    across = min(across // count, classes) * count
    gap, line, font = 4, 15, ImageFont.load_default(13)
    cell = min(size * max(1, _CELL // size), _WIDEST // across - gap)
    height = cell + line * (2 if any(map(any, beneath)) else 1) + 3 * gap
    lines = -(-classes * count // across)
    page = Image.new("RGB", (across * (cell + gap) + gap, lines * height + gap), _PAPER)
    pen = ImageDraw.Draw(page)
    for k, image in enumerate(images.reshape(classes * count, *images.shape[2:])):
        x, y = gap + k % across * (cell + gap), gap + k // across * height
        page.paste(resized(image, cell), (x, y))
        words = [class_names[k // count], *([beneath[k // count][k % count]] if beneath else ())]
        for row, word in enumerate(words):
            place = (x + cell // 2, y + cell + gap + row * line)
            pen.text(place, fitting(word, font, cell), fill=_INK, font=font, anchor="mt")
    return image_png(page)


def resized(image: np.ndarray, side: int) -> Image.Image:
    """Pixels uint8 [S, S, 1 or 3] as an RGB image `side` pixels wide, smoothed where it shrinks."""
    if side >= len(image):
        return enlarged(image, side)
    return enlarged(image, len(image)).resize((side, side), Image.Resampling.LANCZOS)


def fitting(word: str, font: Any, width: int) -> str:
    """A word, cut short with an ellipsis where it is wider than so many pixels."""
    if font.getlength(word) <= width:
        return word
    end = next(n for n in range(len(word) - 1, -1, -1) if font.getlength(word[:n] + "…") <= width)
    return word[:end] + "…"


def nearest_sheet(
    synthetic: np.ndarray, real: np.ndarray, rms: np.ndarray, class_names: Sequence[str]
) -> bytes:
    """Two rows per class: synthetic images above the nearest real ones, and how near they are.

    Args:
      synthetic, real: uint8 [classes, n, S, S, C].
      rms: float [classes, n], root mean square difference of pixels in [0, 1], printed beneath.
      class_names: one per class.
    """
    beneath = [[f"{value:.3f}" for value in line] for line in rms]
    return _paired(synthetic, real, class_names, beneath=beneath)


def _paired(
    above: np.ndarray,
    below: np.ndarray,
    class_names: Sequence[str],
    columns: Sequence[str] = (),
    columns_are: str = "",
    beneath: Sequence[Sequence[str]] = (),
) -> bytes:
    """Draws pairs of images, those of a class in a line, with words above columns or below pairs.

    Args:
      above, below: uint8 [classes, n, S, S, C].
      class_names: one per class.
      columns: n words above the columns, or none.
      columns_are: what these words are.
      beneath: [classes][n] words below the pairs, or none.
    """
    classes, count, size = below.shape[:3]
    class_names = all_printed(class_names)
    scale = max(1, _CELL // size)
    cell, gap = size * scale, 4
    font = ImageFont.load_default(13)
    margin = 12 + max(int(font.getlength(name)) for name in (*class_names, "recovered"))
    rows = (above, below)
    top, pair = 22, 2 * cell + gap + (24 if any(map(any, beneath)) else 12)
    width = margin + count * (cell + gap)
    page = Image.new("RGB", (width, top + classes * pair), _PAPER)
    pen = ImageDraw.Draw(page)
    for i, word in enumerate(columns):
        x = margin + i * (cell + gap) + cell // 2
        pen.text((x, 4), word, fill=_INK, font=font, anchor="mt")
    if columns:
        pen.text((4, 4), columns_are, fill=_INK, font=font)
    for c in range(classes):
        y = top + c * pair
        pen.text((4, y + cell - 8), class_names[c], fill=_INK, font=font)
        for row, images in enumerate(rows):
            for i, image in enumerate(images[c]):
                place = (margin + i * (cell + gap), y + row * (cell + gap // 2))
                page.paste(enlarged(image, cell), place)
        for i, word in enumerate(beneath[c] if beneath else ()):
            x = margin + i * (cell + gap) + cell // 2
            pen.text((x, y + 2 * cell + gap + 2), word, fill=_INK, font=font, anchor="mt")
    return image_png(page)


def loss_curves(losses: Losses, start_iterations: Sequence[int]) -> bytes:
    """Terms of the objective over iterations, averaged over batches.

    Args:
      losses: float [batches, iterations] each; NaN after the end of a shorter batch.
      start_iterations: iterations at which groups of images join; drawn as grey lines.
    """
    curves = {"loss": losses.loss, "cross-entropy": losses.cross_entropy, "BN matching": losses.bn}
    length = int((~np.isnan(losses.loss)).any(axis=0).sum())  # of the longest batch
    known = {
        name: values
        for name, values in losses.terms.items()
        if not np.isnan(values[:, :length]).all(axis=0).any()  # not resumed from an older version
    }
    if np.nan_to_num(losses.further).any():  # each term by itself, where the file has them
        curves |= known or {"further terms": losses.further}
    rows, columns = -(-len(curves) // _PANELS), min(len(curves), _PANELS)
    figure = Figure(figsize=(8, 3 * rows), facecolor=_PAPER)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for ax in axes[len(curves) :]:
        ax.remove()
    for ax, (name, values) in zip(axes[: len(curves)], curves.items(), strict=True):
        mean = np.nanmean(values[:, :length], axis=0)
        ax.plot(mean, color=COLOURS["recovered"], linewidth=0.8)
        for iteration in start_iterations:
            ax.axvline(iteration, color=_GRID, linewidth=0.8, zorder=0)
        ax.set_title(name.rpartition(":")[2], fontsize=10)  # of a plug-in without its module
        ax.set_yscale("log" if (mean > 0).all() else "linear")
        ax.set_xlabel("iteration", fontsize=9)
        ax.tick_params(labelsize=8)
    figure.tight_layout()
    return figure_png(figure)


def schedule_chart(batches: Sequence[BatchSchedule]) -> bytes:
    """The first batch's schedule: a bar per image over the iterations in which it is optimised."""
    batch = batches[0]
    figure = Figure(figsize=(8, 3), facecolor=_PAPER)
    ax = figure.subplots()
    for r in batch.rounds:
        ax.barh(
            r.active,
            [r.iterations] * len(r.active),
            left=r.start,
            height=1.0,
            color=COLOURS["recovered"],
            edgecolor=_PAPER,
            linewidth=0.3,
        )
    ax.invert_yaxis()
    ax.set_xlim(0, batch.iterations)
    ax.set_xlabel("iteration")
    ax.set_ylabel("image, in joining order")
    share = batch.image_iterations / (len(batch.indices) * batch.iterations)
    ax.set_title(f"EarlyLate, first batch: {share:.2%} of its image-iterations are paid", size=10)
    return figure_png(figure)


def similarity_chart(similarity: dict[str, np.ndarray], class_names: Sequence[str]) -> bytes:
    """Within-class cosine similarity per class, for real, start and recovered images."""
    figure = Figure(figsize=(8, 3), facecolor=_PAPER)
    ax = figure.subplots()
    places = np.arange(len(class_names))
    for k, (name, values) in enumerate(similarity.items()):
        ax.bar(
            places + (k - 1) * 0.27,
            values,
            0.27,
            label=f"{name} (mean {np.nanmean(values):.3f})",
            color=COLOURS[name],
        )
    ax.set_xticks(places, all_charted(class_names), rotation=30, ha="right", fontsize=8)
    ax.set_ylabel("cosine similarity")
    lowest = np.nanmin([np.nanmin(v) for v in similarity.values()])
    ax.set_ylim(max(0.0, lowest - 0.1) if np.isfinite(lowest) else 0, 1)
    ax.legend(fontsize=8)
    return figure_png(figure)


def per_class_chart(accuracies: dict[str, np.ndarray], class_names: Sequence[str]) -> bytes:
    """Accuracy of every class for each set of images trained on.

    Beyond 40 classes as curves, classes in descending order of the first set's accuracy.

    Args:
      accuracies: float [classes] in [0, 1] by the set's name, a key of `COLOURS`; NaN for a class
        without test images.
      class_names: one per class.
    """
    figure = Figure(figsize=(8, 3), facecolor=_PAPER)
    ax = figure.subplots()
    places = np.arange(len(class_names))
    many = len(class_names) > _NAMED_CLASSES
    order = np.argsort(-next(iter(accuracies.values())), kind="stable") if many else places
    width = 0.8 / len(accuracies)
    for k, (name, values) in enumerate(accuracies.items()):
        label, colour = f"{name} (mean {np.nanmean(values):.3f})", COLOURS[name]
        if many:
            ax.plot(places, values[order], linewidth=0.8, label=label, color=colour)
        else:
            left = places + (k - (len(accuracies) - 1) / 2) * width
            ax.bar(left, values, width, label=label, color=colour)
    if many:
        ax.set_xlabel("classes in descending order of the first")
    else:
        ax.set_xticks(places, all_charted(class_names), rotation=30, ha="right", fontsize=8)
    ax.set_ylim(0, 1)
    ax.set_ylabel("accuracy")
    ax.legend(fontsize=8, **_BESIDE)
    return figure_png(figure)


def confusion_chart(confusion: np.ndarray, class_names: Sequence[str]) -> bytes:
    """Matrix of answers: each row has the shares of a class's images that got each answer.

    Args:
      confusion: int [classes, classes], counts [class][answer].
      class_names: one per class.
    """
    counts = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(counts, 1)
    figure = Figure(figsize=(6.4, 5.6), facecolor=_PAPER)
    ax = figure.subplots()
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(class_names))
    if len(class_names) <= _NAMED_CLASSES:
        names = all_charted(class_names)
        ax.set_xticks(places, names, rotation=45, ha="right", fontsize=8)
        ax.set_yticks(places, names, fontsize=8)
    if len(class_names) <= _COUNTED_CLASSES:
        for c in range(len(shares)):
            for answer in range(len(shares)):
                ink = _PAPER if shares[c, answer] > 0.5 else _INK
                text = f"{100 * shares[c, answer]:.0f}"
                ax.text(answer, c, text, ha="center", va="center", fontsize=8, color=ink)
    ax.set_xlabel("answer")
    ax.set_ylabel("class")
    figure.colorbar(drawn, label="share of the class")
    return figure_png(figure)


def ipc_chart(lines: Mapping[str, Sequence[tuple[int, float, float]]]) -> bytes:
    """Accuracy over images per class, with standard deviations as error bars.

    Args:
      lines: by name, points (IPC, mean, standard deviation) in ascending order of IPC.
    """
    figure = Figure(figsize=(8, 3), facecolor=_PAPER)
    ax = figure.subplots()
    for name, points in lines.items():
        ipcs, means, stds = zip(*points, strict=True)
        ax.errorbar(ipcs, means, stds, label=charted(name), marker="o", markersize=4, capsize=3)
    ax.set_xscale("log")
    ticks = sorted({point[0] for points in lines.values() for point in points})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("images per class")
    ax.set_ylabel("accuracy")
    ax.grid(color=_GRID, linewidth=0.5)
    ax.legend(fontsize=8, **_BESIDE)
    return figure_png(figure)
