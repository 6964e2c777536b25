"""The table and the picture of label_store.py."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

KEY = ("data", "ipc", "labels", "stored_epochs", "top_k", "form", "epochs")  # of a row
_COLOURS = {"all logits": "#0072b2"}
_OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def kept(row: dict[str, Any]) -> str:
    """The stored part of a label, e.g. "3 probabilities"."""
    return f"{row['top_k'] or 'all'} {row['form']}"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: size and accuracy of every store beside online labels, and how it was measured."""
    lines = [
        "| IPC | labels | epochs stored | kept of each | bytes on disk | of all | last epoch "
        "| less than online |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = _groups(rows)
    for online, stored in groups:
        lines.append(
            f"| {online['ipc']} | online | – | – | – | – | {_percent(online)} "
            f"({online['seeds']} seeds) | – |"
        )
        for row in stored:
            loss = 100 * (online["last_mean"] - row["last_mean"])
            lines.append(
                f"| {row['ipc']} | stored | {row['stored_epochs']} of {row['epochs']} "
                f"| {kept(row)} | {row['bytes']:,} | 1/{1 / row['ratio']:.3g} "
                f"| {_percent(row)} ({row['seeds']} seeds) | {loss:+.2f} |"
            )
    lines.append("")
    for online, _ in groups:
        lines.append(
            f"- {online['data']}, IPC {online['ipc']}: {online['student']}; {online['protocol']}; "
            f"the set {online['distilled']}, the teacher {online['teacher']}; {online['machine']}, "
            f"{online['date']}."
        )
    return lines


def _groups(
    rows: Sequence[dict[str, Any]],
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Online rows, each with the stored ones of its set and epochs, the largest first."""
    groups = []
    for online in rows:
        if online["labels"] == "online":
            same = [
                row
                for row in rows
                if row["labels"] == "stored"
                and all(row[k] == online[k] for k in ("data", "ipc", "epochs", "distilled"))
            ]
            groups.append((online, sorted(same, key=lambda row: -row["bytes"])))
    return groups


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['last_mean']:.2f} ± {100 * row['last_std']:.2f}"


def picture(rows: Sequence[dict[str, Any]]) -> bytes:
    """Accuracy against bytes as PNG, a panel for each set; online labels are a band."""
    groups = _groups(rows)
    figure = Figure(figsize=(1 + 5 * len(groups), 4), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (online, stored) in zip(panels, groups, strict=True):
        mean, std = 100 * online["last_mean"], 100 * online["last_std"]
        axes.axhspan(mean - std, mean + std, color="0.85")
        axes.axhline(mean, color="0.5", label="online")
        forms = list(dict.fromkeys(kept(row) for row in stored))
        others = iter(_OTHERS)
        for form in forms:
            line = [row for row in stored if kept(row) == form]
            axes.errorbar(
                [row["bytes"] for row in line],
                [100 * row["last_mean"] for row in line],
                [100 * row["last_std"] for row in line],
                marker="o",
                capsize=3,
                label=form,
                color=_COLOURS.get(form) or next(others, None),
            )
        axes.set_xscale("log")
        axes.set_xlabel("bytes of stored labels")
        axes.set_ylabel("test accuracy after the last epoch, %")
        axes.set_title(f"{online['data']}, IPC {online['ipc']}")
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    return buffer.getvalue()
