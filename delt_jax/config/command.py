"""What every command does around its work: exit status, signals, output, sentences for errors."""

import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import TypeVar

from delt_jax.core import output, stopping
from delt_jax.errors import UserError
from delt_jax.runtime import host_memory

_KEPT = "stopped; finished work is kept, the same command goes on from there."
_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h

_T = TypeVar("_T")


def exit_status(parse: Callable[[], _T], run: Callable[[_T], bool], stopped: str = _KEPT) -> int:
    """Parses and runs a command, and turns bad input into one sentence on stderr.

    Args:
      parse: reads the command line.
      run: does what it asks for, and returns whether all of that succeeded.
      stopped: what is said after a signal.

    Returns:
      0, 1 for bad input found while running or if something failed, 2 for bad flags, 130 for
      Ctrl-C, 143 for SIGTERM, 70 for a bug, whose traceback is in a file.
    """
    host_memory.keep_freed()  # before the thread that listens, and all others
    with output.unfailing():
        try:
            with stopping.listening():
                return _status(parse, run)
        except KeyboardInterrupt as e:  # Stopped, or one that was raised by hand
            _say(stopped)
            return getattr(e, "status", 130)


def _status(parse: Callable[[], _T], run: Callable[[_T], bool]) -> int:
    try:
        asked = parse()
        stopping.check()
    except UserError as e:
        _say(str(e))
        return 2
    try:
        return 0 if run(asked) else 1
    except UserError as e:
        _say(str(e))
    except MemoryError as e:
        _say(
            f"The memory of this machine is too small ({str(e) or 'out of memory'}); lower batch "
            f"or image sizes."
        )
    except OSError as e:
        about = f"{e.filename}: {e.strerror}" if e.filename else str(e)
        _say(f"{about}; check the path and its permissions.")
    except Exception as e:
        _say(_bug(e))
        return _UNEXPECTED
    return 1


def _bug(error: Exception) -> str:
    """A sentence about an error that nobody foresaw; its traceback goes to a file."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="delt_jax-", suffix=".txt", delete=False
    ) as f:
        f.write("".join(traceback.format_exception(error)))
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return (
        f"This is a bug of delt_jax: {type(error).__name__} ({text}) in {where.name}, line "
        f"{where.lineno} of {where.filename}; please report it with {f.name}."
    )


def _say(sentence: str) -> None:
    """Prints it in one line, whatever names of the user it quotes."""
    line = " ".join(sentence.splitlines())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    print(f"delt_jax: {line}", file=sys.stderr)
