"""Shared by the scripts that time delt_jax and PyTorch in turns: flags, and a row per case."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import measured
import torch
import torch_recovery

from delt_jax.errors import UserError

PAGE = "docs/performance.md"


def parser(doc: str, cases: Iterable[str], seconds: float, dtype_of: str):
    """The flags that all of these scripts have; defaults depend on the device.

    Args:
      doc: docstring of the script; its first line becomes the description.
      cases: names of all cases, each ending with the side of its images in pixels.
      seconds: default of --seconds.
      dtype_of: what --dtype is the type of.
    """
    on_cpu = jax.default_backend() == "cpu"
    usual = [name for name in cases if not (on_cpu and name.endswith("/224"))]
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = made.add_argument
    add("--cases", default=",".join(usual), help=f"some of {','.join(cases)}")
    add("--seconds", type=float, default=seconds, help="to measure each case, at least 3 passes")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help=f"of {dtype_of}")
    add("--default_malloc", action="store_true", help="do not tune the C library's allocator")
    add("--write", action="store_true", help=f"write the results and {PAGE}")
    return made


def parse(made: argparse.ArgumentParser, cases: Iterable[str]) -> argparse.Namespace:
    """Reads the flags; ends the script if a case does not exist."""
    chosen = made.parse_args()
    chosen.cases = chosen.cases.split(",")
    unknown = [name for name in chosen.cases if name not in cases]
    if unknown:
        made.error(f"there is no case {unknown[0]!r}; there are {', '.join(cases)}")
    return chosen


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
