"""The one place that knows about devices: jobs spread over them, or shared by them, by `pmap`."""

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np

# Of the mesh that pmap makes: where arrays are placed under another name it compiles twice.
AXIS = "devices"


def device_count() -> int:
    """Number of local devices."""
    return jax.local_device_count()


def memory_limit() -> int | None:
    """Bytes that a local device's allocator may use, or None where it does not say (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return (stats or {}).get("bytes_limit")


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


def map_jobs(
    fn: Callable[..., Any], width: int, stack: int = 1, unroll: bool = False
) -> Callable[..., Any]:
    """Compiles ``fn(state, job, shared)`` to run `width` x `stack` jobs at once.

    Args:
      fn: pure; `state` is donated.
      width: number of devices used, at most `device_count()`.
      stack: jobs on each device, vmapped: every job keeps statistics of its own, but the
        compiler may round otherwise than for a job alone.
      unroll: write the jobs of a device one after the other in its program in place of vmap,
        which turns weights that differ between jobs into grouped convolutions.

    Returns:
      The same function of (states, jobs, shared), where states and jobs have leading axes
      [width, stack] and `shared` is the same for all.
    """

    # What lies between the barriers is compiled to the same instructions for one device as for
    # many; otherwise it is simplified together with its surroundings, and rounds differently.
    barrier = jax.lax.optimization_barrier

    def on_a_device(states, jobs, shared):
        if stack > 1 and unroll:
            states, jobs, shared = barrier((states, jobs, shared))
            lanes = [jax.tree.map(lambda x, i=i: x[i], (states, jobs)) for i in range(stack)]
            done = [fn(state, job, shared) for state, job in lanes]
            return barrier(jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *done))
        if stack > 1:
            return barrier(jax.vmap(fn, in_axes=(0, 0, None))(*barrier((states, jobs, shared))))
        states, jobs = jax.tree.map(lambda x: x[0], (states, jobs))
        return jax.tree.map(lambda x: x[None], barrier(fn(*barrier((states, jobs, shared)))))

    devices = jax.local_devices()[:width]
    return jax.pmap(on_a_device, AXIS, in_axes=(0, 0, None), donate_argnums=0, devices=devices)


def share_job(fn: Callable[..., Any], width: int) -> Callable[..., Any]:
    """Compiles ``fn(state, job, shared)`` to run on `width` devices that share one job.

    Args:
      fn: pure; averages over `AXIS` what the devices must agree on; `state` is donated.
      width: number of devices, at most `device_count()`.

    Returns:
      The same function, where `state` and what is returned have a leading axis [width] of equal
      copies; see `stack_jobs`, which also places jobs.
    """

    devices = jax.local_devices()[:width]
    return jax.pmap(fn, AXIS, in_axes=(0, 0, None), donate_argnums=0, devices=devices)


def stack_jobs(trees: Sequence[Any], width: int, stack: int = 1) -> Any:
    """Brings one pytree per job to the devices, with leading axes [width, stack].

    A short wave repeats its last job in the places that would idle; the caller drops what
    they return.
    """
    padded = list(trees) + [trees[-1]] * (width * stack - len(trees))
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:width]), AXIS)
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def place(*leaves):
        # Numpy's stay on the host until each device takes its own.
        stacked = (np if isinstance(leaves[0], np.ndarray) else jax.numpy).stack(leaves)
        return jax.device_put(stacked.reshape(width, stack, *stacked.shape[1:]), spread)

    return jax.tree.map(place, *padded)


def stack_copies(tree: Any, width: int) -> Any:
    """Brings a pytree to `width` devices that share a job, with a leading axis [width]."""
    return jax.tree.map(lambda leaf: leaf[:, 0], stack_jobs([tree] * width, width))


def job(tree: Any, i: int) -> Any:
    """Host copy of job i of a pytree with leading axes [width, stack], not moving the others."""

    def read(leaf: chex.Array) -> np.ndarray:
        device, lane = divmod(i, leaf.shape[1])
        for shard in leaf.addressable_shards:
            where = shard.index[0]
            start = where.start or 0
            if start <= device < start + shard.data.shape[0]:
                return np.array(shard.data[device - start, lane])
        raise IndexError(f"job {i} is on no local device")

    return jax.tree.map(read, tree)
