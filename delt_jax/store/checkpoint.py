"""Checkpoints of unfinished work: a pytree of arrays, with a few scalars beside it.

A checkpoint is a folder that appears, and is replaced, as a whole:

* `arrays/`, by orbax, holds the arrays. Orbax checks its index but not the numbers: it returns
  wrong ones where a byte of them has changed on the disk. It also refuses empty arrays.
* `arrays.npz` takes its place in a job of several processes, where each saves work that the others
  know nothing of. There orbax 0.12 writes NumPy arrays on process 0 alone, whatever
  `MultiprocessingOptions` says, and refuses jax.Arrays that live on one process.
* `checkpoint.json` holds the scalars, what the arrays are, and the SHA-256 of every file.

Any number of processes restores either form. docs/scaling.md has the seconds of both.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp

from delt_jax.store import files

_CONTENTS, _ORBAX, _NPZ = "checkpoint.json", "arrays", "arrays.npz"


class CorruptCheckpoint(Exception):
    """A checkpoint cannot be restored: it is damaged, or of other arrays.

    Attributes:
      path: the folder.
      reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str):
        """Makes its message of both."""
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def save(path: Path, tree: chex.ArrayTree, **scalars: Any) -> None:
    """Saves a pytree of arrays and some scalars, in place of what `path` held.

    May be called from any thread.

    Args:
      path: the folder.
      tree: numpy or local JAX arrays.
      **scalars: numbers, text, or lists of them, as JSON knows them.

    Raises:
      UserError: if the disk is full or cannot be written.
    """
    tree = jax.tree.map(np.asarray, tree)
    with files.replacing_folder(path) as folder:
        if orbax_can_save(tree):
            with _orbax_errors_as_os_errors(path), _orbax() as checkpointer:
                checkpointer.save((folder / _ORBAX).absolute(), tree)
        else:
            leaves = enumerate(jax.tree.leaves(tree))
            files.write_npz_fast(folder / _NPZ, **{str(i): leaf for i, leaf in leaves})
        contents = {"scalars": scalars, "arrays": _signature(tree), "files": _checksums(folder)}
        files.write_json(
            folder / _CONTENTS, {"contents": contents, "sha256": _json_checksum(contents)}
        )


def restore(path: Path, like: chex.ArrayTree) -> tuple[Any, dict[str, Any]]:
    """Restores what `save` saved.

    Args:
      path: the folder.
      like: arrays or `jax.ShapeDtypeStruct` with the structure, shapes and types of the tree.

    Returns:
      The tree, of host arrays, and the scalars.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      CorruptCheckpoint: if it is damaged, or holds arrays of other names, shapes or types.
    """
    folder, contents = _find(path)
    if contents["arrays"] != _signature(like):
        raise CorruptCheckpoint(path, "it holds other arrays")
    try:
        if contents["files"] == _checksums(folder):
            return _read_arrays(folder, like), contents["scalars"]
    except MemoryError:
        raise  # says nothing about the checkpoint
    except Exception as e:  # orbax raises many types
        raise CorruptCheckpoint(path, f"{type(e).__name__}: {e}") from e
    raise CorruptCheckpoint(path, "its files are not those that were saved")


def scalars(path: Path) -> dict[str, Any]:
    """The scalars of a checkpoint, without reading its arrays; {} where there is none.

    Raises:
      CorruptCheckpoint: if they are damaged.
    """
    try:
        return _find(path)[1]["scalars"]
    except FileNotFoundError:
        return {}


def delete(path: Path) -> None:
    """Deletes a checkpoint, if there is one."""
    files.delete_folder(path)


def tree_hash(tree: chex.ArrayTree) -> str:
    """Content hash of a pytree: names, types, shapes and values of its leaves."""
    parts = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        parts.append(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        parts.append(array.tobytes())
    return files.content_hash(*parts)


def orbax_can_save(tree: chex.ArrayTree) -> bool:
    """Whether orbax saves these arrays, in this job: see the top of this file."""
    sizes = [leaf.size for leaf in jax.tree.leaves(tree)]
    return jax.process_count() == 1 and bool(sizes) and all(sizes)


def _orbax() -> ocp.Checkpointer:
    """Orbax for this process alone: by default it waits for all processes of a job."""
    alone = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
    # Images and momenta hardly compress, and zstd doubles the time of a save.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _read_arrays(folder: Path, like: chex.ArrayTree) -> Any:
    if (folder / _ORBAX).exists():
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        with _orbax() as checkpointer:
            arguments = ocp.args.PyTreeRestore(like, restore_args=as_numpy)
            return checkpointer.restore((folder / _ORBAX).absolute(), arguments)
    leaves, structure = jax.tree.flatten(like)
    with np.load(folder / _NPZ, allow_pickle=False) as stored:
        # An .npz knows bfloat16 as two bytes without a type.
        arrays = [stored[str(i)].view(leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, arrays)


@contextlib.contextmanager
def _orbax_errors_as_os_errors(path: Path) -> Iterator[None]:
    """Raises a failure of the disk as Python does; orbax's threads log a traceback as well."""

    def is_from_elsewhere(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_from_elsewhere)
    try:
        yield
    except ValueError as e:
        code = re.search(r"os_error_code='(\d+)'", str(e))
        if code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number), str(path)) from e
    finally:
        logger.removeFilter(is_from_elsewhere)


def _find(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that holds the checkpoint, and what its `checkpoint.json` says."""
    for _ in range(3):  # another process may be replacing the folder
        folder = files.replaced_folder(path)
        try:
            found = files.read_object(folder / _CONTENTS)
            contents, checksum = found["contents"], found["sha256"]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise CorruptCheckpoint(path, f"{type(e).__name__}: {e}") from e
        if checksum != _json_checksum(contents):
            raise CorruptCheckpoint(path, f"{_CONTENTS} is not what was saved")
        return folder, contents
    if folder.exists():
        raise CorruptCheckpoint(path, f"it has no {_CONTENTS}")
    raise FileNotFoundError(path)


def _signature(tree: chex.ArrayTree) -> list[list[Any]]:
    """Name, type and shape of every array."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        [jax.tree_util.keystr(name), str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves
    ]


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the one that lists them."""
    sums = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _CONTENTS):
        with open(path, "rb") as f:
            sums[str(path.relative_to(folder))] = hashlib.file_digest(f, "sha256").hexdigest()
    return sums


def _json_checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
