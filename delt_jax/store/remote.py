"""Files of object stores, `gs://` and `s3://`: listed, read and written through fsspec.

Paths below such a place are `etils.epath.Path`s, which join and print like pathlib's. Everything
else goes through the file systems of fsspec, on which epath stands: only these list thousands of
files with their sizes in one request. All of it is imported at the first URL.
"""

import contextlib
import errno
import functools
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from delt_jax.core.progress import progress
from delt_jax.errors import UserError

# By scheme, the name of the extra that brings its file system, which is also what to call it.
_EXTRAS = {"gs": "gcs", "s3": "s3"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OF_THIS_MACHINE = re.compile(r"file://(localhost)?(?=/)", re.IGNORECASE)
# What changes with an object's content, the best first; the names are those of the two stores.
_TAGS = ("md5Hash", "crc32c", "ETag", "etag", "generation", "LastModified", "mtime", "created")
_THREADS = 32  # requests at a time; each waits for the network nearly always
_SECONDS_BETWEEN_LOOKS = 0.2
_MIB = 2**20


class Listed(NamedTuple):
    """What a listing says: last part of the name, whether it is a folder, bytes, and a tag.

    The tag changes when the content does.
    """

    name: str
    is_folder: bool
    size: int
    tag: str


def scheme_of(text: str | os.PathLike) -> str:
    """Scheme of a URL in lower case; empty for a local path."""
    match = _URL.match(os.fspath(text))
    return match[1].lower() if match else ""


def is_remote(text: str | os.PathLike) -> bool:
    """Whether a path lies in an object store that is read and written here."""
    return scheme_of(text) in _EXTRAS


def schemes() -> str:
    """The schemes for a sentence."""
    return " and ".join(f"{scheme}://" for scheme in _EXTRAS)


def without_file_scheme(text: str) -> str:
    """The local path that a `file://` URL names; all else as it is."""
    match = _OF_THIS_MACHINE.match(text)
    return unquote(text[match.end() :]) if match else text


def checked(text: str, what: str) -> str:
    """A local path, or a URL as all functions here take it; needs no network.

    Args:
      text: as typed; `file://` becomes the local path.
      what: names it in the sentence.

    Raises:
      UserError: for a URL of another kind, without a bucket, or whose file system is not installed.
    """
    text = without_file_scheme(text)
    scheme = scheme_of(text)
    if not scheme:
        return text
    if scheme not in _EXTRAS:
        raise UserError(
            f"{what} {text} is a URL of a kind that is not read; copy it to this machine, or to "
            f"{schemes()}."
        )
    rest = text[len(scheme) + 3 :].rstrip("/")
    if not rest or rest.startswith("/"):
        raise UserError(f"{what} {text} names no bucket; write {scheme}://BUCKET/PATH.")
    _system(scheme, f"{what} {text}")
    return f"{scheme}://{rest}"


def path_of(text: str) -> Path:
    """A path that joins and prints: pathlib's, or epath's for a URL."""
    if not is_remote(text):
        return Path(text)
    from etils import epath

    return epath.Path(text)


_listed: dict[str, list[Listed]] = {}


def forget() -> None:
    """Forgets what `entries` listed before, and opens the stores anew."""
    _listed.clear()
    _opened_system.cache_clear()


def entries(url: str) -> list[Listed]:
    """What lies right in a folder, by name; listed once until `forget` is called.

    Raises:
      FileNotFoundError: if there is nothing.
      NotADirectoryError: if it is a file.
      UserError: if the store cannot be reached.
    """
    if url not in _listed:
        _listed[url] = _entries(url)
    return _listed[url]


def _entries(url: str) -> list[Listed]:
    with _failures(url):
        system, path = _opened(url)
        found = system.ls(path, detail=True)
    inside = [about for about in found if _inner(about, path)]
    if not inside and any(about["type"] == "file" for about in found):
        raise NotADirectoryError(errno.ENOTDIR, "a file, not a folder", url)
    return sorted(_entry(about, _inner(about, path)) for about in inside)


def files_below(url: str) -> dict[str, Listed]:
    """All files below a folder, however deep, by their paths relative to it; empty if it is none.

    Raises:
      UserError: if the store cannot be reached.
    """
    try:
        with _failures(url):
            system, path = _opened(url)
            found = system.find(path, detail=True).values()
    except FileNotFoundError:
        return {}
    named = {_inner(about, path): about for about in found if about["type"] == "file"}
    return {name: _entry(about, name) for name, about in sorted(named.items()) if name}


def file_at(url: str) -> Listed | None:
    """The file of this name; None if there is none.

    Raises:
      UserError: if the store cannot be reached.
    """
    try:
        with _failures(url):
            system, path = _opened(url)
            about = system.info(path)
    except FileNotFoundError:
        return None
    return _entry(about, path.rpartition("/")[2]) if about["type"] == "file" else None


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder, here or in a store.

    Raises:
      UserError: if the store cannot be reached.
    """
    if not is_remote(path):
        return os.path.isdir(path)
    try:
        return bool(entries(os.fspath(path)))
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_empty(url: str, but: Collection[str] = ()) -> bool:
    """Whether there is nothing now, whatever `entries` listed before.

    Args:
      url: of a folder or file.
      but: names in the folder that do not count.

    Raises:
      UserError: if the store cannot be reached.
    """
    try:
        return all(entry.name in but for entry in _entries(url))
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def read_bytes(url: str, most: int) -> bytes:
    """Content of a file.

    Raises:
      OSError: if it is not there, or has more than `most` bytes.
      UserError: if the store cannot be reached.
    """
    with _failures(url):
        system, path = _opened(url)
        content = system.cat_file(path)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"{len(content)} bytes, more than {most}", url)
    return content


def read_all(urls: Sequence[str], most: int) -> list[bytes | OSError]:
    """Contents of files, read side by side; for what is not there or too large, the error.

    Raises:
      UserError: if the store cannot be reached.
    """

    def content(url: str) -> bytes | OSError:
        try:
            return read_bytes(url, most)
        except OSError as e:
            return e

    return side_by_side(content, urls)


def side_by_side(call: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """Results of a function that waits for the network, in the order of its arguments."""
    with ThreadPoolExecutor(min(_THREADS, max(len(values), 1))) as pool:
        return list(pool.map(call, values))


def write_bytes(url: str, content: bytes) -> None:
    """Writes a file, which readers see as a whole.

    Raises:
      UserError: if the store cannot be reached.
    """
    with _failures(url, writes=True):
        system, path = _opened(url)
        system.pipe_file(path, content)


def delete(urls: Sequence[str]) -> None:
    """Deletes files; those that are gone are none.

    Raises:
      UserError: if the store cannot be reached.
    """

    def one(url: str) -> None:
        with contextlib.suppress(FileNotFoundError), _failures(url):
            system, path = _opened(url)
            system.rm_file(path)

    side_by_side(one, urls)


def download(sizes: Mapping[str, int], target: Callable[[str], Path], title: str) -> None:
    """Copies files here; each appears as a whole.

    Args:
      sizes: bytes by URL.
      target: where a URL's file goes.
      title: of the progress bar.

    Raises:
      UserError: if the store cannot be reached, or the disk not be written.
    """

    def one(url: str, count: Callable[[int], None]) -> None:
        path = target(url)
        temporary = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _failures(url):
            system, inside = _opened(url)
            system.get_file(inside, str(temporary), callback=_counting(count))
        os.replace(temporary, path)

    _transfer(sizes, one, title)


def upload(sizes: Mapping[str, int], origin: Callable[[str], Path], title: str) -> None:
    """Copies files of this machine to a store; readers see each as a whole.

    Args:
      sizes: bytes by URL.
      origin: the file that belongs at a URL.
      title: of the progress bar.

    Raises:
      UserError: if the store cannot be reached.
    """

    def one(url: str, count: Callable[[int], None]) -> None:
        with _failures(url, writes=True):
            system, inside = _opened(url)
            system.put_file(str(origin(url)), inside, callback=_counting(count))

    _transfer(sizes, one, title)


def _transfer(
    sizes: Mapping[str, int], one: Callable[[str, Callable[[int], None]], None], title: str
) -> None:
    """Transfers files in threads; the first that fails ends it once those under way are done."""
    done = [0]

    def count(amount: int) -> None:
        done[0] += amount

    shown, total = 0, max(1, round(sum(sizes.values()) / _MIB))
    with ThreadPoolExecutor(_THREADS) as pool, progress(total, title, "MiB") as bar:
        waiting = {pool.submit(one, url, count) for url in sizes}
        try:
            while waiting:
                finished, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS)
                bar.update(done[0] // _MIB - shown)
                shown = done[0] // _MIB
                for future in finished:
                    future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _counting(count: Callable[[int], None]) -> Any:
    """A callback of fsspec that adds up bytes."""
    import fsspec.callbacks

    class Counting(fsspec.callbacks.Callback):
        """Tells how many more bytes there are."""

        def relative_update(self, inc: int = 1) -> None:
            count(inc)

    return Counting()


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there: bucket and name."""
    scheme, _, path = url.partition("://")
    return _system(scheme.lower(), url), path.rstrip("/")


@functools.lru_cache
def _opened_system(scheme: str) -> Any:
    import fsspec

    for library in ("gcsfs", "s3fs"):  # they print tracebacks of what they also raise
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # Its own cache of listings keeps kilobytes for each object, and hides what others write.
    return fsspec.filesystem(scheme, use_listings_cache=False)


def _system(scheme: str, what: str = "") -> Any:
    """The file system of a scheme; raises a UserError if it is not installed."""
    try:
        return _opened_system(scheme)
    except ImportError as e:
        raise UserError(
            f"{what} needs what is not installed here: pip install 'delt_jax[{_EXTRAS[scheme]}]'."
        ) from e


@contextlib.contextmanager
def _failures(url: str, writes: bool = False) -> Iterator[None]:
    """Tells what is not there, an OSError, from a store that does not answer, a UserError.

    Where something is written, only its bucket can be missing, which is a UserError as well.
    """
    absent: tuple[type[OSError], ...] = () if writes else (FileNotFoundError,)
    try:
        yield
    except UserError:
        raise
    except absent as e:
        raise FileNotFoundError(errno.ENOENT, "it is not there", url) from e
    except (IsADirectoryError, NotADirectoryError) as e:
        raise type(e)(e.errno, e.strerror or "a folder where a file belongs", url) from e
    except Exception as e:  # every library below has errors of its own
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"{url} cannot be read or written ({type(e).__name__}: {reason}); check its name, the "
            f"connection, and that your credentials allow it."
        ) from e


def _inner(about: Mapping[str, Any], folder: str) -> str:
    """Path of a listed object relative to a folder; empty for the folder itself and its marks."""
    name = about["name"].lstrip("/")
    inner = name[len(folder) :] if name.startswith(f"{folder}/") else ""
    return "" if inner.endswith("/") and about["type"] == "file" else inner.strip("/")


def _entry(about: Mapping[str, Any], name: str) -> Listed:
    tag = next((str(about[key]) for key in _TAGS if about.get(key)), "")
    return Listed(name, about["type"] == "directory", int(about.get("size") or 0), tag)
