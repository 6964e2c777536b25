"""Several processes that share one work directory: who does what, and how they start.

Batches of images are independent, so the processes never exchange data. Each takes its share of
the full list of batches, a pure function of its index, and writes it into the work directory;
the first process does everything else.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from delt_jax.core import stopping
from delt_jax.errors import UserError

_SECONDS_BETWEEN_LOOKS = 1.0


def start(
    auto: bool, coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Joins the other processes of the job by `jax.distributed`, if the flags ask for it.

    Args:
      auto: find everything in the environment (SLURM, TPU pods, GKE, Open MPI).
      coordinator: host:port of the first process, instead.
      count: number of processes.
      index: of this one.

    Raises:
      UserError: if the environment does not say, or the others cannot be reached.
    """
    if not auto and coordinator is None:
        return
    if importlib.util.find_spec("jax_cuda12_plugin"):
        # XLA would share out its timing of kernels, and wait for processes that compile nothing.
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_shard_autotuning=false"
        )
    jax.config.update("jax_enable_recoverability", True)  # one that dies does not end the others
    # By hand, every process has all devices of its host; SLURM's detection would leave it one.
    how = None if auto else "deactivate"
    try:
        jax.distributed.initialize(coordinator, count, index, cluster_detection_method=how)
    except (RuntimeError, ValueError) as e:
        reason = str(e).splitlines()[0].rstrip(".")
        raise UserError(
            f"The processes of this job could not be joined ({reason}); give every process the "
            f"same --coordinator_address and --num_processes, and its own --process_id."
        ) from e


def leave() -> None:
    """Takes leave of the other processes, if there are any; the first one must still be there."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def count() -> int:
    """Number of processes."""
    return jax.process_count()


def index() -> int:
    """This one among them; 0 is the first."""
    return jax.process_index()


def share(items: Sequence[Any], of: int | None = None, among: int | None = None) -> list[Any]:
    """What a process takes of a list that all processes have alike: every n-th.

    Args:
      items: the full list, finished work included, as hosts may look at different times.
      of: index of the process; this one's by default.
      among: number of processes.
    """
    of, among = index() if of is None else of, count() if among is None else among
    return list(items[of::among])


def barrier(name: str) -> None:
    """Waits until every process of the job has come here; see the branch that replaces this."""
    del name


def wait_until(done: Callable[[], bool], seconds: float | None = None) -> bool:
    """Looks again and again until something is done.

    Args:
      done: whether it is; a UserError of it means that files are not there yet.
      seconds: give up after so many; None: never.

    Returns:
      Whether it was done in time.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        stopping.check()
        try:
            if done():
                return True
        except UserError:
            pass
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(_SECONDS_BETWEEN_LOOKS)
