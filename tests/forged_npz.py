"""Archives of arrays that numpy would not write: each makes one from a path."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 0, 1])


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(header: str, version: int = 1, length: int | None = None) -> bytes:
    """An .npy with this header and no numbers."""
    text = header.encode("latin-1")
    length = len(text) if length is None else length
    size = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes((version, 0)) + size + text


def archive(path: Path, images: bytes, more: dict[str, bytes] | None = None) -> None:
    """Images as given beside sound labels."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as f:
        members = {"images.npy": images, "labels.npy": npy(LABELS)} | (more or {})
        for name, content in members.items():
            f.writestr(name, content, compresslevel=1)


def of(images: bytes) -> Callable[[Path], None]:
    return lambda path: archive(path, images)


def header(shape: str, descr: str = "'|u1'") -> Callable[[Path], None]:
    return of(claiming(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"))


def renamed_npy(path: Path) -> None:
    path.write_bytes(npy(IMAGES))


def directory_field(offset: int, value: bytes) -> Callable[[Path], None]:
    """A sound archive but for one field of its first member in the list at the end."""

    def make(path: Path) -> None:
        archive(path, npy(IMAGES))
        content = bytearray(path.read_bytes())
        place = content.index(b"PK\1\2") + offset
        content[place : place + len(value)] = value
        path.write_bytes(content)

    return make


def twice(path: Path) -> None:
    archive(path, npy(IMAGES), {"images": npy(IMAGES)})


def overlapping(path: Path) -> None:
    """Two names for one member, as bombs have thousands."""
    archive(path, npy(IMAGES))
    content = path.read_bytes()
    first, second = (i for i in range(len(content)) if content[i : i + 4] == b"PK\1\2")
    offset = content[first + 42 : first + 46]
    path.write_bytes(content[: second + 42] + offset + content[second + 46 :])


def changed_numbers(path: Path) -> None:
    np.savez(path, images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[400] ^= 1  # within the images
    path.write_bytes(content)


FORGED: dict[str, Callable[[Path], None]] = {
    "a renamed .npy": renamed_npy,
    "a raw member": of(b"no array at all"),
    "an empty member": of(b""),
    "encrypted": directory_field(8, b"\1\0"),
    "unknown compression": directory_field(10, b"\x63\0"),
    "another compression": directory_field(10, b"\x0e\0"),
    "a size of 4 GB": directory_field(24, struct.pack("<L", 2**32 - 2)),
    "a place beyond the end": directory_field(42, struct.pack("<L", 2**31)),
    "a cut header": of(b"\x93NUMPY\1"),
    "a long header": of(claiming("{", length=60_000)),
    "a header of 4 GB": of(claiming("{", 2, 2**32 - 1)),
    "a broken header": of(claiming("{'descr': '<f4', 'shape'")),
    "a nested header": of(claiming("(" * 9000)),
    "signs without end": of(claiming("-" * 9000 + "1")),
    "a call in the header": header("__import__('os').system('true')"),
    "version 9": of(b"\x93NUMPY\x09\0\x10\0" + b" " * 16),
    "10^12 elements": header("(1000000000000,)"),
    "10^12 elements of nothing": header("(1000000000000,)", "'|V0'"),
    "10^12 empty rows": header("(1000000000000, 0)"),
    "more dimensions": header(f"({'1, ' * 200})"),
    "a negative shape": header("(-1, 8, 8)"),
    "a shape of text": header("('8',)"),
    "letters of 4 GB": header("(1,)", "'<U1000000000'"),
    "objects": of(npy(np.zeros(1, np.uint8))[:0] + claiming(
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"cos\nsystem\n"),
    "a structure": of(npy(np.zeros(4, [("a", "u1"), ("b", "f4")]))),
    "a bomb": of(npy(np.zeros((300, 2**20), np.uint8))),
    "twice": twice,
    "overlapping": overlapping,
    "changed numbers": changed_numbers,
    "cut": lambda path: path.write_bytes(b"PK\3\4"),
    "text": lambda path: path.write_bytes(b"hello"),
    "empty": lambda path: path.write_bytes(b""),
}  # fmt: skip
