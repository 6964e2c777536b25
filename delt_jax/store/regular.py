"""Opens regular files alone: what a stranger's folder holds may be a pipe, a socket or a device."""

import errno
import os
import stat
from io import BufferedReader

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: str | bytes | os.PathLike) -> BufferedReader:
    """Opens a file to read its bytes; follows links, and never waits for another process.

    Raises:
      OSError: if it cannot be opened or is no regular file; `strerror` says which.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file", path)
    # O_NONBLOCK: if it became a pipe since, opening it does not wait for a writer.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_bytes(path: str | bytes | os.PathLike, most: int) -> bytes:
    """Content of a regular file.

    Raises:
      OSError: as `open_file` does, and if the file has more than `most` bytes.
    """
    with open_file(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size <= most:
            return f.read(most)
    raise OSError(errno.EFBIG, f"{size} bytes, more than {most}", path)
