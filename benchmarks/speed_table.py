"""The pure parts of recover_speed.py: statistics, stored rows, tables."""

import statistics
from collections.abc import Sequence
from typing import Any

from delt_jax.errors import UserError

BEGIN, END = "<!-- recover_speed: begin -->", "<!-- recover_speed: end -->"
_KEY = ("case", "dtype", "stack", "batch", "allocator")
_SCHEDULES = {"full": "full", "ipc10": "EarlyLate, IPC 10", "ipc50": "EarlyLate, IPC 50"}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def quotients(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Summary of the quotients of what was measured next to each other."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def merge(kept: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of earlier runs, but for those that the new ones measure again."""
    replaced = {tuple(row[k] for k in _KEY) for row in new}
    return [row for row in kept if tuple(row[k] for k in _KEY) not in replaced] + list(new)


def spread(values: dict[str, float], digits: int) -> str:
    """A summary as `median (min..max)`."""
    median, low, high = (f"{values[k]:,.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low}..{high})"


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the speed of every case, and what EarlyLate saves of the time."""
    lines = [
        "| case | schedule | delt_jax, image-iterations/s | PyTorch eager | ratio "
        "| GFLOP per image-iteration | GFLOP/s | of peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, measured in row["schedules"].items():
            rate = measured["ours"]["median"] * row["flops"]
            lines.append(
                f"| {_case(row)} | {_SCHEDULES[name]} | {spread(measured['ours'], 0)} "
                f"| {spread(measured['torch'], 0)} | {spread(measured['ratio'], 2)} "
                f"| {row['flops'] / 1e9:.3f} | {rate / 1e9:,.0f} "
                f"| {rate / row['peak_flops']:.0%} |"
            )
    lines += [
        "",
        "| case | schedule | ideal time / full | delt_jax | PyTorch eager |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for name, saved in row["time_of_full"].items():
            lines.append(
                f"| {_case(row)} | {_SCHEDULES[name]} | {saved['ideal']:.4f} "
                f"| {spread(saved['ours'], 3)} | {spread(saved['torch'], 3)} |"
            )
    lines.append("")
    for row in rows:
        lines.append(
            f"- {_case(row)}: {row['passes']} passes, T {row['iterations']}; PyTorch in "
            f"{row['torch_layout']} on {row['torch_device']}, version {row['torch_version']}; peak "
            f"{row['peak_flops'] / 1e9:,.0f} GFLOP/s, {row['peak_bytes'] / 1e9:,.0f} GB/s; the "
            f"step moves {row['bytes'] * _full(row) / row['peak_bytes']:.0%} of that, by XLA's "
            f"count; loss of both sides within {row['loss_deviation']:.0e}; {row['machine']}, "
            f"{row['date']}."
        )
    return lines


def _full(row: dict[str, Any]) -> float:
    return row["schedules"]["full"]["ours"]["median"]


def _case(row: dict[str, Any]) -> str:
    """Model, pixels, and whatever is not as usual."""
    unusual = [row["dtype"]] if row["dtype"] != "float32" else []
    unusual += [f"{row['stack']} stacked"] if row["stack"] > 1 else []
    unusual += ["default malloc"] if row["allocator"] == "default" else []
    return ", ".join([f"{row['case']} px, batch {row['batch']}", *unusual])


def fill(page: str, lines: Sequence[str]) -> str:
    """The page with these lines between its two markers.

    Raises:
      UserError: if the markers are not there.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise UserError(f"docs/performance.md needs the lines {BEGIN} and {END}; put them back.")
    return "\n".join([before + BEGIN, *lines, END + after])
