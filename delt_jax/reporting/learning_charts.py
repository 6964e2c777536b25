"""The chart of how a set was learned: its losses, and what was validated on the way."""

from collections.abc import Sequence

import numpy as np

from delt_jax.reporting import charts
from delt_jax.reporting.charts import Axes, Curve
from delt_jax.reporting.svg import Chart, Look

_LOSS = (
    "What the method descends on. Each step asks another network and other real images, or an "
    "older network, so it is uneven and may rise while images improve: how well they teach is for "
    "the scores to say."
)


def learning(losses: np.ndarray, validated: Sequence[tuple[int, float]], kept: str) -> Chart | None:
    """Losses over the steps of learning, and accuracies on validation images.

    Args:
      losses: float [steps].
      validated: step and accuracy in [0, 1] of each validation; none where nothing was validated.
      kept: which set went on, "last" or "best".

    Returns:
      The chart; None where no step was taken.
    """
    points = [(step, float(loss), 0.0) for step, loss in enumerate(losses, 1) if np.isfinite(loss)]
    if not points:
        return None
    axes = Axes("step", "loss", log_y=min(loss for _, loss, _ in points) > 0, has_marks=False)
    few = max(1, len(points) // 100)  # of a single step the loss says little
    first, last = (np.mean([p[1] for p in part]) for part in (points[:few], points[-few:]))
    alt = f"Loss over {len(losses):,} steps: from {first:.3g} at first to {last:.3g} at last."
    panels = [charts.curves([Curve("loss", Look("s0"), points)], axes, alt, False)]
    caption = _LOSS
    if validated:
        percents = [(float(step), 100 * accuracy, 0.0) for step, accuracy in validated]
        best = max(percents, key=lambda point: point[1])
        alt = (
            f"Accuracy on validation images: {percents[-1][1]:.1f} % after the last step, at best "
            f"{best[1]:.1f} % after step {best[0]:,.0f}."
        )
        axes = Axes("step", "validation accuracy, %")
        panels.append(charts.curves([Curve("validation", Look("s1"), percents)], axes, alt, False))
        which = "the one that was best on validation images" if kept == "best" else "the last one"
        caption += f" The set is {which}."
    return Chart("Losses", caption, panels)
