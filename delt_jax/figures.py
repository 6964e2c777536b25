"""Pictures of a run, as PNG bytes; pure functions of arrays."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from delt_jax.engine import Losses
from delt_jax.metrics import Row
from delt_jax.schedule import BatchSchedule

_CELL = 56  # pixels of a small image on a sheet
_INK, _PAPER, _GRID = "#222222", "#ffffff", "#dddddd"
_COLOURS = {"real": "#7f7f7f", "start": "#e69f00", "recovered": "#0072b2"}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _figure_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def sheet(
    start: np.ndarray,
    recovered: np.ndarray,
    class_names: Sequence[str],
    iterations: Sequence[int],
) -> bytes:
    """Each class as two rows, in joining order: start images above recovered ones.

    Args:
      start, recovered: uint8 [classes, n, S, S, C].
      class_names: one per class.
      iterations: optimisation steps that each of the n images of a class got; empty where that
        is not known.
    """
    classes, count, size = recovered.shape[:3]
    scale = max(1, _CELL // size)
    cell, gap = size * scale, 4
    font = ImageFont.load_default(13)
    margin = 12 + max(int(font.getlength(name)) for name in (*class_names, "recovered"))
    top, pair = 22, 2 * cell + gap + 12
    width = margin + count * (cell + gap)
    page = Image.new("RGB", (width, top + classes * pair), _PAPER)
    pen = ImageDraw.Draw(page)
    for i, steps in enumerate(iterations):
        x = margin + i * (cell + gap) + cell // 2
        pen.text((x, 4), f"{steps}", fill=_INK, font=font, anchor="mt")
    if iterations:
        pen.text((4, 4), "iterations", fill=_INK, font=font)
    for c in range(classes):
        y = top + c * pair
        pen.text((4, y + cell - 8), class_names[c], fill=_INK, font=font)
        for row, images in enumerate((start[c], recovered[c])):
            for i, image in enumerate(images):
                picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
                picture = picture.convert("RGB").resize((cell, cell), Image.Resampling.NEAREST)
                page.paste(picture, (margin + i * (cell + gap), y + row * (cell + gap // 2)))
    return _png(page)


def loss_curves(losses: Losses, round_starts: Sequence[int]) -> bytes:
    """Terms of the objective over iterations, mean over batches.

    Args:
      losses: float [batches, iterations] each; NaN beyond a shorter batch's end.
      round_starts: iterations at which groups join.
    """
    figure = Figure(figsize=(8, 3), facecolor=_PAPER)
    axes = figure.subplots(1, 3)
    length = int((~np.isnan(losses.loss)).any(axis=0).sum())  # of the longest batch
    for ax, name, values in zip(axes, Losses._fields, losses, strict=True):
        ax.plot(np.nanmean(values[:, :length], axis=0), color=_COLOURS["recovered"], linewidth=0.8)
        for start in round_starts:
            ax.axvline(start, color=_GRID, linewidth=0.8, zorder=0)
        ax.set_title({"bn": "BN matching"}.get(name, name.replace("_", "-")), fontsize=10)
        ax.set_yscale("log")
        ax.set_xlabel("iteration", fontsize=9)
        ax.tick_params(labelsize=8)
    figure.tight_layout()
    return _figure_png(figure)


def schedule_chart(batches: Sequence[BatchSchedule]) -> bytes:
    """The first batch's schedule: one bar per image over the iterations it is optimised."""
    batch = batches[0]
    figure = Figure(figsize=(8, 3), facecolor=_PAPER)
    ax = figure.subplots()
    for r in batch.rounds:
        ax.barh(
            r.active,
            [r.iterations] * len(r.active),
            left=r.start,
            height=1.0,
            color=_COLOURS["recovered"],
            edgecolor=_PAPER,
            linewidth=0.3,
        )
    ax.invert_yaxis()
    ax.set_xlim(0, batch.iterations)
    ax.set_xlabel("iteration")
    ax.set_ylabel("image, in joining order")
    share = batch.image_iterations / (len(batch.images) * batch.iterations)
    ax.set_title(f"EarlyLate, first batch: {share:.2%} of its image-iterations are paid", size=10)
    return _figure_png(figure)


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
            color=_COLOURS[name],
        )
    ax.set_xticks(places, class_names, rotation=30, ha="right", fontsize=8)
    ax.set_ylabel("cosine similarity")
    lowest = np.nanmin([np.nanmin(v) for v in similarity.values()])
    ax.set_ylim(max(0.0, lowest - 0.1) if np.isfinite(lowest) else 0, 1)
    ax.legend(fontsize=8)
    return _figure_png(figure)


def score_table(rows: Sequence[Row]) -> list[str]:
    """Scores as an aligned text table that is also Markdown."""
    head = ("student", "labels", "images", "last epoch", "best epoch", "seeds")
    body = [
        (
            r.student,
            r.regime,
            r.images,
            f"{100 * r.last_mean:.2f} ± {100 * r.last_std:.2f}",
            f"{100 * r.best_mean:.2f} ± {100 * r.best_std:.2f}",
            str(r.seeds),
        )
        for r in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

    def line(cells):
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return [line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, body)]
