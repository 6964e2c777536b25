"""The tables of step_parts.py."""

import itertools
from collections.abc import Sequence
from typing import Any

from measured import spread

KEY = ("case", "dtype", "batch", "device", "part", "form")  # of a row


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: a table for every case, type, batch and device; the chosen forms in bold."""
    lines: list[str] = []
    for _, found in itertools.groupby(rows, key=lambda row: [row[k] for k in KEY[:4]]):
        group = list(found)
        first = group[0]
        lines += [
            f"{first['case']} px, {first['dtype']}, batch {first['batch']}; {first['device']} "
            f"({first['machine']}, {first['date']}); peaks {first['peak_flops'] / 1e9:,.0f} "
            f"GFLOP/s, {first['peak_bytes'] / 1e9:,.0f} GB/s:",
            "",
            "| part | form | ms | of plain | GFLOP | MB | GFLOP/s | GB/s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        plain: dict[str, float] = {}  # time of a part's first form
        for row in group:
            usual = row["ms"]["median"]
            plain.setdefault(row["part"], usual)
            form = f"**{row['form']}**" if row["chosen"] else row["form"]
            lines.append(
                f"| {row['part']} | {form} | {spread(row['ms'], 3)} "
                f"| {usual / plain[row['part']]:.2f} | {row['flops'] / 1e9:,.2f} "
                f"| {row['bytes'] / 1e6:,.1f} | {row['flops_rate'] / 1e9:,.0f} "
                f"| {row['bytes_rate'] / 1e9:,.0f} |"
            )
        lines.append("")
    return lines[:-1]
