"""Batches of an unfinished recovery on disk: one file each, replaced as a whole."""

import contextlib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.recovery.types import Losses, RecoverState
from delt_jax.store import files

_STATE = ("step", "images", "mu", "nu")


class Kept(NamedTuple):
    """An unfinished batch on the host.

    Attributes:
      state: where it is; numpy arrays.
      losses: of its iterations so far, float32 [step] each.
      seconds: that they took.
    """

    state: RecoverState
    losses: Losses
    seconds: float


class CorruptCheckpoint(Exception):
    """An unfinished batch cannot be read back."""

    def __init__(self, path: Path):
        """Names its file."""
        super().__init__(str(path))
        self.path = path

    def drop(self) -> None:
        """Removes the file, with a sentence."""
        say(f"  {self.path} is damaged; its batch starts anew")
        self.path.unlink(missing_ok=True)


def part(partial: Path, index: int) -> Path:
    """File of a finished batch."""
    return partial / f"batch_{index:06}.npz"


def _unfinished(partial: Path, index: int) -> Path:
    return partial / f"state_{index:06}.npz"


def step_of(partial: Path, index: int) -> int:
    """Iterations of an unfinished batch that are kept; 0 if none are.

    Raises:
      CorruptCheckpoint: if its file has no such number.
    """
    path = _unfinished(partial, index)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return int(stored["step"])
    except FileNotFoundError:
        return 0
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as e:
        raise CorruptCheckpoint(path) from e


def write(partial: Path, index: int, kept: Kept) -> None:
    """Keeps a batch, in place of what was kept of it before."""
    state = {name: getattr(kept.state, name) for name in _STATE}
    leaves = jax.tree.leaves(kept.state.term_state)
    state |= {_leaf(i): leaf for i, leaf in enumerate(leaves)}
    path = _unfinished(partial, index)
    files.write_npz_fast(path, seconds=kept.seconds, **state, **kept.losses._asdict())


def _leaf(number: int) -> str:
    return f"carried_{number}"


def read(partial: Path, index: int, term_state: Any = ()) -> Kept:
    """Reads what `write` wrote.

    Args:
      partial: the folder.
      index: of the batch.
      term_state: what further terms carry at the start, for its structure.

    Raises:
      CorruptCheckpoint: if its checksums or arrays are not right.
    """
    path = _unfinished(partial, index)
    try:
        stored = files.read_npz(path, "recover")
        leaves, structure = jax.tree.flatten(term_state)
        found = [stored[_leaf(i)] for i in range(len(leaves))]
        found = jax.tree.unflatten(structure, found)
        state = RecoverState(**{name: stored[name] for name in _STATE}, term_state=found)
        losses = Losses(*(stored[name] for name in Losses._fields))
        return Kept(state, losses, float(stored["seconds"]))
    except (UserError, KeyError) as e:
        raise CorruptCheckpoint(path) from e


def forget(partial: Path, index: int) -> None:
    """Removes what was kept of a batch that is finished."""
    _unfinished(partial, index).unlink(missing_ok=True)


def signs_of_life(partial: Path) -> dict[str, int]:
    """Files of finished and unfinished batches, and when each was written."""
    signs = {}
    for path in partial.glob("*.npz"):
        with contextlib.suppress(FileNotFoundError):
            signs[path.name] = path.stat().st_mtime_ns
    return signs
