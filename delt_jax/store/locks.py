"""Locks on files, held until they are closed or their process ends."""

import fcntl
import os
from pathlib import Path
from typing import IO

from delt_jax.core.progress import say
from delt_jax.errors import UserError
from delt_jax.store import files


class LockHeldElsewhere(Exception):
    """Another process holds a lock."""


def take(path: Path) -> IO[bytes]:
    """Locks a file, which is made where it is missing.

    On a file system that knows no locks it says so, and goes on without one.

    Returns:
      The open file; closing it gives the lock back.

    Raises:
      LockHeldElsewhere: if another process has it.
      UserError: if the file cannot be made, or is a symbolic link.
    """
    if path.is_symlink():
        raise UserError(f"{path} is a symbolic link, and a lock is no shared file; delete it.")
    with files.disk_errors_as_user_errors(path):
        # Neither follows a link nor empties the file.
        lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as e:
        lock.close()
        raise LockHeldElsewhere from e
    except OSError as e:
        say(
            f"{path.parent} lies on a file system without locks ({e.strerror}): nothing keeps a "
            f"second process out, so start only one."
        )
    return lock
