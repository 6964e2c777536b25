"""Pictures of a comparison, as PNG bytes; pure functions of numbers and arrays."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from delt_jax.reporting.figures import enlarged, figure_png, image_png
from delt_jax.reporting.words import all_charted, all_printed, charted, printed

_CELL = 56  # pixels of a small image on a sheet
_PAPER, _INK, _GRID = "#ffffff", "#222222", "#dddddd"
_MARKERS = "osD^v<>ph*PX"
_LEGEND_LINE = 0.19  # inches
_NAMED_CLASSES = 40  # so many names fit under a chart
_LONG = 100  # characters of a recipe's name, whose end tells it from others

Curve = Sequence[tuple[float, float, float]]  # x, mean, standard deviation of each point


def _style(k: int) -> dict:
    """Colour and marker of the k-th name, equal in all pictures of a comparison."""
    colour = colormaps["tab20"](2 * k % 20 + k // 10 % 2)  # ten dark ones, then the light ones
    return {"color": colour, "marker": _MARKERS[k % len(_MARKERS)], "markersize": 4}


def shared_head(methods: Collection[str]) -> str:
    """Common beginning of several recipes' names, which a picture need not repeat.

    Ends with ":" or ",": "a:row," of "a:row,cda" and "a:row,sre2l"; empty if there is none.
    """
    if len(methods) < 2:
        return ""
    equal = itertools.takewhile(lambda at: len(set(at)) == 1, zip(*methods, strict=False))
    return re.sub(r"[^:,]*$", "", "".join(at[0] for at in equal))


def _short(x: float) -> str:
    return f"{x:,g}" if x < 1e6 else f"{x:.2g}"


def round_numbers(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, or powers alone if these do.

    >>> round_numbers(1200, 21000), round_numbers(3, 5000)
    ([2000.0, 5000.0, 10000.0, 20000.0], [10.0, 100.0, 1000.0])
    """
    decades = range(int(np.floor(np.log10(low))), int(np.log10(high)) + 1)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high] or [low]


def accuracy_chart(
    panels: Mapping[str, Mapping[str, Curve]], baselines: Collection[str], xlabel: str
) -> bytes:
    """Accuracy over images per class, image-iterations or bytes, a panel for each kind of labels.

    Args:
      panels: by title, the curves of a panel by name, their points in the order of x.
      baselines: names of the curves to draw dashed; the others are recipes.
      xlabel: label of the x axis, which is logarithmic, and linear near 0 if a point lies there.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    head = shared_head([name for name in names if name not in baselines])
    labels = [charted(name.replace(head, ""), _LONG) for name in names]
    height = max(3.6, _LEGEND_LINE * len(names) + 0.3)
    figure = Figure(figsize=(1.5 + 3.6 * len(panels), height), facecolor=_PAPER)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    values = sorted({x for lines in panels.values() for line in lines.values() for x, _, _ in line})
    known = {}
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, line in lines.items():
            x, mean, std = zip(*line, strict=True)
            dashes = "--" if name in baselines else "-"
            if len(set(x)) == 1:  # points above one another
                dashes = ""
            style = _style(names.index(name))
            known[name] = ax.errorbar(x, mean, std, linestyle=dashes, capsize=2, lw=1.2, **style)
        if values[0] > 0:
            ax.set_xscale("log")
        elif values[-1] > 0:
            ax.set_xscale("symlog", linthresh=values[1], linscale=0.4)
            decades = [d for d in 10.0 ** np.arange(12) if 2 * values[1] <= d <= values[-1]]
            ticks = [0, values[1], *decades]
            ax.set_xticks(ticks, [_short(x) for x in ticks])
        apart = all(b >= 2 * a for a, b in itertools.pairwise(filter(None, values)))
        if len(values) <= 6 and apart:
            ax.set_xticks(values, [_short(x) for x in values])
            ax.minorticks_off()
        elif values[0] > 0:
            ticks = round_numbers(values[0], values[-1])
            ax.set_xticks(ticks, [_short(x) for x in ticks])
            ax.minorticks_off()
        ax.tick_params(labelsize=8)
        ax.set_title(charted(title, _LONG), fontsize=10)
        ax.set_xlabel(xlabel, fontsize=9)
        ax.grid(color=_GRID, linewidth=0.5)
    axes[0].set_ylabel("accuracy after the last epoch", fontsize=9)
    axes[-1].legend(
        [known[n] for n in names], labels, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1)
    )
    return figure_png(figure)


def diversity_chart(
    panels: Mapping[str, Mapping[str, np.ndarray]], class_names: Sequence[str]
) -> bytes:
    """Within-class similarity of every class: a panel per IPC, a mark per method, a bar if real.

    Draws curves beyond 40 classes, which are then in the order of the first set's values.

    Args:
      panels: by title, float [classes] by name ("real" is the yardstick); NaN if unknown.
      class_names: one per class.
    """
    names = [n for n in dict.fromkeys(n for v in panels.values() for n in v) if n != "real"]
    head = shared_head(names)
    height = max(2.6, _LEGEND_LINE * (1 + len(names)) + 0.5)
    figure = Figure(figsize=(8, 0.6 + height * len(panels)), facecolor=_PAPER)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    places, many = np.arange(len(class_names)), len(class_names) > _NAMED_CLASSES
    for ax, (title, sets) in zip(axes, panels.items(), strict=True):
        order = np.argsort(-next(iter(sets.values())), kind="stable") if many else places
        for name, values in sets.items():
            label = f"{charted(name.replace(head, ''), _LONG)} (mean {np.nanmean(values):.3f})"
            if name == "real":
                ax.bar(places, values[order], 0.8, color=_GRID, label=label, zorder=0)
                continue
            k, style = names.index(name), _style(names.index(name))
            if many:
                ax.plot(places, values[order], label=label, lw=0.8, **style | {"marker": ""})
            else:
                left = places + (k - (len(names) - 1) / 2) * 0.7 / len(names)
                ax.plot(left, values, label=label, linestyle="", **style)
        lowest = min(float(np.nanmin(values)) for values in sets.values())
        ax.set_ylim(max(0.0, lowest - 0.1), 1)
        ax.set_title(charted(title, _LONG), fontsize=10)
        ax.set_ylabel("cosine similarity", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    if many:
        axes[-1].set_xlabel("classes in descending order of the first")
    else:
        axes[-1].set_xticks(places, all_charted(class_names), rotation=30, ha="right", fontsize=8)
    return figure_png(figure)


def side_by_side(rows: Mapping[str, np.ndarray], class_names: Sequence[str]) -> bytes:
    """Draws the same classes of several sets: a row per set, n images of each class side by side.

    Args:
      rows: uint8 [classes, n, S, S, C] by the set's name, all of one shape.
      class_names: one per class.
    """
    classes, count, size = next(iter(rows.values())).shape[:3]
    cell, gap, between = size * max(1, _CELL // size), 2, 10
    font = ImageFont.load_default(13)
    head = shared_head([name for name in rows if name != "real"])
    names = [printed(name.replace(head, ""), _LONG) for name in rows]
    class_names = all_printed(class_names)
    margin = 12 + max(int(font.getlength(name)) for name in names)
    step = max(
        count * (cell + gap) + between,
        *(int(font.getlength(name)) + between for name in class_names),
    )
    top = 24
    page = Image.new("RGB", (margin + classes * step, top + len(rows) * (cell + gap + 4)), _PAPER)
    pen = ImageDraw.Draw(page)
    for c, name in enumerate(class_names):
        middle = margin + c * step + count * (cell + gap) // 2
        if count * (cell + gap) < font.getlength(name):  # begins with its images
            pen.text((margin + c * step, 4), name, fill=_INK, font=font)
        else:
            pen.text((middle, 4), name, fill=_INK, font=font, anchor="mt")
    for r, (name, images) in enumerate(zip(names, rows.values(), strict=True)):
        y = top + r * (cell + gap + 4)
        pen.text((4, y + cell // 2), name, fill=_INK, font=font, anchor="lm")
        for c in range(classes):
            for i, image in enumerate(images[c]):
                page.paste(enlarged(image, cell), (margin + c * step + i * (cell + gap), y))
    return image_png(page)
