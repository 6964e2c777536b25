"""Signals that ask a run to stop: at once, or at the next point where nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGTERM_STATUS = 143  # 128 + SIGTERM, as shells report it


class Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that nothing handles it by accident."""


class DeferredSignal:
    """What has been asked for while stopping was put off."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.asked: BaseException | None = None

    def leave_if_asked(self) -> None:
        """Raises what the signal would have raised, if one came."""
        if self.asked is not None:
            raise self.asked


@contextlib.contextmanager
def _handled(handlers: dict[int, object]) -> Iterator[None]:
    """Handles some signals so, and as before afterwards; other threads cannot set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handlers}
    # SIGINT stays ignored where it is, as in a shell's background job.
    mine = {n: h for n, h in handlers.items() if before[n] is not signal.SIG_IGN}
    try:
        for number, handler in mine.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number] or signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def raising():
    """Within, SIGTERM raises `Terminated`, as Ctrl-C raises KeyboardInterrupt."""
    return _handled({signal.SIGTERM: _terminate})


@contextlib.contextmanager
def deferred() -> Iterator[DeferredSignal]:
    """Within, a first SIGTERM or Ctrl-C is only noted; a second Ctrl-C stops at once."""
    deferred_signal = DeferredSignal()

    def note(number: int, frame: FrameType | None) -> None:
        if deferred_signal.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        deferred_signal.asked = KeyboardInterrupt() if number == signal.SIGINT else Terminated()

    with _handled({signal.SIGTERM: note, signal.SIGINT: note}):
        yield deferred_signal
