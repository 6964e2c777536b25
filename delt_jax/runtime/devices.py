"""The only module that knows about devices: `pmap` spreads jobs over them, or shares one job."""

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import chex
import jax
import numpy as np

# Also the name of the mesh axis that pmap makes: arrays put on a mesh of another name make it
# compile twice.
AXIS = "devices"

Lanes = Literal["vmap", "unrolled", "in_turn"]  # of the jobs of a device, see `map_jobs`


def device_count() -> int:
    """Number of local devices."""
    return jax.local_device_count()


def kind() -> str:
    """What the local devices are, as their maker names them."""
    return jax.local_devices()[0].device_kind


def memory_limit() -> int | None:
    """Bytes that the allocator of a local device may use; None where it does not tell (CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return (stats or {}).get("bytes_limit")


def describe() -> str:
    """One line on the machine, for reports: devices, CPU cores, versions of Python and JAX."""
    return (
        f"{device_count()} x {kind()}, {os.cpu_count()} {_cpu_name()} cores, "
        f"Python {platform.python_version()}, JAX {jax.__version__}"
    )


def here_and_now() -> dict[str, str]:
    """The machine and the date, as manifests say where and when something was made."""
    return {"date": datetime.date.today().isoformat(), "machine": describe()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def device_groups(jobs: Sequence[Any], size: int) -> list[list[Any]]:
    """Cuts jobs, in order, into groups of at most `size` that run at once."""
    return [list(jobs[i : i + size]) for i in range(0, len(jobs), size)]


def map_jobs(
    fn: Callable[..., Any],
    num_devices: int,
    per_device: int = 1,
    lanes: Lanes = "vmap",
    donate: bool = True,
) -> Callable[..., Any]:
    """Compiles ``fn(state, job, shared)`` to run `num_devices` x `per_device` jobs at once.

    Args:
      fn: a pure function. With one job on each device it may exchange values over `AXIS`.
      num_devices: local devices to use, at most `device_count()`.
      per_device: jobs on each device. Every job keeps its own statistics, but the compiler may
        round differently than for a job alone.
      lanes: how the jobs of a device are in its program: under vmap, which turns weights that
        differ between jobs into slow grouped convolutions; written out one after another
        ("unrolled"); or one after another in a loop ("in_turn"), which is compiled once.
      donate: whether `state` may be overwritten.

    Returns:
      The same function of (states, jobs, shared), where states and jobs have leading axes
      [num_devices, per_device] and `shared` is the same for all.
    """

    # Without the barriers XLA simplifies fn together with the code around it, which differs with
    # the number of devices, and then the last bits of the results differ, too.
    barrier = jax.lax.optimization_barrier

    def on_a_device(states, jobs, shared):
        """Takes states and jobs with a leading axis [per_device]."""
        if per_device > 1 and lanes == "unrolled":
            states, jobs, shared = barrier((states, jobs, shared))
            each = [jax.tree.map(lambda x, i=i: x[i], (states, jobs)) for i in range(per_device)]
            done = [fn(state, job, shared) for state, job in each]
            return barrier(jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *done))
        if per_device > 1 and lanes == "in_turn":
            states, jobs, shared = barrier((states, jobs, shared))
            return barrier(jax.lax.map(lambda one: fn(*one, shared), (states, jobs)))
        if per_device > 1:
            return barrier(jax.vmap(fn, in_axes=(0, 0, None))(*barrier((states, jobs, shared))))
        states, jobs = jax.tree.map(lambda x: x[0], (states, jobs))
        return jax.tree.map(lambda x: x[None], barrier(fn(*barrier((states, jobs, shared)))))

    devices = jax.local_devices()[:num_devices]
    donated = 0 if donate else ()
    return jax.pmap(
        on_a_device, AXIS, in_axes=(0, 0, None), donate_argnums=donated, devices=devices
    )


def stack_jobs(trees: Sequence[Any], num_devices: int, per_device: int = 1) -> Any:
    """Stacks one pytree per job on the devices, with leading axes [num_devices, per_device].

    If there are too few jobs, the last one is repeated; the caller drops the repeated results.
    """
    padded = list(trees) + [trees[-1]] * (num_devices * per_device - len(trees))
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:num_devices]), AXIS)
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def put(*leaves):
        # Numpy's stay on the host until each device takes its own.
        stacked = (np if isinstance(leaves[0], np.ndarray) else jax.numpy).stack(leaves)
        return jax.device_put(stacked.reshape(num_devices, per_device, *stacked.shape[1:]), spread)

    return jax.tree.map(put, *padded)


def replicated(tree: Any, num_devices: int) -> Any:
    """Copies a pytree to each of so many devices, for the argument that all jobs share."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:num_devices]), AXIS)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(leaf, everywhere), tree)


def copies_for_jobs(tree: Any, num_devices: int) -> Any:
    """Copies a pytree to devices, with leading axes [num_devices, 1], as one part of their jobs.

    The host needs no copies of its own.
    """
    local = jax.local_devices()[:num_devices]
    mesh = jax.sharding.Mesh(np.array(local), AXIS)
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def put(leaf):
        pieces = [jax.device_put(leaf[None, None], device) for device in local]
        shape = (num_devices, 1, *leaf.shape)
        return jax.make_array_from_single_device_arrays(shape, spread, pieces)

    return jax.tree.map(put, tree)


def job(tree: Any, i: int) -> Any:
    """Copies job i of a pytree with leading axes [num_devices, per_device] to the host.

    Moves no other job's arrays.
    """

    def read(leaf: chex.Array) -> np.ndarray:
        device, lane = divmod(i, leaf.shape[1])
        for shard in leaf.addressable_shards:
            where = shard.index[0]
            start = where.start or 0
            if start <= device < start + shard.data.shape[0]:
                return np.array(shard.data[device - start, lane])
        raise IndexError(f"job {i} is on no local device")

    return jax.tree.map(read, tree)
