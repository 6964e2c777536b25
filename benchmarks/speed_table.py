"""The tables of recover_speed.py."""

from collections.abc import Sequence
from typing import Any

from measured import spread

KEY = ("case", "dtype", "stack", "batch", "allocator")  # of a row
_SCHEDULES = {"full": "full", "ipc10": "EarlyLate, IPC 10", "ipc50": "EarlyLate, IPC 50"}


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
