"""Drives the learning of a set: chunks of outer steps, validations between them, and saves."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delt_jax.core import keys, stopping
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.core.progress import Progress
from delt_jax.data import Examples
from delt_jax.errors import UserError
from delt_jax.learned import checkpoint, pool, program
from delt_jax.learned.checkpoint import Progressed
from delt_jax.learned.method import Learned
from delt_jax.learned.program import LearnState, SetProgram, Shared, Turn
from delt_jax.learned.real_batches import Pixels, RealBatches, devices_for
from delt_jax.runtime import devices
from delt_jax.store.log import MetricsLog

_CHUNK = 50  # steps of a compiled call on an accelerator, at most
_CHUNK_BYTES = 2**28  # of real images of a call, at most
_LINES = 200  # of losses in the log of a whole run
_MOST_SKIPPED = 100  # steps on end that a method leaves out before a run is given up


@dataclass(frozen=True)
class LearnTask:
    """A set to be learned.

    Attributes:
      program: everything that is compiled in.
      seed: of the run.
      start: what is learned, before the first step; host arrays.
      preprocessing: of real images.
      examples: the real images.
      partial: existing folder of the unfinished set.
      log: gets losses and validations.
      chunk_steps: steps of a compiled call; 0 chooses.
      save_minutes: minutes between saves.
      validate_every: steps between validations; 0 for none.
      validate: accuracy in [0, 1], on validation images, of students of what is learned.
      segment: variables of the network that a step of a number asks, where the method walks on
        experts' trainings.
    """

    program: SetProgram
    seed: int
    start: Learned
    preprocessing: Preprocessing
    examples: Examples
    partial: Path
    log: MetricsLog
    chunk_steps: int = 0
    save_minutes: float = 5.0
    validate_every: int = 0
    validate: Callable[[Learned], float] | None = None
    segment: Callable[[int], Any] | None = None

    @property
    def steps(self) -> int:
        """Outer steps of the whole run."""
        return self.program.setup.steps


def chunk_steps(asked: int, setup: Any) -> int:
    """Steps of a compiled call: those that are asked for, or what suits the device.

    XLA's convolutions on CPUs are slow inside compiled loops, so a step is a call there.
    """
    if asked or jax.default_backend() == "cpu":
        return asked or 1
    images = setup.real_batch * setup.num_classes + setup.more_real  # by class, at most
    size = setup.spec.image_size**2 * setup.spec.channels
    return max(1, min(_CHUNK, _CHUNK_BYTES // (images * size)))


def begin(task: LearnTask) -> Progressed:
    """What an interrupted run left, or everything as it is before the first step."""
    size, lifetime = task.program.method.pool.size, task.program.setup.lifetime
    fresh = program.compile_fresh(task.program)
    networks = [
        jax.device_get(fresh(keys.stream(task.seed, "learn", "first network", number)))
        for number in range(size)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    ages = pool.first_ages(task.program.method.pool, lifetime)
    opt_state = jax.device_get(program.init_optimiser(task.program, task.start))
    opt_state = jax.tree.map(np.asarray, opt_state)
    average = jax.device_get(program.begin_average(task.program, task.start))
    state = LearnState(task.start, opt_state, stacked._replace(age=ages), average)
    first = Progressed(state, task.start, np.zeros(0, np.float32), (), 0.0)
    return checkpoint.restore(task.partial, first)


def finish(task: LearnTask, progressed: Progressed, bar: Progress) -> Progressed:
    """Takes the steps that are left.

    Must be called within `stopping.deferred`: everything is saved before a signal is obeyed.

    Args:
      task: the set to be learned.
      progressed: as `begin` returned it.
      bar: counts steps.

    Raises:
      UserError: if the loss diverges.
      Stopped: after a signal.
    """
    with ThreadPoolExecutor(1) as reader:
        return _Way(task, progressed, bar, reader).finish()


class _Way:
    """The way of a task through its steps; owns the state on the devices."""

    def __init__(
        self, task: LearnTask, progressed: Progressed, bar: Progress, reader: ThreadPoolExecutor
    ):
        """Brings the state to the devices."""
        setup, method = task.program.setup, task.program.method
        self._task, self._bar, self._reader = task, bar, reader
        self._devices = devices_for(setup.real_batch, devices.device_count())
        self._chunk = chunk_steps(task.chunk_steps, setup)
        self._real = RealBatches(task.examples, setup, task.seed, method.by_class)
        self._state = devices.copies_for_jobs(progressed.state, self._devices)
        self._best, self._validated = progressed.best, list(progressed.validated)
        self._losses = list(progressed.losses)
        self._step, self._ages = len(self._losses), progressed.state.pool.age
        self._waiting: list[Any] = []  # losses of the newest call, which nobody has read
        self._next: tuple[range, Future[Pixels]] | None = None
        self._earlier, self._started = progressed.seconds, time.monotonic()
        self._saved = self._started
        space = task.preprocessing
        key = keys.stream(task.seed, "learn")
        shared = Shared(key, space.matrix, space.centre)
        self._shared = devices.replicated(shared, self._devices)

    def finish(self) -> Progressed:
        """Takes the steps that are left, and validates where that is due."""
        while True:
            if self._is_validation_due():
                self._validate()
            steps = self._next_steps()
            if not steps:
                break
            self._waiting.append(self._take(steps))
            self._step += len(steps)
            self._read_losses(keep=1)
            self._save_if_due()
        self._read_losses(keep=0)
        return self._on_host()

    def _next_steps(self) -> range:
        """The steps of the next call, which ends where a chunk, a validation or the run does."""
        ends = [self._task.steps, self._step - self._step % self._chunk + self._chunk]
        if every := self._task.validate_every:
            ends.append(self._step - self._step % every + every)
        return range(self._step, min(ends))

    def _take(self, steps: range) -> Any:
        """Takes some steps; returns their losses, [devices, 1, steps] on the devices."""
        setup, width = self._task.program.setup, self._devices
        pixels = self._pixels(steps)
        turns = pool.turns(self._ages, setup.lifetime, self._task.seed, steps)
        self._ages = turns.ages
        turn = Turn(np.asarray(steps, np.int32), turns.drawn, turns.renews, self._segments(steps))
        if len(steps) > 1:
            chunk = program.compile_chunk(self._task.program, width, len(steps))
            self._state, losses = chunk(self._state, pixels, (self._shared, turn))
            return losses
        one = jax.tree.map(lambda x: x[0], turn)
        improve = program.compile_improve(self._task.program, width)
        self._state, losses = improve(self._state, pixels, (self._shared, one))
        if self._task.segment is not None:
            return losses  # experts stay as they are
        if one.renews:
            renew = program.compile_renew(self._task.program, width)
            self._state = renew(self._state, (), (self._shared, one))
        else:
            train = program.compile_train(self._task.program, width)
            self._state = train(self._state, pixels, (self._shared, one))
        return losses

    def _segments(self, steps: range) -> Any:
        """Networks from elsewhere, with a leading axis of steps; None where the pool has them."""
        if self._task.segment is None:
            return None
        segments = [self._task.segment(step) for step in steps]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *segments)

    def _pixels(self, steps: range) -> Pixels:
        """Real images of these steps; those of the next ones are read while devices work."""
        if self._next is not None and self._next[0] == steps:
            pixels = self._next[1].result()
        else:
            pixels = self._real.read(steps, self._devices)
        ahead = range(steps.stop, min(steps.stop + len(steps), self._task.steps))
        self._next = None
        if ahead:
            self._next = ahead, self._reader.submit(self._real.read, ahead, self._devices)
        return pixels

    def _read_losses(self, keep: int) -> None:
        """Reads the losses of all calls but the newest `keep`, shows and logs them."""
        while len(self._waiting) > keep:
            losses = np.asarray(devices.job(self._waiting.pop(0), 0), np.float32)
            self._check(losses)
            self._losses += list(losses)
            self._log(len(losses))
            self._bar.update(len(losses), loss=float(losses[-1]))

    def _check(self, losses: np.ndarray) -> None:
        """Raises a UserError if new losses are not finite, and the method does not skip these."""
        is_finite = np.isfinite(losses)
        if is_finite.all():
            return
        step = len(self._losses) + int(np.argmin(is_finite))
        if self._task.program.method.skips(self._task.program.setup):
            recent = np.isfinite([*self._losses[-_MOST_SKIPPED:], *losses])[-_MOST_SKIPPED:]
            if len(recent) < _MOST_SKIPPED or recent.any():
                return
            step = len(self._losses) + len(losses) - _MOST_SKIPPED
        raise UserError(
            f"The loss of learned images is not finite any more after step {step}; lower "
            f"learn.image_rate or learn.label_rate."
        )

    def _log(self, new: int) -> None:
        """Logs the mean loss of every part of the run that the newest losses complete.

        Steps that a method has left out are left out of it, too.
        """
        every, done = max(1, self._task.steps // _LINES), len(self._losses)
        for end in range(done - new + 1, done + 1):
            if end % every == 0 or end == self._task.steps:
                part = np.asarray(self._losses[max(0, end - every) : end])
                if (is_finite := np.isfinite(part)).any():
                    mean = float(part[is_finite].mean())
                    self._task.log.write("learn", end, loss=mean)

    def _is_validation_due(self) -> bool:
        every, step = self._task.validate_every, self._step
        if not every or not step or (step % every and step < self._task.steps):
            return False
        return step not in dict(self._validated)

    def _validate(self) -> None:
        """Trains students on what is learned so far, and keeps it if they are the best yet."""
        assert self._task.validate is not None
        self._save()  # training students is a place to stop at, too
        state = devices.job(self._state, 0)
        learned = program.outcome(self._task.program, state, self._step)
        accuracy = self._task.validate(learned)
        if accuracy > max((before for _, before in self._validated), default=-1.0):
            self._best = learned
        self._validated.append((self._step, accuracy))
        self._task.log.write("learn", self._step, validation_accuracy=accuracy)
        self._bar.update(0, validation=accuracy)
        self._save()

    def _save_if_due(self) -> None:
        """Saves when it is time or a signal has come, which is then obeyed."""
        late = time.monotonic() - self._saved > 60 * self._task.save_minutes
        if late or stopping.requested():
            self._save()
            stopping.leave()

    def _save(self) -> None:
        self._read_losses(keep=0)
        checkpoint.save(self._task.partial, self._on_host())
        self._saved = time.monotonic()

    def _on_host(self) -> Progressed:
        state = devices.job(self._state, 0)
        seconds = self._earlier + time.monotonic() - self._started
        losses = np.asarray(self._losses, np.float32)
        return Progressed(state, self._best, losses, tuple(self._validated), seconds)
