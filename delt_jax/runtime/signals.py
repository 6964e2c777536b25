"""SIGTERM and Ctrl-C: they stop a run at once, or at the next point where no work is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGTERM_STATUS = 143  # 128 + SIGTERM, as shells report it


class Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that nothing handles it by accident."""


class DeferredSignal:
    """The signal that arrived while stopping was deferred.

    Attributes:
      asked: the exception to raise; None as long as no signal came.
    """

    def __init__(self) -> None:
        """Starts without a signal."""
        self.asked: BaseException | None = None

    def leave_if_asked(self) -> None:
        """Raises the exception of the signal, if one came."""
        if self.asked is not None:
            raise self.asked


@contextlib.contextmanager
def _handled(handlers: dict[int, object]) -> Iterator[None]:
    """Installs handlers by signal number, and restores the earlier ones at the end.

    Does nothing outside the main thread, the only one that Python lets set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handlers}
    # A shell ignores SIGINT for its background jobs; that must stay so.
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
    """A context in which SIGTERM raises `Terminated`, as Ctrl-C raises KeyboardInterrupt."""
    return _handled({signal.SIGTERM: _terminate})


@contextlib.contextmanager
def deferred() -> Iterator[DeferredSignal]:
    """A context in which a first SIGTERM or Ctrl-C is only noted; a second Ctrl-C stops at once."""
    deferred_signal = DeferredSignal()

    def note(number: int, frame: FrameType | None) -> None:
        if deferred_signal.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        deferred_signal.asked = KeyboardInterrupt() if number == signal.SIGINT else Terminated()

    with _handled({signal.SIGTERM: note, signal.SIGINT: note}):
        yield deferred_signal
