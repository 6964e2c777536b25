"""Recovers the same images with activations in float32 and in bfloat16, and compares their losses.

python benchmarks/dtype_curves.py                             a small recipe of digits
python benchmarks/dtype_curves.py --chart=curves.png -- --config=configs/imagenet_lite0.py

Both recoveries have one teacher, one seed and so the same views. Flags after `--` go to the
command. Prints each term's mean over batches and a tenth of the iterations, for both types, and the
largest difference of their sum; draws the curves where --chart asks for it. Ends with status 1
where recovery refused bfloat16.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import kills
import numpy as np
from matplotlib.figure import Figure

from delt_jax.recovery.run.loss_history import of_columns
from delt_jax.recovery.types import Losses
from delt_jax.store import files

TYPES = ("float32", "bfloat16")
TERMS = {"loss": "objective", "cross_entropy": "cross-entropy", "bn": "BatchNorm matching"}
_TENTHS = 10
_TOLD = 2000  # letters of a failed run
_ASKED = "import jax; print(jax.local_devices()[0].device_kind)"


def recover(flags: Sequence[str], workdir: Path, dtype: str) -> Losses:
    """Runs the command up to recovery; ends this process if it fails.

    Returns:
      float32 [batches, iterations] each.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "delt_jax.main", *flags),
            *(f"--workdir={workdir}", "--stages=squeeze,rank,recover"),
            f"--config.recover.dtype={dtype}",
        ],
        cwd=kills.ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"dtype_curves: a run failed:\n{done.stderr[-_TOLD:]}")
    used = files.read_json(workdir / "distilled/manifest.json")["execution"]["dtype"]
    if used != dtype:
        raise SystemExit(f"dtype_curves: recovery used {used} in place of {dtype}")
    return of_columns(files.read_npz(workdir / "distilled/losses.npz", "recover"))


def curve(losses: Losses, term: str) -> np.ndarray:
    """A term's mean over the batches that run, float64 [iterations]."""
    return np.nanmean(getattr(losses, term).astype(np.float64), axis=0)


def tenths(values: np.ndarray) -> list[float]:
    """Means of ten equal parts of a curve, in order."""
    return [float(part.mean()) for part in np.array_split(values, _TENTHS)]


def table(losses: Mapping[str, Losses]) -> list[str]:
    """Lines of a table, and the difference of the objectives over the tenths."""
    parts = range(1, _TENTHS + 1)
    lines = [
        "| term | type | " + " | ".join(f"{10 * k} %" for k in parts) + " |",
        "|---|---" + "|---" * _TENTHS + "|",
    ]
    for term, words in TERMS.items():
        for dtype, each in losses.items():
            means = " | ".join(f"{value:.4g}" for value in tenths(curve(each, term)))
            lines.append(f"| {words} | {dtype} | {means} |")
    full, half = (np.asarray(tenths(curve(losses[dtype], "loss"))) for dtype in TYPES)
    apart = float(np.abs(half / full - 1).max())
    return [*lines, f"- objectives of a tenth differ by at most {100 * apart:.2f} %"]


def chart(losses: Mapping[str, Losses]) -> bytes:
    """The curves of both types, a panel for each term, as a PNG file."""
    figure = Figure(figsize=(10, 3.2), facecolor="white")
    for axes, (term, words) in zip(figure.subplots(1, len(TERMS)), TERMS.items(), strict=True):
        for dtype, style in zip(TYPES, ("-", ":"), strict=True):
            axes.plot(curve(losses[dtype], term), style, label=dtype, linewidth=1.4)
        axes.set(title=words, xlabel="iteration", yscale="log")
    axes.legend(frameon=False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def main() -> None:
    """Runs both and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chart", type=Path, help="PNG file to write")
    parser.add_argument("flags", nargs="*", help="flags of delt_jax.main, after --")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dtype_curves_") as name:
        folder = Path(name)
        flags = chosen.flags or [f"--config={kills.write_recipe(folder)}"]
        losses = {}
        for dtype in TYPES:  # one work directory: the teacher is trained once
            losses[dtype] = recover(flags, folder / "run", dtype)
            print(f"{dtype} done", file=sys.stderr, flush=True)
    print("\n".join(table(losses)))
    if chosen.chart:
        chosen.chart.write_bytes(chart(losses))
    asked = subprocess.run([sys.executable, "-c", _ASKED], capture_output=True, text=True)
    print(f"- {' '.join(flags)}; {asked.stdout.strip()}, {date.today().isoformat()}")


if __name__ == "__main__":
    main()
