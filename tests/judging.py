"""Whether a replay agrees with a recording, where rounding may have tipped either of them.

Where a ReLU's input or a gradient lies within float32 rounding of zero, it can tip either way, and
the next steps magnify the difference. So a float32 replay that is not within the tolerance proves
nothing; then a float64 replay decides, which rounding does not tip. If even that is further off,
the recording itself may be tipped: then it must lie no further from the float64 replay than
float32 replays of a start that differs by rounding, step by step.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TIPPED = 0.03  # largest share of pixels that tipped ReLUs may move
DRAWS, FACTOR = 2, 3.0  # further float32 replays, and how many times their spread is allowed


class Off(NamedTuple):
    """How far a replay is from another, or from the recording.

    Attributes:
      steps: [T], largest deviation of each step's numbers, in units of the tolerance.
      moved: share of the pixels that are further off than their tolerance.
    """

    steps: np.ndarray
    moved: float = 0.0

    def fits(self, moved: float = 0.0) -> bool:
        """Whether all is within the tolerance, but for a share of the pixels."""
        return bool((self.steps <= 1).all() and self.moved <= moved)


def assert_agrees(
    recorded: Any, replay: Callable[[str, int], Any], off: Callable[[Any, Any], Off]
) -> None:
    """Asserts that a program computes what was recorded.

    Args:
      recorded: the recording, in the form of a replay.
      replay: (dtype, seed) to a replay; one with a seed above 0 starts from images that differ by
        float32 rounding.
      off: (replay, reference) to their deviation.
    """
    plain = off(replay("float32", 0), recorded)
    if plain.fits():
        return
    assert plain.steps[0] <= 1, f"the first step is {plain.steps[0]:.3g} tolerances off"
    exact = replay("float64", 0)
    found = off(recorded, exact)
    if found.fits(TIPPED):
        return
    assert found.steps[0] <= 1, f"in float64 the first step is {found.steps[0]:.3g} tolerances off"
    others = [off(replay("float32", seed), exact) for seed in range(DRAWS + 1)]
    spread = np.maximum.accumulate(np.max([other.steps for other in others], axis=0))
    allowed = np.maximum(1.0, FACTOR * spread)
    assert (found.steps <= allowed).all(), f"{found.steps} tolerances off; rounding: {spread}"
    moved = max(TIPPED, FACTOR * max(other.moved for other in others))
    assert found.moved <= moved, f"{found.moved:.1%} of the pixels are off; rounding: {moved:.1%}"


def assert_decided(check: Callable[[str], None]) -> None:
    """Runs check("float32"); where that fails, check("float64") decides.

    For what is recorded of a single step: there one ReLU that rounding tips moves the gradient.
    """
    with contextlib.suppress(AssertionError):
        check("float32")
        return
    check("float64")


def relative(ours: Any, theirs: Any, tolerance: float, least: Any = 0.0) -> np.ndarray:
    """|ours - theirs| in units of a tolerance relative to |theirs|, or to `least` if larger."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    scale = tolerance * np.maximum(np.abs(theirs), least)
    return np.abs(ours - theirs) / np.maximum(scale, np.finfo(np.float64).tiny)


def beyond(ours: Any, theirs: Any, tolerance: float) -> float:
    """Share of the values that differ by more than a tolerance."""
    assert np.shape(ours) == np.shape(theirs), (np.shape(ours), np.shape(theirs))
    off = np.abs(np.asarray(ours, np.float64) - theirs) > tolerance
    return float(off.mean()) if off.size else 0.0
