"""Unfinished trainings on disk: one file each, replaced as a whole."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from delt_jax.errors import UserError
from delt_jax.store import files
from delt_jax.training.state import TrainState


class TrainingCheckpoint(NamedTuple):
    """A training on the host.

    Attributes:
      epoch: whole epochs it has been through.
      state: after them; numpy arrays.
      history: (epoch, accuracy) of every look so far.
      seconds: that they took.
    """

    epoch: int
    state: TrainState
    history: list[tuple[int, float]]
    seconds: float


class CorruptCheckpoint(Exception):
    """A training cannot be read back."""


def write(path: Path, kept: TrainingCheckpoint) -> None:
    """Keeps a training, in place of what was kept of it before."""
    leaves = {f"leaf_{i:05}": leaf for i, leaf in enumerate(jax.tree.leaves(kept.state))}
    looks = np.array(kept.history, np.float64).reshape(-1, 2)
    files.write_npz_fast(path, epoch=kept.epoch, seconds=kept.seconds, history=looks, **leaves)


def read(path: Path, like: TrainState) -> TrainingCheckpoint:
    """Reads what `write` wrote.

    Args:
      path: of the file.
      like: a state of the same student, arrays or shapes.

    Raises:
      CorruptCheckpoint: if its checksums, shapes or types are not right.
    """
    shapes, structure = jax.tree.flatten(like)
    try:
        stored = files.read_npz(path, "evaluate")
        leaves = [stored[f"leaf_{i:05}"] for i in range(len(shapes))]
        history = [(int(epoch), float(value)) for epoch, value in stored["history"]]
        epoch, seconds = int(stored["epoch"]), float(stored["seconds"])
    except (UserError, KeyError, ValueError) as e:
        raise CorruptCheckpoint(str(e)) from e
    for leaf, shape in zip(leaves, shapes, strict=True):
        if (leaf.shape, leaf.dtype) != (shape.shape, shape.dtype):
            raise CorruptCheckpoint(f"{path} holds another network")
    return TrainingCheckpoint(epoch, jax.tree.unflatten(structure, leaves), history, seconds)
