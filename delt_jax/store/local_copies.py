"""Local copies of files in object stores, for all readers that need a file of their own.

A copy is named by its URL and by names, sizes and tags of the files there, so that content that
changed is copied again. Files arrive one by one, each as a whole: what a kill stopped goes on where
it was. Everything here may be deleted at any time between runs.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from delt_jax.core import stopping
from delt_jax.errors import UserError
from delt_jax.store import files, locks, remote
from delt_jax.store.identity import identity
from delt_jax.store.remote import Listed

_SECONDS_BETWEEN_LOOKS = 0.5
_Choice = Callable[[Mapping[str, Listed]], Mapping[str, Listed]]

_copied: dict[str, Path] = {}  # in this run


def local(text: str | Path, choose: _Choice | None = None) -> Path:
    """The path of a file or folder, copied here first if it is a URL.

    Args:
      text: a local path, which is returned as it is, or a URL.
      choose: tells which of the files below a folder are wanted, by their paths relative to it,
        and may add files beside the folder ("../NAME"). By default it is those right in the
        folder, which are looked up once in a run: what the run began with stays.

    Raises:
      UserError: if there is nothing, the store cannot be reached, or the disk is too small.
    """
    if not remote.is_remote(text):
        return Path(text)
    url = str(text).rstrip("/")
    if choose is not None:
        return _copy(url, choose)
    if url not in _copied:
        _copied[url] = _copy(url, _directly_in)
    return _copied[url]


def forget() -> None:
    """Looks at the stores anew; a run calls this at its beginning."""
    _copied.clear()
    remote.forget()


def folder() -> Path:
    """Where the copies are: $XDG_CACHE_HOME/delt_jax/remote, by default below ~/.cache."""
    return files.user_cache() / "remote"


def _directly_in(found: Mapping[str, Listed]) -> Mapping[str, Listed]:
    return {name: entry for name, entry in found.items() if "/" not in name}


def _copy(url: str, choose: _Choice) -> Path:
    """Copies what is missing of a file or folder."""
    file = remote.file_at(url)
    found = {"": file} if file else _listed(url, choose)
    if not found:
        raise UserError(f"There is nothing at {url}; check the name.")
    content = [[name, entry.size, entry.tag] for name, entry in found.items()]
    place = folder() / identity({"url": url, "files": content}) / url.rpartition("/")[2]

    urls = {name: _joined(url, name) for name in found}
    targets = {urls[name]: Path(os.path.normpath(place / name)) for name in found}
    with files.disk_errors_as_user_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.parent):
            sizes = {urls[name]: entry.size for name, entry in found.items()}
            missing = {u: size for u, size in sizes.items() if not _is_there(targets[u], size)}
            if missing:
                _check_room(url, place.parent, sum(missing.values()))
                remote.download(missing, targets.__getitem__, f"copy {url}")
    return place


def _listed(url: str, choose: _Choice) -> Mapping[str, Listed]:
    if choose is not _directly_in:
        return choose(remote.files_below(url))
    try:
        return {entry.name: entry for entry in remote.entries(url) if not entry.is_folder}
    except FileNotFoundError:
        return {}


def _joined(url: str, name: str) -> str:
    if name.startswith("../"):
        return f"{url.rpartition('/')[0]}/{name.removeprefix('../')}"
    return f"{url}/{name}" if name else url


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _check_room(url: str, place: Path, size: int) -> None:
    free = shutil.disk_usage(place).free
    if size > free:
        raise UserError(
            f"A local copy of {url} takes {size:,} bytes, and {folder()} has room for {free:,}; "
            f"free the disk, or choose another one with XDG_CACHE_HOME."
        )


def _alone(place: Path):
    """The lock of a copy, waited for while another process makes the same one."""
    while True:
        try:
            return locks.take(place / ".lock")
        except locks.LockHeldElsewhere:
            stopping.check()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
