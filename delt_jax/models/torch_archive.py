"""Files that torch.save writes, without torch: a zip archive, or the format before 1.6.

Both hold pickles (`torch_pickle`) and the bytes of storages. A storage is read when an array is
made of one of its tensors, so an optimizer's state costs nothing.
"""

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from delt_jax.models import torch_pickle
from delt_jax.models.torch_objects import RefusedPickleError, Storage, Tensor
from delt_jax.store import zips
from delt_jax.store.foreign import ForeignFileError, check_size

_PICKLE_BYTES = 256 * 2**20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before 1.6
# By torch's names: of classes of storages, and of dtypes where the storage has none.
_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": jnp.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}

Reader = Callable[[Storage], np.ndarray]  # the numbers of a storage, as bytes


class TorchFile:
    """An opened file: its content, and arrays of the tensors in it.

    Attributes:
      content: as `torch_pickle.parse` gives it.
    """

    def __init__(self, content: Any, read: Reader, big_endian: bool = False):
        """Takes what was parsed, and how the bytes of a storage are read."""
        self.content = content
        self._read = read
        self._order = ">" if big_endian else "<"
        self._storages: dict[tuple[str, str], np.ndarray] = {}

    def array(self, tensor: Tensor) -> np.ndarray:
        """The numbers of a tensor, read-only; tensors of one storage share its memory.

        Raises:
          ForeignFileError: if the tensor reaches beyond its storage, or is of an unknown type.
        """
        storage, shape = tensor.storage, tensor.shape
        if tensor.kind not in _DTYPES:
            raise RefusedPickleError(f"torch.{tensor.kind}")
        dtype = np.dtype(_DTYPES[tensor.kind])
        untyped = storage.kind not in _DTYPES
        count = storage.length // dtype.itemsize if untyped else storage.length
        elements = math.prod(shape)
        pairs = zip(shape, tensor.stride, strict=True)
        last = tensor.offset + sum((n - 1) * step for n, step in pairs)
        # Checked here because as_strided would read any memory it is told to.
        if elements and (last >= count or elements > count):
            raise ForeignFileError("its pickle is damaged: a tensor reaches beyond its storage")
        if not elements:
            if max(shape) > 2**31:
                raise ForeignFileError("its pickle has an empty tensor of an impossible shape")
            return np.zeros(shape, dtype)
        numbers = self._numbers(storage, dtype)[storage.start : storage.start + count]
        strides = [step * dtype.itemsize for step in tensor.stride]
        view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, strides)
        view.flags.writeable = False
        return view

    def bytes_read(self) -> int:
        """Bytes of all storages that were read."""
        return sum(numbers.nbytes for numbers in self._storages.values())

    def _numbers(self, storage: Storage, dtype: np.dtype) -> np.ndarray:
        """A whole storage, [count]."""
        known = (storage.key, dtype.name)
        if known not in self._storages:
            content = self._read(storage)
            numbers = content[: len(content) // dtype.itemsize * dtype.itemsize].view(dtype)
            self._storages[known] = numbers if self._order == "<" else numbers.byteswap()
        return self._storages[known]


def read(path: Path) -> TorchFile:
    """Reads the pickle of a file, whichever of torch's formats it has.

    Raises:
      ForeignFileError: if it is damaged or none of torch's.
      OSError: if it cannot be read.
    """
    with open(path, "rb") as f:
        start = f.read(2)
    if start == b"PK":
        return _read_zip(path)
    if not start.startswith(b"\x80"):  # of every pickle that torch.save wrote
        raise ForeignFileError("it is neither a .safetensors file nor one that torch.save wrote")
    return _read_legacy(path)


def _bytes_of(storage: Storage) -> int:
    """Size of a storage in the file."""
    if storage.kind in _DTYPES:
        return storage.count * np.dtype(_DTYPES[storage.kind]).itemsize
    if storage.kind == "UntypedStorage":
        return storage.count
    raise RefusedPickleError(f"torch.{storage.kind}")


def _read_zip(path: Path) -> TorchFile:
    with zips.opened(path) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ForeignFileError(
                "is a zip archive, but none of PyTorch's; it has no data.pkl"
                if not pickles
                else "is a zip archive, but none of PyTorch's; it has several data.pkl"
            )
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        big = order in names and zips.read(archive, order, 16) == b"big"
        content = torch_pickle.parse(
            io.BytesIO(zips.read(archive, pickles[0], _PICKLE_BYTES))
        ).content

    def read_storage(storage: Storage) -> np.ndarray:
        size = _bytes_of(storage)
        with zips.opened(path) as archive:
            name = f"{folder}data/{storage.key}"
            if zips.size(archive, name) != size:
                raise ForeignFileError(f"storage {storage.key} has the wrong length")
            numbers = np.empty(size, np.uint8)
            zips.read_into(archive, name, 0, numbers)
        return numbers

    return TorchFile(content, read_storage, big)


def _read_legacy(path: Path) -> TorchFile:
    """The format before 1.6: five pickles, then for each storage its count and its numbers."""
    with open(path, "rb") as f:
        length = f.seek(0, os.SEEK_END)
        f.seek(0)
        limited = _Limited(f, _PICKLE_BYTES)
        first = torch_pickle.parse(limited).content
        if first != _MAGIC:
            return TorchFile(first, _without_storages)
        if torch_pickle.parse(limited).content != _PROTOCOL:
            raise ForeignFileError("it is of an unknown version of torch's first format")
        torch_pickle.parse(limited)  # about the machine
        content, storages = torch_pickle.parse(limited)
        keys = torch_pickle.parse(limited).content
        if not isinstance(keys, list) or not all(isinstance(k, str | int) for k in keys):
            raise ForeignFileError("its list of storages is damaged")
        places = _places(f, [str(key) for key in keys], storages, length)

    def read_storage(storage: Storage) -> np.ndarray:
        if storage.key not in places:
            raise ForeignFileError(f"it has no storage {storage.key}")
        place, size = places[storage.key]
        if size != _bytes_of(storage):
            raise ForeignFileError(f"storage {storage.key} has the wrong length")
        check_size(f"storage {storage.key}", size)
        with open(path, "rb") as f:
            f.seek(place)
            numbers = np.frombuffer(f.read(size), np.uint8)
        if len(numbers) != size:
            raise ForeignFileError(f"it ends within storage {storage.key}")
        return numbers

    return TorchFile(content, read_storage)


class _Limited:
    """A file that gives no more than so many bytes, and no longer lines."""

    def __init__(self, f: IO[bytes], most: int):
        self._file, self._left = f, most

    def read(self, count: int) -> bytes:
        return self._take(self._file.read(min(count, self._left + 1)))

    def readline(self) -> bytes:
        return self._take(self._file.readline(self._left + 1))

    def tell(self) -> int:
        return self._file.tell()

    def _take(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise ForeignFileError(f"its pickles have more than {_PICKLE_BYTES} bytes")
        return content


def _places(
    f: IO[bytes], keys: list[str], storages: dict[str, Storage], length: int
) -> dict[str, tuple[int, int]]:
    """Where the numbers of each storage begin in a file, and their bytes."""
    places = {}
    for key in keys:
        if key not in storages:
            raise ForeignFileError(f"no tensor has its storage {key}")
        count = int.from_bytes(f.read(8), "little", signed=True)
        size = _bytes_of(storages[key])
        place = f.tell()
        if count != storages[key].count or place + size > length:
            raise ForeignFileError(f"storage {key} has the wrong length")
        places[key] = place, size
        f.seek(size, os.SEEK_CUR)
    return places


def _without_storages(storage: Storage) -> np.ndarray:
    raise ForeignFileError("it is a pickle, but none that torch.save wrote, and has no storages")
