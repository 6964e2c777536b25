"""Compact storage for the names of very many examples."""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


def printable(name: str | bytes) -> str:
    """A name for a sentence: control characters and bytes that are not UTF-8 are escaped."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Names(Sequence[str]):
    """File names in one buffer: a million take megabytes and are pickled fast for a worker.

    Stores bytes as the file system has them; as text, bytes that are not UTF-8 are escaped.
    """

    def __init__(self, content: bytes, ends: np.ndarray):
        """Takes the joined names, and int64 [N], the end of each."""
        self._content, self._ends = content, ends

    @classmethod
    def of(cls, names: Iterable[bytes]) -> "Names":
        """Packs names."""
        kept = list(names)
        ends = np.cumsum([len(name) for name in kept], dtype=np.int64)
        return cls(b"".join(kept), ends)

    def raw(self, i: int) -> bytes:
        """Name i as the file system has it."""
        if not 0 <= i < len(self._ends):
            raise IndexError(i)
        return self._content[self._ends[i - 1] if i else 0 : self._ends[i]]

    def take(self, indices: np.ndarray) -> "Names":
        """The names at `indices`, in this order."""
        return Names.of(self.raw(int(i)) for i in indices)

    def __len__(self) -> int:
        """Number of names."""
        return len(self._ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i):
        """Name i, or the list of names of a slice."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        return self.raw(int(i)).decode("utf-8", "backslashreplace")
