"""Files of torch weights: `.safetensors`, and `.pth` without torch.

They lie anywhere, in object stores (`gs://`, `s3://`), installed packages (`pkg:`) or on the
Hugging Face Hub (`hf:`).
What a file is, its content says, not its ending. The pickle of a `.pth` file could call any
function; `torch_pickle` reads it as data.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from delt_jax.errors import UserError
from delt_jax.models import state_dicts, torch_archive
from delt_jax.models.torch_objects import Placeholder, RefusedPickleError, Tensor
from delt_jax.store import files
from delt_jax.store.foreign import ForeignFileError, check_size, shown
from delt_jax.store.local_copies import local

HUB = "hf:"
PACKAGE = "pkg:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMES_SHARED = 4  # tensors that are tied share their numbers, but few do
_NAME = 500  # letters in the name of a tensor
_HEADER_BYTES = 100_000_000  # of a .safetensors file, as its library allows


def read(
    source: str | Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      source: path of a file that torch.save or safetensors wrote, `pkg:package/path` for one in an
        installed package, or `hf:owner/name` (optionally `hf:owner/name/file`) on the Hugging Face
        Hub.
      say: told in a line if the file has several state dicts and one was chosen.

    Returns:
      Arrays by torch's names, read-only, without wrappers such as {"state_dict": ...} and
      prefixes such as `module.`; see `state_dicts`.

    Raises:
      UserError: if the file is missing, damaged, holds anything but tensors as its weights, or
        weights that are not finite.
    """
    path = _from_hub(str(source)) if str(source).startswith(HUB) else local_path(source)
    if not path.is_file():
        raise UserError(f"There is no weight file {path}; check the path.")
    try:
        arrays, note = _read(path)
    except RefusedPickleError as e:
        raise _refusal(path, e) from e
    except Exception as e:  # a damaged file can fail anywhere in its readers
        raise UserError(_unreadable(path, e)) from e
    if note:
        say(f"  {path.name}: {note}")
    for name, array in arrays.items():
        if shown(name, _NAME) != name:
            raise UserError(f"{path} has a tensor called {shown(name)!r}, which torch never does.")
        if array.dtype.kind in "fV" and not np.isfinite(array.astype(np.float32)).all():
            raise UserError(
                f"{path} has numbers in {name} that are not finite, so its training failed; take "
                f"an earlier checkpoint."
            )
    return arrays


def local_path(source: str | Path) -> Path:
    """Path of a file, copied here from an object store; `pkg:package/path` is found without import.

    Raises:
      UserError: if the package is not installed, or the path leaves it or is not there.
    """
    if not str(source).startswith(PACKAGE):
        return local(source)
    package, _, inside = str(source).removeprefix(PACKAGE).partition("/")
    if (
        not package.isidentifier()
        or package == "__main__"
        or not inside.isprintable()
        or not inside
    ):
        raise UserError(f"{source} names no file of a package; write pkg:package/path/to/file.")
    found = importlib.util.find_spec(package)
    if found is None:
        raise UserError(
            f"{source} is in a package that is not installed here; run "
            f"pip install {package.replace('_', '-')}."
        )
    for folder in found.submodule_search_locations or ():
        root = Path(folder).resolve()
        path = (root / inside).resolve()
        if not path.is_relative_to(root):
            raise UserError(f"{source} leaves the package {package}; name a file inside it.")
        if path.is_file():
            return path
    raise UserError(f"The package {package} is installed but has no file {inside}; check the path.")


def write(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as a `.safetensors` file that torch's tools load, atomically."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in state.items()}
    files.write_bytes(path, safetensors.numpy.save(contiguous, metadata={"format": "pt"}))


def read_pth(path: Path) -> Any:
    """Reads the content of a file that torch.save wrote, with arrays in place of tensors.

    Returns:
      A dictionary or list with plain data and read-only arrays, or one array.

    Raises:
      UserError: if it is damaged, or holds anything but tensors and plain data.
    """
    try:
        opened = torch_archive.read(path)
        content = opened.content
        if isinstance(content, dict):
            return {name: _plain(value, opened) for name, value in content.items()}
        if isinstance(content, list | tuple):
            return [_plain(value, opened) for value in content]
        return _plain(content, opened)
    except RefusedPickleError as e:
        raise _refusal(path, e) from e
    except (ForeignFileError, OSError) as e:
        raise UserError(_unreadable(path, e)) from e


def _plain(value: Any, opened: torch_archive.TorchFile) -> Any:
    if isinstance(value, Placeholder):
        raise RefusedPickleError(value.name)
    return opened.array(value) if isinstance(value, Tensor) else value


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of the state dict of a file, and a note on a choice that was made."""
    if _is_safetensors(path):
        check_size("it", path.stat().st_size)
        return state_dicts.find(safetensors.numpy.load_file(path))
    opened = torch_archive.read(path)
    state, note = state_dicts.find(opened.content)
    arrays = {name: opened.array(tensor) for name, tensor in state.items()}
    claimed = sum(array.nbytes for array in arrays.values())
    if claimed > _TIMES_SHARED * opened.bytes_read():
        raise ForeignFileError(f"its tensors claim {claimed} bytes by sharing the same numbers")
    return arrays, note


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a header, and the header.

    Raises:
      ForeignFileError: if the header is longer than the file or than a header may be.
    """
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(0)
        start = f.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and 1 < length <= min(size - 8, _HEADER_BYTES):
        return True
    if path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80\2")):
        raise ForeignFileError(f"its header claims {length} of {size} bytes")
    return False


def _refusal(path: Path, refused: RefusedPickleError) -> UserError:
    return UserError(
        f"{path} is refused: its pickle refers to {refused}, and only tensors are "
        f"read; save model.state_dict() alone, best as .safetensors."
    )


def _unreadable(path: Path, error: Exception) -> str:
    """A sentence for a file without weights, or a damaged one."""
    reason = shown((str(error).strip().splitlines() or [""])[0], 300)
    if isinstance(error, ForeignFileError):
        if reason.startswith(("holds ", "is ")):
            return f"{path} {reason}."
        return f"The weights {path} cannot be read: {reason}; the file is damaged or not torch's."
    return (
        f"The weights {path} cannot be read ({type(error).__name__}: {reason}); the file is "
        f"damaged, so make or download it again."
    )


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
