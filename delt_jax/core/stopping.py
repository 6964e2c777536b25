"""Stopping: a signal is noted when it comes, and obeyed at the next safe point.

An exception thrown from a signal handler can surface anywhere, also in code of others that
swallows it; JAX's callback of the garbage collector does. So the handler only sets a flag, and
the work looks at it: `check` wherever stopping loses nothing, `leave` where work has been saved.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TWICE = 0.5  # seconds in which a second signal counts as the first: `timeout` and terminals
# send one to the process and one to its group
_NOTE = b"delt_jax: stops as soon as nothing is lost by it; a second signal ends at once.\n"


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGINT is obeyed; not an Exception, so that nothing handles it by accident.

    Attributes:
      status: exit status as shells report it, 143 or 130.
    """

    def __init__(self, number: int):
        """Keeps the number of the signal in the status."""
        super().__init__(f"signal {number}")
        self.status = 128 + number


class _Process:
    """What this process knows of signals.

    Attributes:
      asked: number of the signal that came first; None as long as none came.
      deferrals: depth of `deferred` contexts.
      listener: who notes signals; None if nobody does.
      is_listening: whether a `listening` context is open.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferrals = 0
        self.listener: _Listener | None = None
        self.is_listening = False


_process = _Process()


def request(number: int) -> None:
    """Asks for a stop, as a signal of this number does."""
    if _process.asked is None:
        _process.asked = number


def requested() -> bool:
    """Whether a stop was asked for."""
    return _process.asked is not None


def check() -> None:
    """A safe point: leaves by `Stopped` if that was asked for, unless stopping is deferred."""
    if not _process.deferrals:
        leave()


def leave() -> None:
    """A safe point also within `deferred`, where everything has been saved."""
    if _process.asked is not None and _in_main_thread():
        raise Stopped(_process.asked)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A context in which `check` does nothing: its work saves first, and then calls `leave`."""
    _process.deferrals += 1
    try:
        yield
    finally:
        _process.deferrals -= 1


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """A context in which SIGTERM and SIGINT are noted; it ends by `Stopped` if one came.

    Takes over from `listen`. Does nothing within another one, or outside the main thread, the only
    one that Python lets handle signals.
    """
    if _process.is_listening or not _in_main_thread():
        yield
        return
    listener = _process.listener or _Listener()
    listener.watch()
    _process.listener, _process.is_listening = listener, True
    try:
        yield
    finally:
        listener.close()
        asked = _process.asked
        _process.listener, _process.is_listening, _process.asked = None, False, None
        if asked is not None:  # whatever else ends the work: it may be a consequence
            raise Stopped(asked)


@contextlib.contextmanager
def borrowing() -> Iterator[None]:
    """As `listening`, for work within a program of somebody else, such as a notebook.

    Takes SIGTERM and SIGINT only where the program left them to Python, and gives them back. A
    second signal does what the first would have done without this; no thread is started.
    """
    if _process.is_listening or not _in_main_thread():
        yield
        return
    defaults, first = (signal.SIG_DFL, signal.default_int_handler), [0.0]
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    mine = {number: handler for number, handler in before.items() if handler in defaults}

    def note(number: int, frame: FrameType | None) -> None:
        if not requested():
            request(number)
            first[0] = time.monotonic()
            _tell()
        elif time.monotonic() - first[0] > _TWICE:
            signal.signal(number, mine[number])
            signal.raise_signal(number)

    for number in mine:
        signal.signal(number, note)
    _process.is_listening = True
    try:
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)
        asked = _process.asked
        _process.is_listening, _process.asked = False, None
        if asked is not None:  # whatever else ends the work: it may be a consequence
            raise Stopped(asked)


def listen() -> None:
    """Notes SIGTERM and SIGINT from here on, until a `listening` ends; for a command's first line.

    What comes after that ends the process by the signal's default action. No thread is started
    yet, because settings of the allocator must come before all threads.
    """
    if _process.listener is None and _in_main_thread():
        _process.listener = _Listener(signal.SIG_DFL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Listener:
    """The handlers, and a thread that ends the process at a second signal.

    Python runs its handlers between bytecodes, so not while a program compiles. The thread hears
    of a signal at once, through a pipe that the interpreter's own handler writes to.
    """

    def __init__(self, afterwards: signal.Handlers | None = None) -> None:
        """Handles signals until `close`, which restores the handlers of before if none is given."""
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        # A shell ignores SIGINT for its background jobs; that must stay so.
        self._mine = [n for n in _SIGNALS if self._before[n] is not signal.SIG_IGN]
        self._afterwards = afterwards
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._fd_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        for number in self._mine:
            signal.signal(number, _note)

    def watch(self) -> None:
        """Starts the thread, which also hears of signals that came before."""
        self._thread.start()

    def close(self) -> None:
        """Ends handling, and waits until what has come is noted."""
        for number in self._mine:
            handler = self._before[number] if self._afterwards is None else self._afterwards
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._write_end)
        self._thread.join()
        os.close(self._read_end)

    def _watch(self) -> None:
        first = None
        while came := os.read(self._read_end, 1):
            if came[0] not in _SIGNALS:
                continue
            request(came[0])
            if first is None:
                first = time.monotonic()
                _tell()
            elif time.monotonic() - first > _TWICE:
                os._exit(128 + came[0])


def _tell() -> None:
    """Says that a signal has come; without Python's streams, whose lock the work may hold."""
    with contextlib.suppress(OSError):
        os.write(2, _NOTE)


def _note(number: int, frame: FrameType | None) -> None:
    request(number)
