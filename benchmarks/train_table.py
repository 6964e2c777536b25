"""The table of train_eval_speed.py."""

from collections.abc import Sequence
from typing import Any

from measured import spread

KEY = ("case", "dtype", "ipc", "allocator")  # of a row
RIVALS = ("PIL", "tensor")


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the speed of every case and side, and how it was measured."""
    lines = [
        "| case | delt_jax, images/s | PyTorch, PIL workers | ratio | PyTorch, tensors | ratio "
        "| time of 3 seeds at once / of one | views' share of ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [_case(row), spread(row["ours"], 0)]
        for kind in RIVALS:
            cells += [spread(row["rivals"][kind], 0), spread(row["ratios"][kind], 2)]
        cells += [spread(row["three_seeds"], 2), f"{row['view_share']:.0%}"]
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


def _case(row: dict[str, Any]) -> str:
    """Model, pixels, and whatever is not as usual."""
    unusual = [row["dtype"]] if row["dtype"] != "float32" else []
    unusual += ["default malloc"] if row["allocator"] == "default" else []
    return ", ".join([f"{row['case']} px, IPC {row['ipc']}", *unusual])
