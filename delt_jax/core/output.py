"""What is printed can be lost; it never ends a run."""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "−": "-"}
_ERRORS = "delt_jax.plain"


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    """Spells characters that an encoding lacks: "+-" for a plus-minus sign, else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escaped = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing)
    return "".join(escaped), error.end


codecs.register_error(_ERRORS, _spelt_out)


class UnfailingStream:
    """A text stream whose writes never raise: a closed pipe or a full disk only loses the text."""

    def __init__(self, stream: TextIO, name: str):
        """Wraps a stream, and makes it spell out what its encoding lacks."""
        self._stream, self._name, self._is_lost = stream, name, False
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_ERRORS)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or loses the text."""
        if not self._is_lost:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as e:  # ValueError: it is closed
                self._lose(e)
        return len(text)

    def flush(self) -> None:
        """Flushes, or loses what was written."""
        if not self._is_lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as e:
                self._lose(e)

    def _lose(self, error: Exception) -> None:
        """Sends the rest nowhere, also what Python flushes at exit; says so on the other stream."""
        self._is_lost = True
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._name == "stdout" and not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or error
            print(f"delt_jax: stdout is lost ({reason}); the work goes on.", file=sys.stderr)


@contextlib.contextmanager
def unfailing() -> Iterator[None]:
    """A context in which no write to stdout or stderr raises."""
    before = sys.stdout, sys.stderr
    # A stream that was closed by the caller is None.
    out, err = (stream or open(os.devnull, "w") for stream in before)  # noqa: SIM115 (to the end)
    sys.stderr = UnfailingStream(err, "stderr")
    sys.stdout = UnfailingStream(out, "stdout")
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
