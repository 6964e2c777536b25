"""Files as torch writes them, spelled out opcode by opcode, so that no torch is needed."""

import zipfile
from pathlib import Path

import numpy as np

EXPECTED = np.arange(6, dtype=np.float32).reshape(2, 3)  # what `tensor` holds by default


def storage(kind="FloatStorage", key="0", count=6) -> bytes:
    return f"(Vstorage\nctorch\n{kind}\nV{key}\nVcpu\nI{count}\ntQ".encode()


def tensor(stored: bytes, size=(2, 3), stride=(3, 1), offset=0) -> bytes:
    def numbers(values):
        return b"(" + b"".join(f"I{v}\n".encode() for v in values) + b"t"

    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = (
        stored + f"I{offset}\n".encode() + numbers(size) + numbers(stride) + b"I00\n" + hooks
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def dictionary(**items: bytes) -> bytes:
    return b"(d" + b"".join(f"V{k}\n".encode() + v + b"s" for k, v in items.items())


def write_pth(path: Path, pickled: bytes, numbers=None, order="little") -> Path:
    numbers = np.arange(6, dtype=np.float32) if numbers is None else numbers
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", pickled + b".")
        archive.writestr("any/byteorder", order)
        archive.writestr("any/data/0", numbers.tobytes())
    return path


class Attack:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
