"""Weights of experts on disk: a file for every epoch of every expert.

In the form "float32" a file has the weights. In the form "float16_deltas" it has what the epoch
changed, rounded, and half the size; each difference is taken from the weights as they are read
back, so errors do not add up.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from delt_jax.errors import DamagedArtefact
from delt_jax.store import files

FLOAT32, DELTAS = "float32", "float16_deltas"


def stored_bytes(form: str, weights: int, experts: int, epochs: int) -> int:
    """Bytes on disk of so many experts, but for headers.

    Args:
      form: "float32" or "float16_deltas".
      weights: numbers of a network.
      experts: how many.
      epochs: of each, at whose start and after each of which weights are kept.
    """
    later = 4 if form == FLOAT32 else 2
    return experts * weights * (4 + later * epochs)


@dataclass(frozen=True)
class ExpertStore:
    """Trajectories in a folder.

    Attributes:
      folder: has a folder for each expert.
      form: "float32" or "float16_deltas".
      like: pytree of weights, whose shapes all have.
    """

    folder: Path
    form: str
    like: Any

    def path(self, expert: int, epoch: int) -> Path:
        """File of an expert's weights after `epoch` epochs."""
        return self.folder / f"{expert:04}" / f"{epoch:04}.npz"

    def size(self, experts: int, epochs: int) -> int:
        """Bytes of so many experts, but for headers."""
        weights = sum(np.size(leaf) for leaf in jax.tree.leaves(self.like))
        return stored_bytes(self.form, weights, experts, epochs)

    def write(self, expert: int, epoch: int, params: Any) -> Any:
        """Writes the weights after an epoch; those before must be there.

        Returns:
          The weights as they will be read: training goes on from these, so that a run that was
          stopped and one that was not are the same.
        """
        row = np.asarray(ravel_pytree(params)[0], np.float32)
        path = self.path(expert, epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.form == FLOAT32 or epoch == 0:
            files.write_npz_fast(path, weights=row)
            return params
        before = self._row(expert, epoch - 1)
        change = (row - before).astype(np.float16)
        files.write_npz_fast(path, change=change)
        return self._tree(before + change.astype(np.float32))

    def finished(self, expert: int) -> int:
        """The last epoch up to which all files of an expert are there; -1 without any."""
        epoch = 0
        while self.path(expert, epoch).is_file():
            epoch += 1
        return epoch - 1

    def read(self, expert: int, epoch: int) -> Any:
        """Weights of an expert after `epoch` epochs.

        Raises:
          DamagedArtefact: if a file of them is missing, damaged or of another network.
        """
        return self._tree(self._row(expert, epoch))

    def _row(self, expert: int, epoch: int) -> np.ndarray:
        first = epoch if self.form == FLOAT32 else 0
        row = self._array(expert, first, "weights")
        for later in range(first + 1, epoch + 1):
            row = row + self._array(expert, later, "change").astype(np.float32)
        return row

    def _array(self, expert: int, epoch: int, name: str) -> np.ndarray:
        path = self.path(expert, epoch)
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.like))
        row = files.read_npz(path, "experts").get(name)
        if row is None or row.shape != (count,):
            raise DamagedArtefact(path, f"{path} has no weights of this network", "experts")
        return row

    def _tree(self, row: np.ndarray) -> Any:
        return ravel_pytree(self.like)[1](jnp.asarray(row))
