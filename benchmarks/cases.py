"""Shared by the scripts that time delt_jax and PyTorch in turns: flags, and a row per case.

Import it before JAX and torch: it makes what the commands make before they start.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from typing import Any

from delt_jax.runtime import environment, host_memory

# Before any thread starts; both sides have it.
KEPT = "--default_malloc" not in sys.argv and host_memory.keep_freed()
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # of a GPU; the rest is torch's
environment.import_jax()

import jax
import measured
import torch
import torch_recovery

from delt_jax.errors import UserError
from delt_jax.runtime import devices

PAGE = "docs/performance.md"
_SECONDS_OF_A_GPU = 15  # so that all cases take a few minutes; its speed hardly varies
_COMPILED = "also time PyTorch through torch.compile; by default not on a CPU"


def parser(doc: str, cases: Iterable[str], seconds: float, dtype_of: str):
    """The flags that all of these scripts have; defaults depend on the device.

    Args:
      doc: docstring of the script; its first line becomes the description.
      cases: names of all cases, each ending with the side of its images in pixels.
      seconds: default of --seconds on a CPU.
      dtype_of: what --dtype is the type of.
    """
    seconds = seconds if jax.default_backend() == "cpu" else _SECONDS_OF_A_GPU
    on_cpu = jax.default_backend() == "cpu"
    usual = [name for name in cases if not (on_cpu and name.endswith("/224"))]
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = made.add_argument
    add("--cases", default=",".join(usual), help=f"some of {','.join(cases)}")
    add("--seconds", type=float, default=seconds, help="to measure each case, at least 3 passes")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help=f"of {dtype_of}")
    add("--compiled", action=argparse.BooleanOptionalAction, default=not on_cpu, help=_COMPILED)
    add("--default_malloc", action="store_true", help="do not tune the C library's allocator")
    add("--write", action="store_true", help=f"write the results and {PAGE}")
    return made


def parse(made: argparse.ArgumentParser, cases: Collection[str]) -> argparse.Namespace:
    """Reads the flags; ends the script if a case does not exist."""
    chosen = made.parse_args()
    chosen.cases = some_of(made, "case", chosen.cases, cases)
    return chosen


def some_of(
    made: argparse.ArgumentParser, kind: str, asked: str, known: Collection[str]
) -> list[str]:
    """Names with commas between, as a list; ends the script if one is not known."""
    names = asked.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        made.error(f"there is no {kind} {unknown[0]!r}; there are {', '.join(known)}")
    return names


def surroundings(device: torch.device) -> dict[str, Any]:
    """Entries of a row on machine, versions, flags and allocator."""
    return {
        "allocator": "kept" if KEPT else "default",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "torch_device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch_version": torch.__version__,
        "machine": devices.describe(),
        "date": date.today().isoformat(),
    }


def run(
    script: str,
    chosen: argparse.Namespace,
    measure: Callable[[str, argparse.Namespace, torch.device], dict[str, Any]],
    tables: Callable[[Sequence[dict[str, Any]]], Sequence[str]],
    key: Sequence[str],
) -> None:
    """Measures every case, prints their tables and, if asked, keeps and publishes them.

    Args:
      script: name of the script and of its results.
      chosen: its flags.
      measure: makes the row of a case.
      tables: formats rows as lines of Markdown.
      key: columns that identify a row.
    """
    device = torch_recovery.prepare(len(os.sched_getaffinity(0)))
    if (device.type == "cpu") != (jax.default_backend() == "cpu"):
        say(f"JAX runs on {jax.default_backend()}, torch on {device.type}: no fair comparison.")
    rows = []
    try:
        for name in chosen.cases:
            rows.append(measure(name, chosen, device))
            if chosen.write:  # beside those of earlier runs
                stored = measured.keep(script, jax.default_backend(), rows[-1:], key)
                measured.publish(PAGE, tables(stored), script)
    except UserError as e:
        sys.exit(f"{script}: {e}")
    print("\n".join(tables(rows)))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
