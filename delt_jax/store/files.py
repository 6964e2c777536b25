"""Atomic files and folders: written under a temporary name, then renamed."""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from delt_jax.errors import UserError


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
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors_as_user_errors(path):
        try:
            with open(temporary, "wb") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


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
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


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
    temporary = target.with_name(f".{target.name}.tmp")
    with disk_errors_as_user_errors(target):
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
        # POSIX: renaming onto another name of the same file does nothing, so remove the first name.
        temporary.unlink(missing_ok=True)


def read_npz(path: Path, stage: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz.

    Raises:
      UserError: if the file is missing or damaged; names the stage to run again.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(
            f"{path} is missing or damaged ({type(e).__name__}); run the {stage} stage again."
        ) from e


def cached_npz(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz, or makes and writes them if there is none.

    Args:
      path: of the file; its name must depend on everything that the arrays depend on.
      make: computes the arrays if the file is missing or damaged.
    """
    try:
        return read_npz(path, "")
    except UserError:
        made = make()
    with disk_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, **made)
    return made


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as e:
        raise UserError(f"{path} is missing; run the stage that makes it.") from e
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is damaged ({e}); delete it and run its stage again.") from e


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which replaces `path` as a whole if nothing is raised."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors_as_user_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        with disk_errors_as_user_errors(path):
            yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    old = _before(path)
    with disk_errors_as_user_errors(path):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _before(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def replaced_folder(path: Path) -> Path:
    """`path`, or the folder before it where a kill stopped `replacing_folder` between renames."""
    return _before(path) if _before(path).exists() and not path.exists() else path


def delete_folder(path: Path) -> None:
    """Deletes what `replacing_folder` made, and what a kill may have left of it."""
    shutil.rmtree(_before(path), ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


def content_hash(*parts: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256 of some byte strings and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
