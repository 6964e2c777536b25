"""Pytrees of arrays on disk, by orbax."""

from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp

from delt_jax.errors import UserError
from delt_jax.store import files


def _checkpointer() -> ocp.StandardCheckpointer:
    """Orbax for this process alone: it would wait for others that have nothing to save."""
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def save(path: Path, tree: chex.ArrayTree) -> None:
    """Saves a pytree of arrays to a new folder; it appears only once it is whole."""
    with files.disk_errors_as_user_errors(path), _checkpointer() as checkpointer:
        checkpointer.save(path.absolute(), jax.tree.map(np.asarray, tree), force=True)


def restore(path: Path, like: chex.ArrayTree) -> Any:
    """Restores what `save` wrote, as host arrays in the structure of `like`.

    Args:
      path: the folder.
      like: a pytree of arrays or `jax.ShapeDtypeStruct` with the expected shapes.

    Raises:
      UserError: if the folder is missing, damaged or holds another structure or other shapes.
    """
    target = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(path.absolute(), target)
    except Exception as e:  # orbax raises many types
        raise UserError(
            f"The checkpoint {path} cannot be restored ({type(e).__name__}): it is damaged or of "
            f"another model; delete it and run its stage again."
        ) from e
    # orbax takes the stored shapes without comparing them.
    if jax.tree.map(np.shape, restored) != jax.tree.map(np.shape, target):
        raise UserError(
            f"The checkpoint {path} holds arrays of other shapes: it is of another model; delete "
            f"it and run its stage again."
        )
    return restored


def tree_hash(tree: chex.ArrayTree) -> str:
    """Content hash of a pytree: names, types, shapes and values of its leaves."""
    parts = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        parts.append(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        parts.append(array.tobytes())
    return files.content_hash(*parts)
