"""Limits for files that others made: how much one may claim before anything is allocated."""

import contextlib
import json
from pathlib import Path
from typing import Any

from delt_jax.store import regular

_MIB = 2**20
_JSON_BYTES = 64 * _MIB  # class names and the record of a set take far less
_JSON_DEPTH = 64
_SHARE = 0.8  # of the free memory, so that the rest of the process lives on


class ForeignFileError(ValueError):
    """A file cannot be used; the message is a phrase without the file's name."""

    def __init__(self, message: str):
        """Keeps the message, as `shown`, because it may quote the file."""
        super().__init__(shown(message, 400))


def shown(text: Any, most: int = 80) -> str:
    """Text of others as a sentence has it: printable, in one line, and cut to `most` letters."""
    line = str(text)[: most + 1]
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def available_bytes() -> int:
    """Memory that this process may still take, in bytes: free memory and the process's limits."""
    bounds = [_free_memory(), *_of_the_process(), *_of_the_group()]
    return min(bound for bound in bounds if bound >= 0)


def check_size(what: str, size: int) -> None:
    """Raises a ForeignFileError if `size` bytes are more than memory has room for."""
    room = int(available_bytes() * _SHARE)
    if size > room:
        raise ForeignFileError(
            f"{what} claims {size} bytes, more than the {room} that memory has room for"
        )


def parse_json(content: str | bytes, most: int = _JSON_BYTES) -> Any:
    """Parses JSON that may come from anywhere; the one reader of it.

    Args:
      content: text, or UTF-8 with or without a byte order mark.
      most: bytes or characters that are parsed.

    Raises:
      ForeignFileError: if it is no JSON, larger, or nested more than 64 deep.
    """
    if len(content) > most:
        raise ForeignFileError(f"its JSON has {len(content)} bytes, more than {most}")
    try:
        value = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except RecursionError:
        is_shallow = False
    except ValueError as e:
        raise ForeignFileError(f"it is not JSON ({e})") from e
    else:
        is_shallow = _is_shallow(value, _JSON_DEPTH)
    if not is_shallow:
        raise ForeignFileError(f"its JSON is nested more than {_JSON_DEPTH} deep")
    return value


def read_json(path: Path, most: int = _JSON_BYTES) -> Any:
    """Reads a JSON file; see `parse_json`.

    Raises:
      ForeignFileError: as `parse_json` does.
      OSError: if it cannot be read, is no regular file, or is larger.
    """
    return parse_json(regular.read_bytes(path, most), most)


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether lists and dictionaries within each other have at most so many levels."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(
        _is_shallow(v, levels - 1) for v in inner if isinstance(v, dict | list)
    )


def _free_memory() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 16 * 1024 * _MIB  # a system that does not say


def _of_the_process() -> list[int]:
    """What `ulimit -v` leaves; empty without a limit."""
    try:
        import resource  # not on every system
    except ImportError:
        return []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return []
    used = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        used = int(pages) * resource.getpagesize()
    return [max(limit - used, 0)]


def _of_the_group() -> list[int]:
    """What a container's limit leaves; empty without a limit."""
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(most).read_text(encoding="ascii"))
            return [max(limit - int(Path(used).read_text(encoding="ascii")), 0)]
    return []
