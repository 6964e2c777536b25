"""The one place that knows about devices: independent jobs spread over them by `jax.pmap`."""

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np


def device_count() -> int:
    """Number of local devices."""
    return jax.local_device_count()


def describe() -> str:
    """The machine in a line, for run cards: devices, CPU cores, Python and JAX versions."""
    kind = jax.local_devices()[0].device_kind
    return (
        f"{device_count()} x {kind}, {os.cpu_count()} {_cpu_name()} cores, "
        f"Python {platform.python_version()}, JAX {jax.__version__}"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def waves(jobs: Sequence[Any], width: int) -> list[list[Any]]:
    """Cuts jobs into waves of at most `width`, in order."""
    return [list(jobs[i : i + width]) for i in range(0, len(jobs), width)]


def map_jobs(fn: Callable[..., Any], width: int) -> Callable[..., Any]:
    """Compiles ``fn(state, job, shared)`` to run `width` jobs at once, one per device.

    Args:
      fn: pure; `state` is donated.
      width: number of devices used, at most `device_count()`.

    Returns:
      The same function of (states, jobs, shared), where states and jobs have a leading axis
      of `width` and `shared` is the same for all.
    """
    return jax.pmap(fn, in_axes=(0, 0, None), donate_argnums=0, devices=jax.local_devices()[:width])


def stack_jobs(trees: Sequence[Any], width: int) -> Any:
    """Stacks one pytree per job along a new leading axis of `width`.

    A short wave repeats its last job on the devices that would idle; the caller drops what
    they return.
    """
    padded = list(trees) + [trees[-1]] * (width - len(trees))
    return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *padded)


def job(tree: Any, i: int) -> Any:
    """Host copy of job i of a stacked pytree, without moving the others."""

    def read(leaf: chex.Array) -> np.ndarray:
        for shard in leaf.addressable_shards:
            where = shard.index[0]
            start = where.start or 0
            if start <= i < start + shard.data.shape[0]:
                return np.asarray(shard.data[i - start])
        raise IndexError(f"job {i} is on no local device")

    return jax.tree.map(read, tree)
