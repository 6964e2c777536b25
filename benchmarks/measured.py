"""Measurements: their statistics, their rows in result files, and their tables in pages."""

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.runtime import host_memory
from delt_jax.store import files

ROOT = Path(__file__).parent.parent
_RESULTS = ROOT / "benchmarks" / "results"


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def quotients(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Summary of the quotients of measurements that were made right after each other."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def spread(values: dict[str, float], digits: int) -> str:
    """A summary as `median (min..max)`."""
    median, low, high = (f"{values[k]:,.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low}..{high})"


def merge(
    kept: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], key: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of earlier runs except those that the new rows replace, and the new rows."""
    replaced = {tuple(row[k] for k in key) for row in new}
    return [row for row in kept if tuple(row[k] for k in key) not in replaced] + list(new)


def keep(
    script: str, suffix: str, new: Sequence[dict[str, Any]], key: Sequence[str]
) -> list[dict[str, Any]]:
    """Merges rows into benchmarks/results/SCRIPT_SUFFIX.json.

    Returns:
      All rows of this script, from all of its files.
    """
    path = _RESULTS / f"{script}_{suffix}.json"
    _RESULTS.mkdir(exist_ok=True)
    files.write_json(path, merge(files.read_json(path) if path.exists() else [], new, key))
    return [
        row for part in sorted(_RESULTS.glob(f"{script}_*.json")) for row in files.read_json(part)
    ]


def markers(name: str) -> tuple[str, str]:
    """The two lines of a page around a script's tables."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def fill(page: str, lines: Sequence[str], name: str, where: str) -> str:
    """Puts lines between a script's two markers.

    Args:
      page: text of the page.
      lines: the new lines.
      name: of the script.
      where: path of the page, for the sentence.

    Raises:
      UserError: if the page lacks the markers.
    """
    begin, end = markers(name)
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{where} needs the lines {begin} and {end}; put them back.")
    return "\n".join([before + begin, *lines, end + after])


def publish(where: str, lines: Sequence[str], name: str) -> None:
    """Puts lines into a page of the repository (see `fill`)."""
    path = ROOT / where
    files.write_bytes(path, fill(path.read_text(), lines, name, where).encode())


def as_script(name: str, run: Callable[[Sequence[str]], None]) -> None:
    """Runs a script that may be stopped and goes on where it was; its faults are a sentence.

    Args:
      name: of the script.
      run: of the command line's arguments.
    """
    host_memory.keep_freed()  # before the thread that listens
    try:
        with stopping.listening():
            run(sys.argv[1:])
    except UserError as e:
        sys.exit(f"{name}: {e}")
    except stopping.Stopped:
        sys.exit(f"{name}: stopped; finished work is kept, the same command goes on from there.")
