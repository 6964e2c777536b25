"""Files as torch writes them, spelled out opcode by opcode, so that no torch is needed."""

import pickle
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


def called(name: str, *arguments: bytes) -> bytes:
    """What a function or class of this dotted name gives."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n(".encode() + b"".join(arguments) + b"tR"


def parameter(tensor: bytes) -> bytes:
    """A torch.nn.Parameter."""
    return called(
        "torch._utils._rebuild_parameter", tensor, b"I01\n", b"ccollections\nOrderedDict\n)R"
    )


def write_legacy(path: Path, pickled: bytes, numbers=None, keys=("0",), count=None) -> Path:
    """A file as torch before 1.6 writes it, with one storage."""
    numbers = np.arange(6, dtype=np.float32) if numbers is None else numbers
    parts = [pickle.dumps(p, 2) for p in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    stored = (numbers.size if count is None else count).to_bytes(8, "little") + numbers.tobytes()
    path.write_bytes(
        b"".join([*parts, b"\x80\2" + pickled + b".", pickle.dumps(list(keys), 2), stored])
    )
    return path


def legacy_storage(kind="FloatStorage", key="0", count=6, view=b"N") -> bytes:
    """As `storage`, with the place of a part of it."""
    return storage(kind, key, count)[:-2] + view + b"tQ"
