"""Zip archives of others: checked before a member is read, and read within what they claim."""

import collections
import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from delt_jax.store import regular
from delt_jax.store.foreign import ForeignFileError, check_size

_MIB = 2**20
_DIRECTORY = 32 * _MIB  # bytes of the list of members
_DEFLATE = 1032  # no deflated byte makes more bytes than this
_BOMB = 256 * _MIB, 200  # a member of more bytes, compressed to less than one in so many
_BLOCK = 4 * _MIB


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an archive whose members are neither twice there nor overlap.

    Raises:
      ForeignFileError: also for what goes wrong inside the block.
      OSError: if the file cannot be read.
    """
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            yield archive
    except (OSError, ForeignFileError):
        raise
    except Exception as e:  # zipfile, zlib and struct raise many types
        reason = str(e)[:120]
        raise ForeignFileError(f"{type(e).__name__}: {reason}") from e


def size(archive: zipfile.ZipFile, name: str) -> int:
    """Bytes of a member once it is unpacked, after a check that it can be unpacked.

    Raises:
      ForeignFileError: if it is missing, encrypted, compressed in an unknown way, or its size
        is not plausible.
    """
    try:
        member = archive.getinfo(name)
    except KeyError as e:
        raise ForeignFileError(f"it has no member {name}") from e
    if member.flag_bits & 1:
        raise ForeignFileError(f"its member {name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ForeignFileError(
            f"its member {name} has the unknown compression {member.compress_type}"
        )
    stored, whole = member.compress_size, member.file_size
    most = stored if member.compress_type == zipfile.ZIP_STORED else _DEFLATE * stored + 64
    bomb = whole > _BOMB[0] and whole > _BOMB[1] * stored
    if whole > most or bomb:
        raise ForeignFileError(f"its member {name} claims {whole} bytes from {stored}")
    check_size(f"its member {name}", whole)
    return whole


def read_into(archive: zipfile.ZipFile, name: str, skip: int, target: np.ndarray) -> None:
    """Fills `target`, a one-dimensional array, with a member's bytes after the first `skip`.

    Raises:
      ForeignFileError: if the member has more or fewer bytes, or fails its checksum.
    """
    if size(archive, name) != skip + target.nbytes:
        raise ForeignFileError(
            f"its member {name} has {size(archive, name) - skip} bytes of numbers instead of "
            f"{target.nbytes}"
        )
    room = memoryview(target.view(np.uint8)) if target.nbytes else memoryview(b"")
    with archive.open(name) as f:
        f.read(skip)
        done = 0
        while done < len(room):
            block = f.read(min(_BLOCK, len(room) - done))
            if not block:
                raise ForeignFileError(f"its member {name} ends early")
            room[done : done + len(block)] = block
            done += len(block)
        if f.read(1):  # at the end the checksum is compared
            raise ForeignFileError(f"its member {name} is longer than it claims")


def read(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member's bytes.

    Raises:
      ForeignFileError: if it has more than `most` bytes or is damaged.
    """
    whole = size(archive, name)
    if whole > most:
        raise ForeignFileError(f"its member {name} has {whole} bytes, more than {most}")
    content = np.empty(whole, np.uint8)
    read_into(archive, name, 0, content)
    return content.tobytes()


def _check_directory(path: Path) -> None:
    """Raises a ForeignFileError if the list of members would fill memory."""
    with regular.open_file(path) as f:
        length = f.seek(0, os.SEEK_END)
        f.seek(max(length - 66 * 1024, 0))
        tail = f.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        raise ForeignFileError("it is no zip archive, or cut off")
    count = struct.unpack_from("<L", tail, end + 12)[0]
    large = tail.rfind(b"PK\6\6", 0, end)
    if count == 0xFFFFFFFF and large >= 0 and len(tail) >= large + 48:
        count = struct.unpack_from("<Q", tail, large + 40)[0]
    if count > _DIRECTORY:
        raise ForeignFileError(f"its list of members has {count} bytes")


def _check_members(archive: zipfile.ZipFile) -> None:
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    counts = collections.Counter(member.filename for member in members)
    for name, count in counts.most_common(1):
        if count > 1:
            raise ForeignFileError(f"its member {name} is there twice")
    ends = [*(member.header_offset for member in members[1:]), archive.start_dir]
    for member, end in zip(members, ends, strict=True):
        # A local header has at least 30 bytes and the name.
        if member.header_offset + 30 + len(member.filename) + member.compress_size > end:
            raise ForeignFileError(f"its member {member.filename} overlaps with what follows")
