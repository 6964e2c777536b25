"""The end of a command's process: what is still to do, and the exit status that comes of it."""

import sys
from collections.abc import Callable
from typing import NoReturn

_steps: list[Callable[[int], int]] = []


def before(step: Callable[[int], int]) -> None:
    """Adds a step to the end of this process.

    Args:
      step: takes the exit status, and returns the one to end with.
    """
    _steps.append(step)


def end(status: int) -> NoReturn:
    """Takes the steps, the last one first, and ends the process."""
    while _steps:
        status = _steps.pop()(status)
    sys.exit(status)
