"""Whether a parquet file can hold what it claims."""

from delt_jax.store.foreign import ForeignFileError, check_size

_BOMB = 256 * 2**20, 200  # more bytes than the first, from less than one in so many


def check(claimed: int, at_once: int, file_bytes: int) -> None:
    """Checks what a file claims.

    Args:
      claimed: bytes of all that is to be read of it.
      at_once: bytes of what is in memory together.
      file_bytes: size of the file.

    Raises:
      ForeignFileError: if that is more than memory has room for, or than files compress to.
    """
    check_size("its content", at_once)
    if claimed > _BOMB[0] and claimed > _BOMB[1] * file_bytes:
        raise ForeignFileError(f"it claims {claimed} bytes from {file_bytes}")
