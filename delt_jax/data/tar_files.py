"""Samples of a tar file: headers and small members are read, pictures are only found."""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from delt_jax.data.names import printable
from delt_jax.errors import UserError
from delt_jax.store.foreign import shown
from delt_jax.store.pictures import ENDINGS

_MEMBER = re.compile(rb"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)
_MOST = {b"cls": 2**10, b"json": 2**20}  # bytes of the members that are read


@dataclass(frozen=True)
class TarSample:
    """A sample: the members whose names are the same up to the first dot.

    Attributes:
      shard: path of the tar file.
      name: of the sample, with its folders.
      offset: of the picture's first byte in the file.
      size: of the picture in bytes.
      cls, json: contents of the members; None where there are none.
    """

    shard: str
    name: bytes
    offset: int
    size: int
    cls: bytes | None
    json: bytes | None

    @property
    def where(self) -> str:
        """Its place, for sentences."""
        return f"{self.shard}, sample {printable(self.name)},"


def samples(path: Path) -> Iterator[TarSample]:
    """The samples of a tar file that is not compressed, in order.

    Members that are no regular files, hidden ones, and those of other kinds are passed over.

    Raises:
      UserError: if the file is damaged, or a sample has no picture, two, or comes twice.
    """
    found: dict[bytes, dict[bytes, tarfile.TarInfo | bytes]] = {}
    last = b""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                parted = _MEMBER.fullmatch(os.fsencode(member.name))
                archive.members.clear()  # type: ignore[attr-defined]  # else all stay in memory
                if not member.isreg() or member.issparse() or parted is None:
                    continue
                name, kind = parted[1], parted[2].lower()
                if name != last and name in found:
                    raise UserError(
                        f"{path} has the sample {printable(name)} in two places; pack it again, "
                        f"with the members of a sample side by side."
                    )
                last = name
                _put(found.setdefault(name, {}), name, kind, member, archive, path)
            _check_end(path, archive.offset)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as e:
        raise UserError(
            f"{path} is no tar file that can be read ({shown(str(e), 160) or type(e).__name__}); "
            f"it is damaged, cut short or compressed."
        ) from e
    for name, members in found.items():
        yield _sample(path, name, members)


def _check_end(path: Path, offset: int) -> None:
    """Raises a TarError if the members end otherwise than by tar's mark, as in a damaged file."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"what is at byte {offset:,} is no member")


def _put(
    members: dict[bytes, tarfile.TarInfo | bytes],
    name: bytes,
    kind: bytes,
    member: tarfile.TarInfo,
    archive: tarfile.TarFile,
    path: Path,
) -> None:
    """Keeps a member of a sample that is of use."""
    what = b"picture" if os.fsdecode(b"." + kind) in ENDINGS else kind
    if what != b"picture" and what not in _MOST:
        return
    if what in members:
        raise UserError(
            f"{path}, sample {printable(name)}, has two members that could be its "
            f"{'picture' if what == b'picture' else printable(b'.' + kind)}; keep one."
        )
    if what == b"picture":
        members[what] = member
        return
    if member.size > _MOST[what]:
        raise UserError(
            f"{path}, sample {printable(name)}, has a .{printable(kind)} of {member.size:,} bytes, "
            f"more than {_MOST[what]:,}."
        )
    opened = archive.extractfile(member)
    members[what] = b"" if opened is None else opened.read()


def _sample(path: Path, name: bytes, members: dict) -> TarSample:
    picture = members.get(b"picture")
    if picture is None:
        raise UserError(f"{path} has no picture for the sample {printable(name)}; pack it again.")
    place = picture.offset_data, picture.size
    return TarSample(str(path), name, *place, members.get(b"cls"), members.get(b"json"))
