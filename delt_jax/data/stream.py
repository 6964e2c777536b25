"""The one loop that reads examples: in order, in batches, decoded ahead by worker processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from delt_jax.core import stopping
from delt_jax.data.source import Examples

# Workers take seconds to start, so they only start where the rest would take longer than this.
SECONDS_WORTH_WORKERS = 6.0
_PIECE = 32  # images that a worker sends at a time
_PIECES_AHEAD = 8  # pieces that wait per worker; bounds the memory


def batches(
    examples: Examples, size: int, order: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices, images) in order; the last batch may be smaller.

    `examples.workers` processes decode ahead, where there is something to decode; their number
    changes neither images nor order. Only a bounded number of images is in memory at a time.

    Args:
      examples: a split.
      size: images per batch.
      order: int [M], indices of the examples to read; None reads all of them.

    Yields:
      Indices int [size] and pixels uint8 [size, S, S, C].

    Raises:
      Stopped: if a signal has come: after every batch is a safe point.
    """
    order = np.arange(len(examples)) if order is None else order
    if examples.workers:
        pieces = _decoded(examples, order)
    else:
        pieces = (examples.images(order[i : i + size]) for i in range(0, len(order), size))
    waiting: list[np.ndarray] = []
    start = ready = 0
    with contextlib.closing(pieces):
        for piece in pieces:
            waiting.append(piece)
            ready += len(piece)
            while ready >= size or (ready and start + ready == len(order)):
                pixels = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
                taken = min(size, ready)
                yield order[start : start + taken], pixels[:taken]
                stopping.check()
                waiting = [pixels[taken:]]
                start, ready = start + taken, ready - taken


def read(examples: Examples, indices: np.ndarray) -> np.ndarray:
    """Pixels of the examples at `indices`, uint8 [len(indices), S, S, C]."""
    return np.concatenate([pixels for _, pixels in batches(examples, 4 * _PIECE, indices)])


def worker_count(setting: int) -> int:
    """The number of workers that `data.workers` asks for: -1 means one per core, 16 at most."""
    if setting >= 0:
        return setting
    usable = getattr(os, "sched_getaffinity", None)  # what a container allows; not on macOS
    return min(len(usable(0)) if usable else os.cpu_count() or 1, 16)


def _decoded(examples: Examples, order: np.ndarray) -> Generator[np.ndarray, None, None]:
    """Decodes in this process until the time spent so far says that workers would pay off."""
    spent = 0.0
    for i in range(0, len(order), _PIECE):
        started = time.perf_counter()
        images = examples.images(order[i : i + _PIECE])
        spent += time.perf_counter() - started
        yield images
        left = len(order) - i - _PIECE
        if left / (i + _PIECE) * spent > SECONDS_WORTH_WORKERS:
            yield from _decoded_ahead(examples, order[i + _PIECE :])
            return


@dataclass(frozen=True)
class _Pieces:
    """The examples as a grain source whose items are pieces, uint8 [<= 32, S, S, C]."""

    examples: Examples
    order: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.order) // _PIECE)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.examples.images(self.order[i * _PIECE : (i + 1) * _PIECE])


def _decoded_ahead(examples: Examples, order: np.ndarray) -> Generator[np.ndarray, None, None]:
    """Decodes in worker processes, a bounded number of pieces ahead."""
    # Importing grain takes most of a second, and small sets never need it.
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # grain reads flags of its own; a library call parses none
        flags.FLAGS.mark_as_parsed()
    pieces = grain.MapDataset.source(_Pieces(examples, order)).to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    # Through pipes: grain's shared memory is not always given back when the reader stops early.
    pieces = grain.experimental.WithOptionsIterDataset(
        pieces, grain.experimental.DatasetOptions(min_shm_size=2**62)
    )
    iterator = iter(
        pieces.mp_prefetch(
            grain.MultiprocessingOptions(examples.workers, per_worker_buffer_size=_PIECES_AHEAD),
            worker_init_fn=_start_worker,
        )
    )
    try:
        yield from iterator
    finally:
        iterator.close()


def _start_worker(index: int, count: int) -> None:
    """Leaves signals to the reader, and ends the worker when the reader is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a group of processes gets them all together
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_reader, daemon=True).start()


def _end_with_reader() -> None:
    """Ends this worker as soon as the process that reads from it has ended, even by SIGKILL."""
    reader = multiprocessing.parent_process()
    if reader is not None:
        reader.join()
        os._exit(1)
