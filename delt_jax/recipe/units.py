"""The scale of normalisation constants: those of pixels in [0, 1]."""

from collections.abc import Sequence

LEAST_STD = 1e-6  # of a channel that hardly varies; below, normalised pixels leave float32's range


def too_large(values: Sequence[float]) -> str | None:
    """Ends a sentence about means or standard deviations of pixels in 0..255; None for others."""
    high = next((value for value in values if value > 1), None)
    if high is None:
        return None
    return (
        f"must be that of pixels in [0, 1], but holds {high:g}; divide constants of pixels in "
        f"0..255 by 255"
    )


def problem(mean: Sequence[float], std: Sequence[float]) -> str | None:
    """What is wrong with constants, as "means must ..."; None if nothing is.

    Args:
      mean: of each channel.
      std: standard deviation of each channel.
    """
    for name, values in (("mean", mean), ("std", std)):
        if (high := too_large(values)) is not None:
            return f"{name} {high}"
    low = next((value for value in mean if not value >= 0), None)
    if low is not None:
        return f"mean must be that of pixels in [0, 1], but holds {low:g}"
    small = next((value for value in std if not value >= LEAST_STD), None)
    if small is not None:
        return f"std must be at least {LEAST_STD:g}, but holds {small:g}"
    return None
