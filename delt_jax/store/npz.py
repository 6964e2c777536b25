"""Reads `.npz` files that others made: plain arrays only, within what file and memory can hold."""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delt_jax.store import regular, zips
from delt_jax.store.foreign import ForeignFileError, check_size

_HEADER = 64 * 1024  # bytes in front of an array's numbers
_KINDS = "biufSU"  # bools, whole numbers, floats, text


def names(path: Path) -> tuple[str, ...]:
    """Names of the arrays, in the file's order.

    Raises:
      ForeignFileError: if the file is no archive, or names are there twice.
      OSError: if it cannot be read.
    """
    _check_magic(path)
    with zips.opened(path) as archive:
        return tuple(_members(archive))


def read(path: Path, wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Reads arrays; those that are not wanted are not touched.

    Args:
      path: of the file.
      wanted: names of arrays; those that the file lacks are left out. None reads all.

    Returns:
      Arrays by name, in the file's order and the machine's byte order.

    Raises:
      ForeignFileError: if the file is damaged, encrypted, a bomb, or an array is no plain one of
        numbers or text.
      OSError: if it cannot be read.
    """
    _check_magic(path)
    with zips.opened(path) as archive:
        members = _members(archive)
        kept = [name for name in members if wanted is None or name in wanted]
        check_size("its content", sum(archive.getinfo(members[n]).file_size for n in kept))
        return {name: _read(archive, members[name]) for name in kept}


def _check_magic(path: Path) -> None:
    with regular.open_file(path) as f:
        if f.read(6) == b"\x93NUMPY":
            raise ForeignFileError("it is an .npy file, a single array, under another name")


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Members by the names of their arrays."""
    members: dict[str, str] = {}
    for member in archive.namelist():
        name = member.removesuffix(".npy")
        if name in members:
            raise ForeignFileError(f"its array {name} is there twice")
        members[name] = member
    return members


def _read(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    whole = zips.size(archive, member)
    with archive.open(member) as f:
        head = io.BytesIO(f.read(min(whole, _HEADER)))
    shape, fortran, dtype = _header(head, member)
    count = math.prod(shape)
    if dtype.itemsize == 0 and count > 1:
        raise ForeignFileError(f"its array {member} claims {count} elements without a size")
    if head.tell() + count * dtype.itemsize != whole or max(shape, default=0) > whole:
        raise ForeignFileError(
            f"its array {member} claims the shape {_shape(shape)} of {dtype}, which its "
            f"{whole - head.tell()} bytes do not hold"
        )
    array = np.empty(count, dtype)
    zips.read_into(archive, member, head.tell(), array)
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    return array.reshape(shape, order="F" if fortran else "C")


def _header(head: io.BytesIO, member: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array; leaves `head` behind its header."""
    try:
        version = np.lib.format.read_magic(head)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = reader(head)
    except Exception as e:  # numpy's parser of headers raises many types
        reason = (str(e).strip().splitlines() or [""])[0][:100]
        raise ForeignFileError(
            f"its member {member} is no array of numpy ({type(e).__name__}: {reason})"
        ) from e
    if dtype.hasobject or dtype.kind not in _KINDS or dtype.subdtype or dtype.fields:
        raise ForeignFileError(
            f"its array {member} is of the type {str(dtype)[:60]}; only plain arrays of numbers "
            f"or text are read"
        )
    if min(shape, default=0) < 0:
        raise ForeignFileError(f"its array {member} claims the shape {_shape(shape)}")
    return shape, fortran, dtype


def _shape(shape: Sequence[int]) -> str:
    """A shape as a sentence has it; a header may claim dimensions without end."""
    return f"({', '.join(str(n) for n in shape[:6])}{', ...' if len(shape) > 6 else ''})"
