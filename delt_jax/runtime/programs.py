"""Compiled programs: made ahead in threads where they are sure to be needed, waited for elsewhere.

XLA compiles outside Python's lock, so a program can be compiled while the stage before still runs,
and several side by side.
"""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from delt_jax.core import progress
from delt_jax.runtime import numerics

_MOST_THREADS = 8


class Program:
    """A function of arrays that is compiled once, for the shapes that it is first given."""

    def __init__(self, function: Any):
        """Takes what `jax.jit` or `jax.pmap` returned."""
        self._function = function
        self._lock = threading.Lock()
        self._future: Future | None = None  # of what is compiled ahead, for the shapes of `_asked`
        self._asked: Any = None
        self._compiled: Callable[..., Any] | None = None
        _all.add(self)

    def prepare(self, *arguments: Any) -> None:
        """Begins to compile in a thread.

        Args:
          *arguments: as of the call to come; `jax.ShapeDtypeStruct` may stand for arrays.
        """
        with self._lock:
            if self._future is None or self._future.cancelled():
                self._asked = _shapes(arguments)
                self._future = _threads().submit(self._compile, arguments)

    def __call__(self, *arguments: Any) -> Any:
        """Runs the program; waits until it is compiled, and shows that to the user."""
        if self._compiled is None:
            with progress.pause("compiling"), self._lock:
                self._compiled = self._ahead(arguments) or self._compile(arguments)
        return self._compiled(*arguments)

    def _ahead(self, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What was compiled ahead; None if nothing was, or not for these shapes, or in vain."""
        future = self._future
        if future is None or self._asked != _shapes(arguments) or future.cancel():
            return None  # one that no thread has begun is quicker here
        return None if future.cancelled() or future.exception() else future.result()

    def _compile(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        if jax.process_count() > 1:  # where pmap would take shapes for arrays, and spread arrays
            arguments = jax.tree.map(_as_shape, arguments)
        with numerics.fixed():  # which is a thread's own
            return self._function.lower(*arguments).compile()

    def free(self) -> None:
        """Forgets what was compiled; a later call compiles again."""
        with self._lock:
            self._future = self._compiled = self._asked = None


def _shapes(arguments: Any) -> Any:
    """Shapes and types of a pytree's arrays, which compare by value."""
    return jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), arguments)


def _as_shape(array: Any) -> jax.core.ShapedArray:
    return jax.core.ShapedArray(array.shape, array.dtype)


_all: weakref.WeakSet[Program] = weakref.WeakSet()
_pool: list[ThreadPoolExecutor] = []


def _threads() -> ThreadPoolExecutor:
    if not _pool:
        count = min(_MOST_THREADS, os.cpu_count() or 1)
        _pool.append(ThreadPoolExecutor(count, thread_name_prefix="compile"))
    return _pool[0]


def in_background(begin: Callable[[], None]) -> None:
    """Calls a function that prepares programs in a thread of its own.

    Where it fails, the calls that need the programs compile them, and say why if they cannot.
    """

    def run() -> None:
        with numerics.fixed():
            begin()

    _threads().submit(run)


def free_all() -> None:
    """Frees every program."""
    for program in list(_all):
        program.free()


def cancel() -> None:
    """Drops programs that no thread compiles yet; for the end of a run."""
    if _pool:
        _pool.pop().shutdown(wait=False, cancel_futures=True)
