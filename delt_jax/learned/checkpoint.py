"""An unfinished learned set on disk, with its networks and what was best so far."""

from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from delt_jax.core.progress import say
from delt_jax.learned.method import Learned
from delt_jax.learned.program import LearnState
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint

_FOLDER = "state"


class Progressed(NamedTuple):
    """How far the learning of a set has come, on the host.

    Attributes:
      state: after the steps so far.
      best: what was learned when it scored best on validation images; as at the start before.
      losses: float32 [steps so far].
      validated: (step, accuracy) of each validation.
      seconds: that the steps took.
    """

    state: LearnState
    best: Learned
    losses: np.ndarray
    validated: tuple[tuple[int, float], ...]
    seconds: float


def save(partial: Path, progressed: Progressed) -> None:
    """Saves an unfinished set, in place of what was saved before."""
    # Leaves alone: what names the optimisers' states have is optax's affair.
    leaves = jax.tree.leaves((progressed.state, progressed.best))
    checkpoint.save(
        partial / _FOLDER,
        (leaves, progressed.losses),
        step=len(progressed.losses),
        validated=[list(one) for one in progressed.validated],
        seconds=progressed.seconds,
    )


def restore(partial: Path, fresh: Progressed) -> Progressed:
    """What was saved; `fresh` where nothing was, or what was is damaged."""
    path = partial / _FOLDER
    try:
        scalars = checkpoint.scalars(path)
        leaves, structure = jax.tree.flatten((fresh.state, fresh.best))
        losses = jax.ShapeDtypeStruct((scalars.get("step", 0),), np.float32)
        (restored, losses), scalars = checkpoint.restore(path, (_shapes(leaves), losses))
    except FileNotFoundError:
        return fresh
    except CorruptCheckpoint as e:
        say(f"  {e.path} is damaged ({e.reason}); the set starts anew")
        return fresh
    state, best = jax.tree.unflatten(structure, restored)
    validated = tuple((int(step), float(accuracy)) for step, accuracy in scalars["validated"])
    return Progressed(state, best, losses, validated, scalars["seconds"])


def _shapes(leaves: list[chex.Array]) -> list[Any]:
    return [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
