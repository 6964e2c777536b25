"""Batches of a recovery on disk: a checkpoint of an unfinished one, an .npz of a finished one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from delt_jax.core.progress import say
from delt_jax.recovery.types import Losses, RecoverState
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint


class BatchCheckpoint(NamedTuple):
    """An unfinished batch on the host.

    Attributes:
      state: after the iterations so far; numpy arrays.
      losses: of those iterations, float32 [step] each.
      seconds: that they took.
    """

    state: RecoverState
    losses: Losses
    seconds: float


def finished_batch(partial: Path, index: int) -> Path:
    """File of a finished batch."""
    return partial / f"batch_{index:06}.npz"


def unfinished_batch(partial: Path, index: int) -> Path:
    """Folder of an unfinished batch's checkpoint."""
    return partial / f"state_{index:06}"


def step_of(partial: Path, index: int) -> int:
    """Iterations that the checkpoint of a batch has behind it; 0 if there is none.

    Raises:
      CorruptCheckpoint: if the checkpoint has no such number.
    """
    return checkpoint.scalars(unfinished_batch(partial, index)).get("step", 0)


def save(partial: Path, index: int, batch: BatchCheckpoint) -> None:
    """Saves an unfinished batch, in place of what was saved of it before."""
    path, step = unfinished_batch(partial, index), int(batch.state.step)
    checkpoint.save(path, (batch.state, batch.losses), step=step, seconds=batch.seconds)


def restore(
    partial: Path, index: int, like: RecoverState, terms: Sequence[str] = ()
) -> BatchCheckpoint:
    """Restores what `save` saved.

    Args:
      partial: the folder of the unfinished recovery.
      index: of the batch.
      like: arrays or `jax.ShapeDtypeStruct` with the structure, shapes and types of its state.
      terms: names of the extra terms.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      CorruptCheckpoint: if it is damaged, or of another batch.
    """
    curve = jax.ShapeDtypeStruct((step_of(partial, index),), np.float32)
    path = unfinished_batch(partial, index)
    curves = Losses(curve, curve, curve, curve, dict.fromkeys(terms, curve))
    try:
        (state, losses), scalars = checkpoint.restore(path, (like, curves))
    except CorruptCheckpoint:
        if not terms:
            raise
        # Older versions kept the sum of the terms alone.
        (state, losses), scalars = checkpoint.restore(path, (like, curves._replace(terms={})))
        losses = losses._replace(terms=dict.fromkeys(terms, np.full_like(losses.loss, np.nan)))
    return BatchCheckpoint(state, losses, scalars["seconds"])


def delete(partial: Path, index: int) -> None:
    """Deletes the checkpoint of a batch that is finished."""
    checkpoint.delete(unfinished_batch(partial, index))


def drop(damaged: CorruptCheckpoint) -> None:
    """Deletes a damaged checkpoint, with a sentence."""
    say(f"  {damaged.path} is damaged; its batch starts anew", by_each=True)
    checkpoint.delete(damaged.path)
