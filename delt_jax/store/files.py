"""Atomic files and folders: written under a temporary name, then renamed."""

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.store import foreign, regular

_MOST_JSON_BYTES = 2**30  # a manifest that lists a million images has a tenth of it
_CHECKSUM = "sha256 of the other arrays"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp", re.DOTALL)  # of a file that has this name
_SECONDS_OF_A_WRITER = 86400  # without a write, after which it must be dead


@contextlib.contextmanager
def disk_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside into a UserError that names the file, or else `path`."""
    try:
        yield
    except OSError as e:
        raise UserError(
            f"{e.filename or path} cannot be written: {e.strerror or e}; free the disk or choose "
            f"another folder."
        ) from e


@contextlib.contextmanager
def _replacing_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write, which replaces `path` once it is whole and on disk."""
    temporary = _temporary(path)
    _make_way(path)
    with disk_errors_as_user_errors(path):
        _clear_once(path.parent)
        try:
            # Exclusively, so that nothing is written through a link that lies there.
            with open(temporary, "xb") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _temporary(path: Path) -> Path:
    """Where one writer of a file has it until it is whole; no other writer has this name."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def is_temporary_of(name: str, path: Path) -> bool:
    """Whether a file of this name is what a killed writer of `path` left beside it."""
    found = _TEMPORARY.fullmatch(name)
    return name == f".{path.name}.tmp" or (found is not None and found[1] == path.name)


@functools.lru_cache(maxsize=1024)
def _clear_once(folder: Path) -> None:
    """Deletes, once in a process, the files that writers left in a folder and are surely dead.

    Folders that are no run's, such as caches and those of scores, have no owner who could do it.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            is_ours = _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if is_ours and time.time() - entry.stat().st_mtime >= _SECONDS_OF_A_WRITER:
                Path(entry).unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    """Removes an empty folder that lies where a file belongs.

    Raises:
      UserError: if the folder is not empty.
    """
    if not path.is_dir() or path.is_symlink():
        return
    try:
        path.rmdir()
    except OSError as e:
        raise UserError(f"{path} is a folder where a file belongs; move it away.") from e


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: readers see the old content or the new one."""
    with _replacing_file(path) as f:
        f.write(content)


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes a file atomically from blocks, one in memory at a time."""
    with _replacing_file(path) as f:
        for block in blocks:
            f.write(block)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_bytes(path, as_bytes(value))


def as_bytes(value: Any) -> bytes:
    """The content of a JSON file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def write_npz(path: Path, **arrays: Any) -> None:
    """Writes a compressed .npz atomically."""
    with _replacing_file(path) as f:
        np.savez_compressed(f, **arrays)


def write_npy(path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Writes an .npy atomically from blocks along its first axis, one in memory at a time."""
    with _replacing_file(path) as f:
        for i, block in enumerate(blocks):
            if i == 0:
                descr = np.lib.format.dtype_to_descr(block.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(f, header)
            f.write(np.ascontiguousarray(block).data)


def write_npz_fast(path: Path, **arrays: Any) -> None:
    """Writes an uncompressed .npz atomically; its checksums are those of any .npz."""
    with _replacing_file(path) as f:
        np.savez(f, **arrays)


def link(source: Path, target: Path) -> None:
    """Hard-links a finished file to a second name, atomically; copies if the disk cannot link."""
    temporary = _temporary(target)
    _make_way(target)
    with disk_errors_as_user_errors(target):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            # Renaming onto another name of the same file does nothing, and a failure leaves one.
            temporary.unlink(missing_ok=True)


def read_npz(path: Path, stage: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz.

    Raises:
      DamagedArtefact: if the file is missing or damaged; names the stage to run again.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError(path)
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except MemoryError:
        raise
    except Exception as e:  # readers of zip files and of arrays raise many types
        fault = f"{path} is missing or damaged ({type(e).__name__})"
        raise DamagedArtefact(path, fault, stage) from e


def cached_npz(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz, or makes and writes them if there is none.

    Args:
      path: of the file; its name must depend on everything that the arrays depend on.
      make: computes the arrays if the file is missing, damaged or has no checksum.
    """
    try:
        return read_sealed_npz(path)
    except DamagedArtefact:
        made = make()
    with disk_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed_npz(path, made)
    return made


def read_sealed_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays that `write_sealed_npz` wrote.

    Raises:
      DamagedArtefact: if the file is missing, damaged, changed, or has no checksum.
    """
    found = read_npz(path, "")
    if str(found.pop(_CHECKSUM, "")) != _arrays_checksum(found):
        raise DamagedArtefact(path, f"{path} was changed since it was written")
    return found


def write_sealed_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an uncompressed .npz with a checksum of its arrays, atomically."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    write_npz_fast(path, **arrays, **{_CHECKSUM: np.array(_arrays_checksum(arrays))})


def _arrays_checksum(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's content, which is read piece by piece."""
    with regular.open_file(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def as_json(value: Any) -> Any:
    """The value as a JSON file gives it back: tuples become lists."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> Any:
    """Reads JSON that a stage wrote, within the limits of `foreign.parse_json`.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        return parse_json(path)
    except FileNotFoundError as e:
        raise UserError(f"{path} is missing; run the stage that makes it.") from e
    except (OSError, ValueError) as e:
        wrong = getattr(e, "strerror", None) or e
        raise UserError(f"{path} is damaged ({wrong}); delete it and run its stage again.") from e


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      OSError: if it is missing or cannot be read.
      ValueError: if it is damaged or holds something else.
    """
    content = parse_json(path)
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def parse_json(path: Path) -> Any:
    """Reads JSON of a stage; raises an OSError or ValueError that says what is wrong with it."""
    return foreign.read_json(path, _MOST_JSON_BYTES)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which replaces `path` as a whole if nothing is raised.

    Where `path` is a symbolic link, the folder that it points at is replaced.
    """
    path = _place(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors_as_user_errors(path):
        _delete(temporary)
        temporary.mkdir(parents=True)
    try:
        with disk_errors_as_user_errors(path):
            yield temporary
    except BaseException:
        _delete(temporary)
        raise
    old = _before(path)
    with disk_errors_as_user_errors(path):
        if path.exists():
            _delete(old)
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        _delete(old)


def _place(path: Path) -> Path:
    """Where a folder lies: what a symbolic link points at, else `path` itself."""
    return path.resolve() if path.is_symlink() else path


def _before(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _delete(path: Path) -> None:
    """Deletes a folder or a file, but never what a symbolic link points at."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def replaced_folder(path: Path) -> Path:
    """`path`, or the folder before it where a kill stopped `replacing_folder` between renames."""
    before = _before(_place(path))
    return before if before.exists() and not path.exists() else path


def delete_folder(path: Path) -> None:
    """Deletes what `replacing_folder` made, and what a kill may have left of it."""
    _delete(_before(_place(path)))
    _delete(_place(path))
    _delete(path)


def look_again(folder: Path) -> None:
    """Makes NFS forget which files were not in a folder when this process looked before."""
    with contextlib.suppress(OSError):
        os.listdir(folder)  # opening a folder asks the server


def check_replaceable(path: Path) -> None:
    """Raises a UserError if `replacing_folder` could not replace what is at `path`."""
    target = path
    with contextlib.suppress(OSError, RuntimeError):
        target = _place(path)
    if target.is_symlink():  # a loop, which Python 3.13 leaves as it is, and older ones raise for
        raise UserError(f"{path} is a symbolic link that leads nowhere; delete it.")
    if target.exists() and not target.is_dir():
        raise UserError(f"{path} is a file where a folder belongs; move it away.")
    if target.is_dir() and os.path.ismount(target):
        raise UserError(
            f"{path} cannot be replaced as a whole, because a disk is mounted at {target}; put a "
            f"symbolic link to a folder on that disk in its place."
        )
    if path.is_symlink() and not os.access(target.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"{path} is a symbolic link to {target}, beside which nothing can be written; make "
            f"{target.parent} writable or delete the link."
        )


def clear_leftovers(path: Path) -> None:
    """Deletes temporary files and folders that a killed process left beside `path`.

    A folder that was about to be replaced comes back if nothing has taken its place.
    """
    place = _place(path)
    old = _before(place)
    with disk_errors_as_user_errors(path):
        if old.is_dir() and not place.exists():
            os.replace(old, place)
        left = [place.with_name(f".{place.name}.{suffix}") for suffix in ("tmp", "new", "old")]
        beside = place.parent.iterdir() if place.parent.is_dir() else ()
        for path in [*left, *(p for p in beside if is_temporary_of(p.name, place))]:
            _delete(path)


def clear_temporaries(folder: Path, seconds: float = 0) -> None:
    """Deletes the temporary files that killed processes left in a folder.

    Args:
      folder: may be missing.
      seconds: since the last write; younger files may be those of another process.
    """
    with disk_errors_as_user_errors(folder):
        for path in folder.glob(".*.tmp"):
            if path.is_symlink() or time.time() - path.stat().st_mtime >= seconds:
                _delete(path)


def user_cache() -> Path:
    """The user's folder for what can be made again: $XDG_CACHE_HOME/delt_jax, or in ~/.cache.

    Raises:
      UserError: if that is a URL.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    if "://" in base:
        raise UserError(f"XDG_CACHE_HOME {base} is a URL; name a folder of this machine.")
    return Path(base) / "delt_jax"


def content_hash(*parts: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256 of some byte strings and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
