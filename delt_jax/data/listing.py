"""What lies in a folder: class folders, pictures however deep, and all that is no picture."""

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from delt_jax.data.names import printable
from delt_jax.errors import UserError
from delt_jax.store import remote
from delt_jax.store.files import content_hash
from delt_jax.store.pictures import ENDINGS

# Folders that systems and programs make by themselves; hidden ones are left out as well.
_SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_HIDDEN = {os.fsencode(name) for name in _SYSTEM}
_ENDINGS = tuple(os.fsencode(ending) for ending in ENDINGS)
_KINDS_NAMED = 6
_MOST_COUNTED = 100_000

_T = TypeVar("_T")


class ImageFile(NamedTuple):
    """An image file: path below the root, class, and what changes when its content does."""

    name: bytes
    label: int
    size: int
    changed: int


@dataclass
class Found:
    """Files below a folder.

    Attributes:
      files: pictures, in the order of their paths.
      others: number of files of each ending that are no pictures.
      nested: pictures that lie in a subfolder, other than one named images.
      repeated: links to folders that are read already, above this one, or other classes.
    """

    files: list[ImageFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    nested: list[ImageFile] = field(default_factory=list)
    repeated: int = 0


class Inside(NamedTuple):
    """What lies right in a folder, without hidden entries.

    Attributes:
      folders: names, sorted.
      pictures: number of files with a picture's ending.
      files: names of all files, sorted.
    """

    folders: list[str]
    pictures: int
    files: list[str]


class _RemoteEntry:
    """What an object store lists, like an `os.DirEntry`; there are no links."""

    def __init__(self, folder: bytes, listed: remote.Listed):
        self.name, self.listed = os.fsencode(listed.name), listed
        self.path = os.path.join(folder, self.name)

    def is_dir(self) -> bool:
        return self.listed.is_folder

    def is_symlink(self) -> bool:
        return False

    def changed(self) -> int:
        """A number in place of the time of the last change."""
        return int(content_hash(self.listed.tag.encode())[:15], 16)


_Entry = os.DirEntry[bytes] | _RemoteEntry
_Identity = tuple[int, int] | str


def folder_at(path: str, what: str) -> Path:
    """The folder that ``data.path`` names.

    Args:
      path: the setting.
      what: which folder it should be, for the sentence.

    Raises:
      UserError: if there is none, it cannot be read, or its name is not UTF-8.
    """
    if remote.is_remote(path):
        if not remote.is_folder(path):
            raise UserError(f"There is no folder {path}; set data.path to {what}.")
        return remote.path_of(path)
    try:
        path.encode()
        is_folder = bool(path) and os.path.isdir(path)
        if is_folder:
            os.scandir(path).close()
        else:
            os.stat(path)
        why = ""
    except UnicodeEncodeError:
        is_folder, why = False, " whose name is UTF-8"
    except (FileNotFoundError, NotADirectoryError, ValueError):
        is_folder, why = False, ""
    except OSError as e:
        is_folder, why = False, f" that can be read ({e.strerror})"
    if not is_folder:
        raise UserError(f"data.path {path!r} is not a folder{why}; set it to {what}.")
    return Path(path)


def pictures_below(root: Path, folder: Path, label: int) -> Found:
    """Lists the image files of a class, in the class folder or any folder below it; opens none.

    Links are followed, but to each folder only once, so that a circle of links ends, and not to
    other classes.

    Raises:
      UserError: if a folder cannot be read.
    """
    found, visited = Found(), set[_Identity]()
    below = deque([(os.fsencode(folder), os.fsencode(folder.relative_to(root)), False)])
    while below:
        at, name, is_nested = below.popleft()
        about, entries = _scan(at)
        if about in visited:
            found.repeated += 1
            continue
        visited.add(about)
        for entry in entries:
            inner = os.path.join(name, entry.name)
            if _is_folder(entry):
                if entry.is_symlink() and _leads_out(entry.path, folder):
                    found.repeated += 1
                    continue
                below.append((entry.path, inner, is_nested or entry.name != b"images"))
            elif entry.name.lower().endswith(_ENDINGS):
                found.files.append(_image_file(entry, inner, label))
                found.nested += found.files[-1:] if is_nested else []
            else:
                found.others[os.fsdecode(_ending(entry.name))] += 1
    for files in (found.files, found.nested):
        files.sort(key=lambda file: file.name)
    return found


def together(parts: Iterable[Found]) -> Found:
    """The files of several folders, one after the other."""
    whole = Found()
    for part in parts:
        whole.files += part.files
        whole.others.update(part.others)
        whole.nested += part.nested
        whole.repeated += part.repeated
    return whole


def look(folder: Path) -> Inside:
    """Looks right into a folder, not below it.

    Raises:
      UserError: if it cannot be read.
    """
    entries = _scan(os.fsencode(folder))[1]
    folders = [os.fsdecode(e.name) for e in entries if _is_folder(e)]
    files = [os.fsdecode(e.name) for e in entries if not _is_folder(e)]
    pictures = sum(is_picture(name) for name in files)
    return Inside(folders, pictures, files)


def folders_among(names: Sequence[str], folder: Path) -> list[str]:
    """Those of some names that are folders in a folder."""
    if remote.is_remote(folder):
        return [name for name in names if name in look(folder).folders]
    return [name for name in names if os.path.isdir(folder / name)]


def several(call: Callable[[Any], _T], values: Iterable[Any], root: Path) -> list[_T]:
    """Results of a function that looks into a folder; side by side where that lies elsewhere."""
    if remote.is_remote(root):
        return remote.side_by_side(call, list(values))
    return [call(value) for value in values]


def count_files(folder: Path) -> str:
    """Number of files below a folder, for a sentence; follows no links."""
    count = 0
    if remote.is_remote(folder):  # that would take a request for each thousand
        return "not counted"
    for _, _, files in os.walk(folder):
        count += len(files)
        if count > _MOST_COUNTED:
            return f"more than {_MOST_COUNTED} files"
    return "1 file" if count == 1 else f"{count} files"


def by_ending(others: Counter[str]) -> str:
    """Counts of files for a sentence, such as "10 .txt, 2 .csv"."""
    named = [
        f"{count} {printable(kind) or 'without ending'}"
        for kind, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))
    ]
    more = len(named) - _KINDS_NAMED
    return ", ".join(named[:_KINDS_NAMED]) + (f" and {more} more kinds" if more > 0 else "")


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, for a sentence."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more


def is_picture(name: str | bytes) -> bool:
    """Whether a file is named like a picture that can be read."""
    return os.fsencode(name).lower().endswith(_ENDINGS)


def _ending(name: bytes) -> bytes:
    """Ending of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def _is_folder(entry: _Entry) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _leads_out(link: bytes, folder: Path) -> bool:
    """Whether a link below a class folder leads to one that holds it, or to another class."""
    target = os.path.join(os.path.realpath(link), b"")
    own = os.path.join(os.path.realpath(os.fsencode(folder)), b"")
    around = os.path.join(os.path.realpath(os.fsencode(folder.parent)), b"")
    if target != own and (own.startswith(target) or around.startswith(target)):
        return True
    beside = target.removeprefix(around)
    return target != beside and not target.startswith(own) and not beside.startswith(b".")


def _scan(folder: bytes) -> tuple[_Identity, Sequence[_Entry]]:
    """What tells a folder from all others, and its entries by name."""
    try:
        about, entries = _entries(folder)
        shown = [e for e in entries if not e.name.startswith(b".") and e.name not in _HIDDEN]
    except OSError as e:
        raise UserError(
            f"{printable(folder)} cannot be read ({e.strerror}); make it readable, or move it out "
            f"of the data."
        ) from e
    return about, sorted(shown, key=lambda entry: entry.name)


def _entries(folder: bytes) -> tuple[_Identity, Sequence[_Entry]]:
    text = os.fsdecode(folder)
    if remote.is_remote(text):
        return text, [_RemoteEntry(folder, entry) for entry in remote.entries(text)]
    about = os.stat(folder)
    with os.scandir(folder) as entries:
        return (about.st_dev, about.st_ino), list(entries)


def _image_file(entry: _Entry, name: bytes, label: int) -> ImageFile:
    if isinstance(entry, _RemoteEntry):
        return ImageFile(name, label, entry.listed.size, entry.changed())
    try:
        about = entry.stat()
    except OSError:  # a broken link: listed, and unreadable like any damaged file
        return ImageFile(name, label, 0, 0)
    if not stat.S_ISREG(about.st_mode):  # likewise, and its times change with every use
        return ImageFile(name, label, 0, 0)
    return ImageFile(name, label, about.st_size, about.st_mtime_ns)
