"""The table of train_eval_speed.py."""

from collections.abc import Sequence
from typing import Any

from measured import spread

KEY = ("case", "dtype", "ipc", "allocator")  # of a row
RIVALS = ("PIL", "tensor")
COMPILED = "compiled"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the speed of every case and side, and how it was measured."""
    lines = [
        "| case | delt_jax, images/s | PyTorch, PIL workers | ratio | PyTorch, tensors | ratio "
        "| torch.compile, tensors | ratio | time of 3 seeds at once / of one "
        "| views' share of ours | GFLOP/s | of peak | GB/s | of peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [_case(row), spread(row["ours"], 0)]
        for kind in (*RIVALS, COMPILED):
            found = kind in row["rivals"]
            cells.append(spread(row["rivals"][kind], 0) if found else "-")
            cells.append(spread(row["ratios"][kind], 2) if found else "-")
        cells += [spread(row["three_seeds"], 2), f"{row['view_share']:.0%}", *_achieved(row)]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for row in rows:
        lines.append(
            f"- {_case(row)}: {row['protocol']}; {row['images']} images in batches of "
            f"{row['batch']}; {row['passes']} passes of {row['epochs']} epochs; PyTorch in "
            f"{row['torch_layout']} on {row['torch_device']}, {row['workers']} workers, version "
            f"{row['torch_version']}; loss of both sides within {row['loss_deviation']:.0e}; "
            f"{row['machine']}, {row['date']}."
        )
    return lines


def _achieved(row: dict[str, Any]) -> list[str]:
    """Operations and bytes a second, each with its share of the peak, where they were counted."""
    cells = []
    for counted in ("flops", "bytes"):
        if counted in row:
            rate = row["ours"]["median"] * row[counted]
            cells += [f"{rate / 1e9:,.0f}", f"{rate / row[f'peak_{counted}']:.0%}"]
        else:
            cells += ["-", "-"]
    return cells


def _case(row: dict[str, Any]) -> str:
    """Model, pixels, and whatever is not as usual."""
    unusual = [row["dtype"]] if row["dtype"] != "float32" else []
    untuned = row["allocator"] == "default" and row["torch_device"] == "CPU"
    unusual += ["default malloc"] if untuned else []
    return ", ".join([f"{row['case']} px, IPC {row['ipc']}", *unusual])
