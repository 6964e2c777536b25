"""Files of torch weights: `.safetensors`, `.pth` without torch, and names on the Hugging Face Hub.

A `.pth` file is a zip archive of one pickle and the bytes of its tensors. A pickle can call
any function, so `_TensorsOnly` reads it, which knows the few names that tensors need and refuses
all others.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from delt_jax.errors import UserError
from delt_jax.store import files

HUB = "hf:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_WRAPPERS = ("model", "state_dict")
_PREFIX = "module."  # of torch's DataParallel
_STORAGES = {
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
}


def read(source: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      source: path of a `.safetensors`, `.pth`, `.pt` or `.bin` file, or
        `hf:owner/name` (optionally `hf:owner/name/file`) on the Hugging Face Hub.

    Returns:
      Arrays by torch's names, unwrapped from {"model": ...} or {"state_dict": ...} and
      without `module.` prefixes.

    Raises:
      UserError: if the file is missing, damaged, or holds anything but tensors.
    """
    path = _from_hub(str(source)) if str(source).startswith(HUB) else Path(source)
    if not path.is_file():
        raise UserError(f"There is no weight file {path}; check the path.")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.numpy.load_file(path)
        elif path.suffix in (".pth", ".pt", ".bin"):
            content = read_pth(path)
        else:
            raise UserError(
                f"{path} ends in {path.suffix or 'nothing'}; weights are read from .safetensors, "
                f".pth, .pt and .bin files."
            )
    except UserError:
        raise
    except Exception as e:  # a damaged file can fail anywhere in its readers
        raise UserError(
            f"The weights {path} cannot be read ({type(e).__name__}: {e}); the file is damaged, "
            f"so make or download it again."
        ) from e
    return _unwrapped(content, path)


def write(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as a `.safetensors` file that torch's tools load, atomically."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in state.items()}
    files.write_bytes(path, safetensors.numpy.save(contiguous, metadata={"format": "pt"}))


def _unwrapped(content: Any, path: Path) -> dict[str, np.ndarray]:
    """Takes the state dict out of its wrapper and checks that it holds only arrays."""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} holds a {type(content).__name__} without tensors instead of a state dict; "
            f"save model.state_dict()."
        )
    strangers = [str(k) for k, v in content.items() if not isinstance(v, np.ndarray)]
    if strangers:
        raise UserError(
            f"{path} is no state dict: {', '.join(strangers)} are not tensors; save "
            f'model.state_dict(), or {{"state_dict": ...}} around it.'
        )
    state = {str(name).removeprefix(_PREFIX): array for name, array in content.items()}
    if len(state) != len(content):
        raise UserError(f"{path} holds some tensors twice, with and without {_PREFIX!r}.")
    return state


def read_pth(path: Path) -> Any:
    """Reads the content of a `.pth` file, with arrays in place of tensors."""
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not a zip archive, so it was saved by a PyTorch before 1.6 or is damaged; "
            f"load it with torch once and save it again, best as .safetensors."
        )
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip archive, but none of PyTorch's; it has no data.pkl.")
        folder = pickles[0].removesuffix("data.pkl")
        order = "byteorder"
        big = folder + order in archive.namelist() and archive.read(folder + order) == b"big"
        with archive.open(pickles[0]) as f:
            return _TensorsOnly(io.BytesIO(f.read()), path, archive, folder, big).load()


class _TensorsOnly(pickle.Unpickler):
    """Reads dictionaries of tensors; imports and calls nothing that a pickle names."""

    def __init__(
        self, pickled: io.BytesIO, path: Path, archive: zipfile.ZipFile, folder: str, big: bool
    ):
        super().__init__(pickled)
        self._path = path
        self._archive = archive
        self._folder = folder
        self._order = ">" if big else "<"
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Our stand-ins for the few names that tensors need; raises a UserError for others."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilder()
        if module == "torch" and name in _STORAGES:
            # A string has no attributes that a pickle could set, and cannot be called.
            return name
        raise UserError(
            f"{self._path} is refused: its pickle refers to {module}.{name}, and only tensors are "
            f"read; save model.state_dict() alone, best as .safetensors."
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage, an array [count]."""
        match pid:
            case ("storage", str(kind), str(key), _, int(count)) if kind in _STORAGES:
                pass
            case _:
                raise UserError(f"{self._path} is refused: it holds a storage that is unknown.")
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}data/{key}")
            dtype = np.dtype(_STORAGES[kind])
            if len(content) != count * dtype.itemsize:
                raise UserError(f"{self._path} is damaged: storage {key} has the wrong length.")
            array = np.frombuffer(content, dtype)
            self._storages[key] = array if self._order == "<" else array.byteswap()
        return self._storages[key]


def _rebuilder() -> Callable[..., np.ndarray]:
    """Makes a new function each time: a pickle may set attributes on what it calls."""

    def rebuild(storage, offset, size, stride, *unused):
        """Copies a torch tensor out of its storage, a one-dimensional array.

        torch also passes requires_grad, hooks and metadata, which do not matter here.
        """
        del unused
        shape, steps = (tuple(int(n) for n in numbers) for numbers in (size, stride))
        if len(shape) != len(steps) or min((offset, *shape, *steps)) < 0:
            raise ValueError(f"a tensor of size {shape} and stride {steps}")
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        elements = math.prod(shape)
        # Checked here because as_strided would read any memory it is told to.
        if elements and (last >= len(storage) or elements > len(storage)):
            raise ValueError(f"a tensor of size {shape} reaches beyond its storage")
        if not elements:
            return np.zeros(shape, storage.dtype)
        strides = [step * storage.itemsize for step in steps]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()

    return rebuild


def _from_hub(source: str) -> Path:
    """Path of the local copy of a file on the Hugging Face Hub; downloads it if necessary."""
    import huggingface_hub  # slow to import, and few runs need it
    from huggingface_hub import errors

    parts = source.removeprefix(HUB).split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise UserError(f"{source} is no name on the Hugging Face Hub; write hf:owner/name.")
    repository = "/".join(parts[:2])
    names = tuple(parts[2:]) or _HUB_FILES
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except errors.LocalEntryNotFoundError as e:
            raise UserError(
                f"{source} is not on this machine and the Hugging Face Hub cannot be reached; "
                f"connect once, or give the path of a weight file."
            ) from e
        except errors.EntryNotFoundError:
            continue
        except Exception as e:  # unknown names, private ones, and failures of the network
            reason = str(e).strip().splitlines() or [""]
            raise UserError(
                f"{source} cannot be downloaded from the Hugging Face Hub "
                f"({type(e).__name__}: {reason[0]}); check the name and the connection."
            ) from e
    raise UserError(f"{source} has no file {' or '.join(names)} on the Hugging Face Hub.")
