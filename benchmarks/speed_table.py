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
        "| torch.compile | ratio | GFLOP per image-iteration | GFLOP/s | of peak "
        "| GB/s | of peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, measured in row["schedules"].items():
            flops, moved = (measured["ours"]["median"] * row[per] for per in ("flops", "bytes"))
            compiled = "- | -"
            if "compiled" in measured:
                compiled = (
                    f"{spread(measured['compiled'], 0)} | {spread(measured['compiled_ratio'], 2)}"
                )
            lines.append(
                f"| {_case(row)} | {_SCHEDULES[name]} | {spread(measured['ours'], 0)} "
                f"| {spread(measured['torch'], 0)} | {spread(measured['ratio'], 2)} | {compiled} "
                f"| {row['flops'] / 1e9:.3f} | {flops / 1e9:,.0f} "
                f"| {flops / row['peak_flops']:.0%} "
                f"| {moved / 1e9:,.0f} | {moved / row['peak_bytes']:.0%} |"
            )
    lines += [*_savings(rows), ""]
    for row in rows:
        lines.append(
            f"- {_case(row)}: {row['passes']} passes, T {row['iterations']}; PyTorch in "
            f"{row['torch_layout']} on {row['torch_device']}, version {row['torch_version']}; peak "
            f"{row['peak_flops'] / 1e9:,.0f} GFLOP/s, {row['peak_bytes'] / 1e9:,.0f} GB/s; loss of "
            f"both sides within {row['loss_deviation']:.0e}; {row['machine']}, {row['date']}."
        )
    return lines


def _savings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What EarlyLate saves of the time, where it was measured."""
    lines = [
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
    return lines if any(row["time_of_full"] for row in rows) else []


def _is_untuned(row: dict[str, Any]) -> bool:
    """Whether a CPU's row was measured without the allocator's settings; a GPU's never has them."""
    return row["allocator"] == "default" and row["torch_device"] == "CPU"


def _case(row: dict[str, Any]) -> str:
    """Model, pixels, and whatever is not as usual."""
    unusual = [row["dtype"]] if row["dtype"] != "float32" else []
    unusual += [f"{row['stack']} stacked"] if row["stack"] > 1 else []
    unusual += ["default malloc"] if _is_untuned(row) else []
    return ", ".join([f"{row['case']} px, batch {row['batch']}", *unusual])
