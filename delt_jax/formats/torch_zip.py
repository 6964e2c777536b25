"""Writes what torch.save would: a zip of a pickle and of the tensors' bytes, without torch.

The pickle names a tensor's storage and the one function that `torch.load(weights_only=True)` allows
to build it. It is written opcode by opcode, as a pickle of protocol 2.
"""

import io
import math
import struct
import zipfile
from typing import Any

import numpy as np

_STORAGES = {
    "uint8": "ByteStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
}
_INT32 = range(-(2**31), 2**31)


def dumps(content: dict[str, Any]) -> bytes:
    """The bytes of a `.pt` file.

    Args:
      content: text, whole numbers, arrays, and lists and dictionaries of these. Arrays become
        tensors of the same dtype.

    Raises:
      TypeError: for anything else.
    """
    arrays: list[np.ndarray] = []
    pickled = b"\x80\x02" + _pickled(content, arrays) + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)  # of 1980, as torch has it

        add("data.pkl", pickled)
        add("byteorder", b"little")
        for key, array in enumerate(arrays):
            add(f"data/{key}", array.astype(array.dtype.newbyteorder("<")).tobytes())
        add("version", b"3\n")
    return buffer.getvalue()


def _pickled(value: Any, arrays: list[np.ndarray]) -> bytes:
    """The opcodes that put a value on the stack; arrays are appended to the list."""
    if isinstance(value, str):
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    if isinstance(value, int) and not isinstance(value, bool):
        return _number(value)
    if isinstance(value, list):
        return b"](" + b"".join(_pickled(each, arrays) for each in value) + b"e"
    if isinstance(value, dict):
        pairs = (_pickled(each, arrays) for pair in value.items() for each in pair)
        return b"}(" + b"".join(pairs) + b"u"
    if isinstance(value, np.ndarray) and value.dtype.name in _STORAGES:
        arrays.append(np.ascontiguousarray(value))
        return _tensor(arrays[-1], len(arrays) - 1)
    raise TypeError(f"a {type(value).__name__} cannot be in a .pt file")


def _number(value: int) -> bytes:
    if value in _INT32:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _tensor(array: np.ndarray, key: int) -> bytes:
    """A call of _rebuild_tensor_v2: storage, offset, shape, strides, no gradient, no hooks."""
    sides = array.shape
    strides = tuple(math.prod(sides[axis + 1 :]) for axis in range(len(sides)))
    storage = (
        b"(" + _pickled("storage", []) + _name("torch", _STORAGES[array.dtype.name])
        + _pickled(str(key), []) + _pickled("cpu", []) + _number(array.size) + b"tQ"
    )  # fmt: skip
    hooks = _name("collections", "OrderedDict") + b")R"
    return (
        _name("torch._utils", "_rebuild_tensor_v2")
        + b"(" + storage + _number(0) + _tuple(sides) + _tuple(strides) + b"\x89" + hooks + b"tR"
    )  # fmt: skip


def _tuple(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"


def _name(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()
