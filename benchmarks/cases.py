"""What the scripts that time us and PyTorch in turns have in common: flags, and a row per case."""

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
    """The flags of all of them; defaults depend on the device.

    Args:
      doc: of the script, whose first line says what it does.
      cases: all of them, ending with their pixels.
      seconds: of measuring.
      dtype_of: what has the type, for people.
    """
    on_cpu = jax.default_backend() == "cpu"
    usual = [name for name in cases if not (on_cpu and name.endswith("/224"))]
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = made.add_argument
    add("--cases", default=",".join(usual), help=f"by commas, of {', '.join(cases)}")
    add("--seconds", type=float, default=seconds, help="of measuring, per case; at least 3 passes")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help=f"of {dtype_of}")
    add("--default_malloc", action="store_true", help="leave the C library's allocator as it is")
    add("--write", action="store_true", help=f"keep the results, fill {PAGE}")
    return made


def parse(made: argparse.ArgumentParser, cases: Iterable[str]) -> argparse.Namespace:
    """Reads the flags; ends the script at a case that is not there."""
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
      script: its name, also of its results.
      chosen: its flags.
      measure: makes the row of a case.
      tables: of rows, as lines.
      key: columns that tell rows apart.
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
