"""Checkpoints of unfinished students."""

from pathlib import Path
from typing import NamedTuple

from delt_jax.store import checkpoint
from delt_jax.training.state import TrainState


class TrainingCheckpoint(NamedTuple):
    """An unfinished training on the host.

    Attributes:
      epoch: whole epochs behind it.
      state: after them; numpy arrays.
      history: (epoch, accuracy) of every evaluation so far.
      seconds: that they took.
    """

    epoch: int
    state: TrainState
    history: list[tuple[int, float]]
    seconds: float


def save(path: Path, training: TrainingCheckpoint) -> None:
    """Saves a training, in place of what was saved of it before."""
    scalars = training._asdict()
    checkpoint.save(path, scalars.pop("state"), **scalars)


def restore(path: Path, like: TrainState) -> TrainingCheckpoint:
    """Restores what `save` saved.

    Args:
      path: the folder.
      like: a state of the same student, arrays or shapes.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      CorruptCheckpoint: if it is damaged, or of another student.
    """
    state, scalars = checkpoint.restore(path, like)
    history = [(epoch, accuracy) for epoch, accuracy in scalars.pop("history")]
    return TrainingCheckpoint(state=state, history=history, **scalars)
