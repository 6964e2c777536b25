"""The charts of a run: what is drawn of its scores, its schedule, its losses and its diversity."""

from collections.abc import Mapping, Sequence

import numpy as np

from delt_jax.evaluation import verdict
from delt_jax.evaluation.metrics import DISTILLED, ScoreRow
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.recovery.types import Losses
from delt_jax.reporting import charts, svg
from delt_jax.reporting.charts import Axes, Curve, Dot
from delt_jax.reporting.colours import SERIES
from delt_jax.reporting.svg import Chart, Look
from delt_jax.reporting.words import printed

_LOOKS = {  # of sets of images; real ones are hollow
    **dict.fromkeys(DISTILLED, Look("s0")),
    "random": Look("s1", "square", True),
    "start": Look("s1", "square", True),
    "full": Look("s7", "diamond", True),
    "real": Look("s7", "diamond", True),
    "selected": Look("s2", "up", True),
    "herding": Look("s3", "down", True),
    "kmeans": Look("s4", "diamond", True),
}
RISING = (
    "A loss is the mean over the images at work. At each grey line a group of images joins that "
    "has not been optimised yet, so its losses are high and the mean jumps: a curve that rises "
    "from round to round is no fault. Random crops make it uneven. Whether the images are good is "
    "for the scores to say."
)
_FALLING = "A loss is the mean over the images at work, and falls while they are optimised."


def look_of(name: str) -> Look:
    """How a set of images is drawn in all charts of a run."""
    return _LOOKS.get(name, Look("s5", "cross", True))


def accuracy_chart(rows: Sequence[ScoreRow], whole: int) -> Chart | None:
    """Accuracy of every set of images at full size, a panel for each student and kind of labels.

    Args:
      rows: of the evaluation.
      whole: images per class of the set.

    Returns:
      The chart; None where distilled images were not trained on.
    """
    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        if row.ipc == whole or row.image_set == "full":
            groups.setdefault((row.student, row.regime), []).append(row)
    panels = []
    for (student, regime), members in groups.items():
        if not any(row.is_distilled for row in members):
            continue
        members = sorted(members, key=lambda row: -row.last_mean)
        listed = [
            (
                "all real images" if row.image_set == "full" else row.image_set,
                [Dot(100 * row.last_mean, look_of(row.image_set), 100 * row.last_std)],
            )
            for row in members
        ]
        values = ", ".join(f"{name} {dot[0].value:.1f}" for name, dot in listed)
        title = f"{student}, {verdict.labels(regime)}"
        alt = f"{title}: accuracy in percent from the best set to the worst: {values}."
        panels.append(charts.dots(listed, "accuracy, %", alt, title=title))
    if not panels:
        return None
    spread = " Bars: standard deviation over seeds." if any(r.seeds > 1 for r in rows) else ""
    caption = f"What students learn from each set of as many images, the best on top.{spread}"
    return Chart("What the images teach", caption, panels)


def per_class_chart(accuracies: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Chart:
    """Accuracy of every class for each set of images trained on.

    Beyond 40 classes as curves, classes in descending order of the first set's accuracy.

    Args:
      accuracies: float [classes] in [0, 1] by the set's name; NaN for a class without test images.
      class_names: one per class.
    """
    percent = {name: 100 * np.asarray(values) for name, values in accuracies.items()}
    caption = "Accuracy of each class after the last epoch: first student, first labels."
    panel = _of_classes(percent, class_names, "accuracy, %")
    return Chart("Classes", caption, [panel])


def similarity_chart(similarity: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Chart:
    """Within-class cosine similarity per class, for real, start and distilled images."""
    names = (*DISTILLED, "start", "real")
    ordered = {name: similarity[name] for name in names if name in similarity}
    caption = "Similarity of teacher features within a class; lower is more diverse."
    return Chart("Diversity", caption, [_of_classes(ordered, class_names, "cosine similarity")])


def _of_classes(
    values: Mapping[str, np.ndarray], class_names: Sequence[str], axis: str
) -> svg.Panel:
    """Values of classes: a row for each, or curves where there are many."""
    legend = [(f"{name}, mean {charts.mean_of(v)}", look_of(name)) for name, v in values.items()]
    alt = f"{axis.partition(',')[0].capitalize()} of {len(class_names)} classes. " + " ".join(
        _extremes(name, v, class_names) for name, v in values.items()
    )
    if len(class_names) <= charts.NAMED:
        rows = [
            (class_names[c], [Dot(float(v[c]), look_of(name)) for name, v in values.items()])
            for c in range(len(class_names))
        ]
        return charts.dots(rows, axis, alt, legend)
    order = np.argsort(-next(iter(values.values())), kind="stable")
    lines = [
        Curve(
            words,
            look,
            [(float(k), float(v[c]), 0.0) for k, c in enumerate(order) if np.isfinite(v[c])],
        )
        for (words, look), v in zip(legend, values.values(), strict=True)
    ]
    axes = Axes(f"classes in descending order of the first; {axis}", has_marks=False)
    return charts.curves([line for line in lines if line.points], axes, alt)


def _extremes(name: str, values: np.ndarray, class_names: Sequence[str]) -> str:
    if not np.isfinite(values).any():
        return f"{name}: unknown."
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    return (
        f"{name}: from {charts.number(values[low])} for {printed(class_names[low])} to "
        f"{charts.number(values[high])} for {printed(class_names[high])}."
    )


def confusion_chart(confusion: np.ndarray, class_names: Sequence[str]) -> Chart:
    """Matrix of answers: each row has the shares of a class's images that got each answer.

    Args:
      confusion: int [classes, classes], counts [class][answer].
      class_names: one per class.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(shares), dtype=bool), 0, shares)
    c, answer = (int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
    alt = f"A grid of {len(shares)} classes against answers, darkest where most images are. "
    alt += (
        f"Most often confused: {printed(class_names[c])} taken for {printed(class_names[answer])}, "
        f"{wrong[c, answer]:.0%} of its images."
        if wrong.any()
        else "All images lie on the diagonal."
    )
    caption = (
        "Answers of the first student on distilled images after the last epoch, % of each class: "
        "a row for each class, a column for each answer."
    )
    return Chart("Confusion", caption, [charts.matrix(shares, class_names, alt)])


def ipc_chart(rows: Sequence[ScoreRow]) -> Chart | None:
    """Accuracy of distilled images over their number per class, with standard deviations.

    Args:
      rows: of the evaluation.

    Returns:
      The chart; None without a student that was trained on several numbers of images.
    """
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in sorted((r for r in rows if r.is_distilled), key=lambda r: r.ipc):
        line = lines.setdefault(f"{row.student}, {row.regime}", [])
        line.append((row.ipc, 100 * row.last_mean, 100 * row.last_std))
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    shown = [
        Curve(name, Look(SERIES[k % len(SERIES)], svg.MARKERS[k % len(svg.MARKERS)]), points)
        for k, (name, points) in enumerate(lines.items())
    ]
    ticks = sorted({point[0] for points in lines.values() for point in points})
    alt = "Accuracy in percent over images per class. " + " ".join(
        f"{name}: from {points[0][1]:.1f} with {points[0][0]:g} to {points[-1][1]:.1f} with "
        f"{points[-1][0]:g}."
        for name, points in lines.items()
    )
    axes = Axes("images per class; accuracy, %", log_x=True, x_ticks=ticks)
    caption = "Accuracy after the last epoch, trained on the first images of every class."
    return Chart("Fewer images", caption, [charts.curves(shown, axes, alt)])


def loss_curves(losses: Losses, start_iterations: Sequence[int]) -> Chart | None:
    """Terms of the objective over iterations, averaged over batches.

    Args:
      losses: float [batches, iterations] each; NaN after the end of a shorter batch.
      start_iterations: iterations at which groups of images join; drawn as grey lines.

    Returns:
      The chart; None where no loss is finite.
    """
    named = {"loss": losses.loss, "cross-entropy": losses.cross_entropy, "BN matching": losses.bn}
    length = int((~np.isnan(losses.loss)).any(axis=0).sum())  # of the longest batch
    known = {
        name: values
        for name, values in losses.terms.items()
        if not np.isnan(values[:, :length]).all(axis=0).any()  # not resumed from an older version
    }
    if np.nan_to_num(losses.further).any():  # each term by itself, where the file has them
        named |= known or {"further terms": losses.further}
    panels = []
    for name, values in named.items():
        mean = np.nanmean(values[:, :length], axis=0)
        title = name.rpartition(":")[2]  # of a plug-in without its module
        points = [(float(i), float(y), 0.0) for i, y in enumerate(mean) if np.isfinite(y)]
        joins = [i for i in start_iterations if i]
        if not points:  # of a recovery that diverged
            continue
        axes = Axes("iteration", title, False, bool((mean > 0).all()), joins, has_marks=False)
        alt = f"{title}: from {mean[0]:.3g} in the first iteration to {mean[-1]:.3g} in the last."
        panels.append(charts.curves([Curve(title, Look("s0"), points)], axes, alt, False))
    if not panels:
        return None
    caption = "Terms of the objective, mean over batches. "
    return Chart("Losses", caption + (RISING if any(start_iterations) else _FALLING), panels)


def schedule_chart(batches: Sequence[BatchSchedule]) -> Chart:
    """The first batch's schedule: a bar per group of images over the iterations that it takes."""
    batch = batches[0]
    ends = list(zip(batch.start_iterations, batch.end_iterations, strict=True))
    bars: list[tuple[float, float, float, float]] = []
    for row, (start, end) in enumerate(ends):
        if bars and bars[-1][:2] == (start, end):
            bars[-1] = (*bars[-1][:3], bars[-1][3] + 1)
        else:
            bars.append((start, end, row, 1))
    share = batch.image_iterations / (len(ends) * batch.iterations)
    alt = (
        f"Bars for {len(bars)} groups of images: the first from iteration {bars[0][0]:g} to "
        f"{bars[0][1]:g}, the last from {bars[-1][0]:g} to {bars[-1][1]:g}."
    )
    caption = (
        f"When each of the first batch's images is optimised, in joining order: {share:.2%} of its "
        f"image-iterations are paid."
    )
    size = (float(batch.iterations), float(len(ends)))
    return Chart("Schedule", caption, [charts.spans(bars, size, "iteration", alt)])
