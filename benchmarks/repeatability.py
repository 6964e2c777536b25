"""Runs a recipe twice with one seed and compares every bit; times what equal bits cost on a GPU.

python benchmarks/repeatability.py                          a small recipe, a minute on a CPU
python benchmarks/repeatability.py --config=configs/fashion_mnist.py -- --config.teacher.epochs=2

Each run is a process with a new work directory and an empty compile cache, so that XLA chooses its
kernels anew. Compared are all files of squeeze, rank, recover, relabel and evaluate but for times.
On a GPU squeeze is then timed with the flags of `delt_jax.runtime.environment` and without them, in
turns, from programs that are compiled already. Flags after `--` go to the command. Ends with status
1 if anything differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import kills
from measured import quotients, spread, summary

from delt_jax.runtime import environment

STAGES = "squeeze,rank,recover,relabel,evaluate"
WITHOUT = "--xla_gpu_deterministic_ops=false"
ASKED = "import jax; print(jax.default_backend(), jax.local_devices()[0].device_kind, sep='|')"
_TOLD = 2000  # letters of a failed run


def run(flags: Sequence[str], workdir: Path, cache: Path, xla_flags: str = "") -> None:
    """Runs the command in a process of its own; ends this one if it fails."""
    users = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, "-m", "delt_jax.main", *flags, f"--workdir={workdir}"],
        cwd=kills.ROOT,
        env=os.environ
        | {"JAX_COMPILATION_CACHE_DIR": str(cache), "XLA_FLAGS": f"{users} {xla_flags}".strip()},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"repeatability: a run failed:\n{done.stderr[-_TOLD:]}")


def twice(flags: Sequence[str], folder: Path) -> list[str]:
    """Makes everything twice.

    Returns:
      A line for each folder or file of the work directory.
    """
    made = folder / "run"  # one command line for both, as it is recorded
    for name in ("first", "second"):
        run([*flags, f"--stages={STAGES}"], made, folder / f"cache_{name}")
        made.rename(folder / name)
        print(f"{name} run done", file=sys.stderr, flush=True)
    unlike = kills.differences(folder / "first", folder / "second")
    parts = sorted({path.name for path in (folder / "first").iterdir()} - set(kills.LOGS))
    return [
        verdict(part, [name for name in unlike if Path(name).parts[0] == part]) for part in parts
    ]


def verdict(part: str, unlike: Sequence[str]) -> str:
    """A line on what a stage made."""
    said = f"DIFFERENT in {', '.join(unlike[:5])}" if unlike else "identical"
    return f"- {part}: {said}"


def cost(flags: Sequence[str], folder: Path, rounds: int) -> str:
    """A line on the seconds of squeeze with our flags and without, in turns."""
    seconds: dict[str, list[float]] = {"": [], WITHOUT: []}
    for turn in range(1 + rounds):  # the first one compiles
        for xla_flags, taken in seconds.items():
            made = folder / "timed"
            cache = folder / ("cache_without" if xla_flags else "cache_with")
            run([*flags, "--stages=squeeze"], made, cache, xla_flags)
            spent = json.loads((made / "teacher/manifest.json").read_text("utf-8"))["seconds"]
            shutil.rmtree(made)
            print(f"squeeze {xla_flags}: {spent} s", file=sys.stderr, flush=True)
            if turn:
                taken.append(spent)
    ours, plain = seconds.values()
    more = 100 * (quotients(ours, plain)["median"] - 1)
    return (
        f"- squeeze: {spread(summary(ours), 1)} s with equal bits, {spread(summary(plain), 1)} s "
        f"without: {more:+.1f} %"
    )


def main() -> int:
    """Runs both; the exit status says whether all bits were equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="a recipe; by default a small one of digits")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of squeeze each")
    parser.add_argument("flags", nargs="*", help="more flags of delt_jax.main, after --")
    chosen = parser.parse_args()
    asked = subprocess.run(
        [sys.executable, "-c", ASKED], capture_output=True, text=True, check=True
    )
    backend, device = asked.stdout.strip().split("|")
    with tempfile.TemporaryDirectory(prefix="repeatability_") as name:
        folder = Path(name)
        config = chosen.config or kills.write_recipe(folder)
        flags = [f"--config={config}", *chosen.flags]
        lines = twice(flags, folder)
        print("\n".join(lines), flush=True)
        if backend == "gpu":
            print(cost(flags, folder, chosen.rounds))
    used = environment.xla_flags(backend, os.environ.get("XLA_FLAGS", ""))
    print(f"- {device}, XLA_FLAGS={used!r}, {date.today().isoformat()}")
    return 1 if any("DIFFERENT" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
