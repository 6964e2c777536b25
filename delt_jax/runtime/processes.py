"""Several processes of one job: who does what, how they agree and wait, and how they end together.

They talk through the coordination service of `jax.distributed`, which process 0 runs: it needs no
device, takes any number of them, and a wait for hours can look for signals all the time. A
collective on devices can do neither. JAX has no public name for the service's client; Orbax and
JAX's own array serialization use the one that is used here.

When a process dies, JAX ends the others by SIGABRT: at once where it was process 0, after
`_HEARTBEAT` seconds elsewhere. One that ends by a signal or an error tells the others, which then
stop where nothing is lost.
"""

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import distributed

from delt_jax.core import ending, progress, stopping
from delt_jax.errors import UserError

_HEARTBEAT = 30  # seconds without a sign of life, after which a process is dead
_LOOK = 1  # seconds of a wait between two looks for signals
_TOLD = 10  # seconds after which process 0 says that it waits
_TO_LEAVE = 20  # seconds that process 0 gives the others to save and leave
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses of signals that are obeyed
_MOST_NAMED = 3  # differences between processes


class _Job:
    """This process within its job.

    Attributes:
      index: of this process.
      count: of all.
      client: of the coordination service.
      turn: number of exchanges so far, equal in all processes.
      ended: index and exit status of the process that asked the others to stop.
    """

    def __init__(self, index: int, count: int, client: Any):
        """Starts to listen for the others' end."""
        self.index, self.count, self.client = index, count, client
        self.turn = 0
        self.ended: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        """Asks this process to stop when another one has ended early."""
        while (said := self.get("end", _LOOK)) is None:
            continue
        index, status = json.loads(said)
        if status == 0 or index == self.index:
            return
        self.ended = index, status
        how = "is stopping" if status in _STOPPED else f"ends with exit status {status}"
        _complain(f"process {index} of {self.count} {how}, so this one stops, too")
        stopping.request(signal.SIGTERM)

    def say_end(self, status: int) -> None:
        """Tells all processes that this one ends, unless another one did before."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # it is there already
            self.client.key_value_set("delt_jax/end", json.dumps([self.index, status]))

    def stop_listening(self) -> None:
        """Waits until the listening thread has heard of an end."""
        self._thread.join()

    def set(self, key: str, value: bytes) -> None:
        """Gives the others a value."""
        self.client.key_value_set_bytes(f"delt_jax/{key}", value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value that a process gave; None if that is not there in time."""
        try:
            return self.client.blocking_key_value_get_bytes(f"delt_jax/{key}", int(1000 * seconds))
        except jax.errors.JaxRuntimeError as e:
            if "DEADLINE_EXCEEDED" in str(e):
                return None
            time.sleep(_LOOK)  # process 0 is gone: JAX is about to end this one
            return None

    def wait(self, key: str, line: str = "") -> bytes:
        """A value as soon as a process gives it, were it in hours; every look is a safe point.

        Args:
          key: of the value.
          line: that is said after `_TOLD` seconds, if any.
        """
        started = time.monotonic()
        while True:
            stopping.check()
            value = self.get(key, _LOOK)
            if value is not None:
                return value
            if line and time.monotonic() - started > _TOLD:
                progress.say(line)
                line = ""

    def next_turn(self) -> str:
        """Name of the next exchange."""
        self.turn += 1
        return str(self.turn)


_jobs: list[_Job] = []  # this process's, if it has one


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
    # JAX's notifier of preemption would take SIGTERM from our handlers, and a job that recovers
    # from a death would not end with it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", False)
    # By hand, every process has all devices of its host; SLURM's detection would leave it one.
    how = None if auto else "deactivate"
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method=how,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as e:
        reason = str(e).splitlines()[0].rstrip(".")
        raise UserError(
            f"The processes of this job could not be joined ({reason}); give every process the "
            f"same --coordinator_address and --num_processes, and its own --process_id."
        ) from e
    joined = distributed.global_state
    job = _Job(joined.process_id, joined.num_processes, joined.client)
    _jobs.append(job)
    if job.index:
        progress.be_quiet(f"process {job.index} of {job.count}: ")
    ending.before(_leave)


def _leave(status: int) -> int:
    """Ends this process of the job, in order after success, else without waiting for all others.

    Returns:
      The exit status; it does not return where Python's own end would wait for dead processes.
    """
    job = _jobs.pop()
    if status == 0:
        try:
            _meet(job)
            if job.index == 0:
                job.say_end(0)
            job.stop_listening()
            jax.distributed.shutdown()
            return 0
        except stopping.Stopped as e:  # another one has failed in the meantime
            status = e.status
        except jax.errors.JaxRuntimeError as e:
            status = 1
            _complain(f"the processes did not end together ({' '.join(str(e).split())[:200]})")
    job.say_end(status)
    if job.ended and job.ended[0] != job.index and job.ended[1] not in _STOPPED:
        status = 1  # not as if a signal had come from outside
    if job.index:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
            job.set(f"left/{job.index}", b"")
    else:
        deadline = time.monotonic() + _TO_LEAVE
        for other in range(1, job.count):  # they cannot go on without this one
            job.get(f"left/{other}", max(deadline - time.monotonic(), 0.001))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"delt_jax: {sentence}.\n".encode())


def count() -> int:
    """Number of processes."""
    return _jobs[0].count if _jobs else 1


def index() -> int:
    """This one among them; 0 is the first."""
    return _jobs[0].index if _jobs else 0


def is_first() -> bool:
    """Whether this is process 0, which alone writes artefacts and talks to the user."""
    return index() == 0


def share(items: Sequence[Any], of: int | None = None, among: int | None = None) -> list[Any]:
    """What a process takes of a list that all processes have alike: every n-th.

    Args:
      items: the full list, finished work included.
      of: index of the process; this one's by default.
      among: number of processes.
    """
    of, among = index() if of is None else of, count() if among is None else among
    return list(items[of::among])


def barrier(what: str) -> None:
    """Waits until all processes are here, were it for hours.

    Args:
      what: is done by then, for the line that says what process 0 waits for.

    Raises:
      Stopped: if a signal has come, or another process has ended early.
    """
    if _jobs:
        _meet(_jobs[0], what)


def _meet(job: _Job, what: str = "") -> None:
    turn = job.next_turn()

    if job.index == 0:
        for other in range(1, job.count):
            line = f"  waits for process {other} of {job.count}: {what}" if what else ""
            job.wait(f"{turn}/{other}", line)
        job.set(f"{turn}/go", b"")
    else:
        job.set(f"{turn}/{job.index}", b"")
        job.wait(f"{turn}/go")


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """A context that process 0 goes through first, and the others once it has, with what it left.

    Args:
      what: is done in it.
    """
    if not is_first():
        barrier(what)
    yield
    if is_first():
        barrier(what)


def broadcast(value: Any = None) -> Any:
    """The value of process 0, in all processes; as JSON has it, so that tuples become lists.

    Args:
      value: what JSON can hold; only process 0's counts.
    """
    if not _jobs:
        return value
    job = _jobs[0]
    turn = job.next_turn()
    if job.index == 0:
        job.set(f"{turn}/go", json.dumps(value).encode())
    return json.loads(job.wait(f"{turn}/go"))


def gather(array: np.ndarray) -> list[np.ndarray]:
    """The array of every process, in their order, in all processes.

    Args:
      array: on the host, of a type that NumPy saves; shapes may differ.
    """
    if not _jobs:
        return [np.asarray(array)]
    job = _jobs[0]
    turn, content = job.next_turn(), io.BytesIO()
    np.save(content, array, allow_pickle=False)
    job.set(f"{turn}/{job.index}", content.getvalue())
    contents = [io.BytesIO(job.wait(f"{turn}/{i}")) for i in range(job.count)]
    arrays = [np.load(each, allow_pickle=False) for each in contents]
    _meet(job)
    job.client.key_value_delete(f"delt_jax/{turn}/{job.index}")  # the service keeps all else
    return arrays


def agree(facts: Mapping[str, str]) -> None:
    """Checks that all processes have the same facts.

    Args:
      facts: texts by name; the same names in all processes of one version.

    Raises:
      UserError: in all processes, saying what differs.
    """
    stated = json.dumps(dict(facts)).encode()
    each = gather(np.frombuffer(stated, np.uint8))
    first, *others = (json.loads(array.tobytes()) for array in each)
    for other, theirs in enumerate(others, 1):
        differ = [
            f"{name} is {first.get(name, 'unknown')} in process 0 and "
            f"{theirs.get(name, 'unknown')} in process {other}"
            for name in sorted(first.keys() | theirs.keys())
            if first.get(name) != theirs.get(name)
        ]
        if differ:
            more = len(differ) - _MOST_NAMED
            listed = "; ".join(differ[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
            raise UserError(
                f"The processes of this job do not agree: {listed}; start all with the same "
                f"command, code and data, on devices of one kind."
            )
