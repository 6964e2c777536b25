"""Messages to the user: sentences go to stdout, progress to stderr."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from delt_jax.core import stopping

_SECONDS_BETWEEN_LINES = 15


_prefix: list[str] = []  # of a process that leaves talking to another one


def be_quiet(prefix: str) -> None:
    """Leaves talking to another process of the job: prints only what every process must tell.

    Args:
      prefix: names this process before what it must tell.
    """
    _prefix.append(prefix)


def say(text: str, by_each: bool = False) -> None:
    """Prints a line to stdout; a progress bar on the terminal stays whole.

    Args:
      text: the line.
      by_each: whether it is news also from a process that is otherwise quiet.
    """
    if _prefix and not by_each:
        return
    tqdm.write(_prefix[0] + text.strip() if _prefix else text, file=sys.stdout)
    sys.stdout.flush()


_shown: list["Progress"] = []  # bars of work under way, the innermost last


@contextlib.contextmanager
def pause(why: str) -> Iterator[None]:
    """A context in which the work under way waits for something; no rate or ETA counts it.

    Args:
      why: what it waits for, as a participle: "compiling".
    """
    started = time.monotonic()
    for bar in _shown:
        bar.say_pause(why)
    try:
        yield
    finally:
        for bar in _shown:
            bar.leave_out(time.monotonic() - started)


class Progress:
    """Work done out of a total, with rate, ETA and the latest figures.

    A bar on a terminal; a line every 15 seconds if stderr is a file; nothing in a quiet process.
    """

    def __init__(self, total: int, name: str, unit: str, done: int = 0):
        """Starts a bar of `total` units, `done` of which an earlier run has finished."""
        self._total, self._name, self._unit = total, name, unit
        self._first = self._done = done
        self._started = self._printed = time.monotonic()
        self._figures = ""
        self._told_pause = False
        self._bar = None
        if not _prefix and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=name,
                unit=f" {unit}",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=0.3,
                leave=False,
            )

    def update(self, amount: int, **values: Any) -> None:
        """Adds finished units, and figures to print beside them, by name.

        Raises:
          Stopped: if a signal has come: every update is a safe point, unless stopping is deferred.
        """
        stopping.check()
        if values:
            self._figures = _line(**values)
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures, refresh=False)
            self._bar.update(amount)
        elif not _prefix and time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            elapsed = self._printed - self._started
            rate = (self._done - self._first) / elapsed
            print(
                f"{self._name} {self._done / self._total:4.0%}  {rate:.4g} {self._unit}s/s  "
                f"ETA {tqdm.format_interval((self._total - self._done) / max(rate, 1e-9))}  "
                f"{self._figures}",
                file=sys.stderr,
                flush=True,
            )

    def say_pause(self, why: str) -> None:
        """Shows why nothing is done now."""
        if self._bar is not None:
            self._bar.set_postfix_str(why, refresh=True)
        elif _prefix:
            return
        elif not self._told_pause or time.monotonic() - self._printed > _SECONDS_BETWEEN_LINES:
            self._told_pause, self._printed = True, time.monotonic()
            share = self._done / max(self._total, 1)
            print(f"{self._name} {share:4.0%}  {why}", file=sys.stderr, flush=True)

    def leave_out(self, seconds: float) -> None:
        """Does not count seconds that went by until now."""
        self._started += seconds
        if self._bar is not None:
            self._bar.start_t += seconds
            self._bar.last_print_t += seconds

    def close(self) -> None:
        """Removes the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def progress(total: int, name: str, unit: str, done: int = 0) -> Iterator[Progress]:
    """A `Progress` that is closed however the work ends."""
    bar = Progress(total, name, unit, done)
    _shown.append(bar)
    try:
        yield bar
    finally:
        _shown.remove(bar)
        bar.close()


def _line(**values: Any) -> str:
    """Joins figures, e.g. to "loss 0.31  bn 12.4"."""
    return "  ".join(
        f"{k.replace('_', ' ')} {v:.4g}" if isinstance(v, float) else f"{v}"
        for k, v in values.items()
    )
