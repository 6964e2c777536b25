"""One folder of pictures per class: numbered folders, and the layout of SRe2L, CDA and DELT.

`read` takes both, and also RDED's `00000/class00000_id00000.jpg` and any folder of named class
folders. Folders in order give the labels, as in torchvision's `ImageFolder`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from delt_jax.errors import UserError
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.npz import read_arrays
from delt_jax.formats.stored import SIDECAR, Stored, read_sidecar, write_sidecar
from delt_jax.store import files, pictures, regular

_SOFT_LABELS = "soft_labels.npz"
_NUMBERED = re.compile(r"(?:new)?([0-9]+)")
_UNFIT = re.compile(r"[^\w +().-]|^[.-]")  # of a folder's name
_LONGEST = 60  # letters of one; each takes up to four bytes


def detect(path: Path) -> bool:
    """Whether a folder in this one holds pictures."""
    return path.is_dir() and any(_pictures(folder) for folder in _folders(path))


def detect_new000(path: Path) -> bool:
    """Whether these are class folders named new000, new001, ... as SRe2L's."""
    return detect(path) and all(folder.name.startswith("new") for folder in _folders(path))


def detect_named(path: Path) -> bool:
    """Whether these are class folders that `write_named` made."""
    is_ours = (path / SIDECAR).is_file() and detect(path)
    return is_ours and not any(_NUMBERED.fullmatch(folder.name) for folder in _folders(path))


def read(path: Path) -> Stored:
    """Reads a folder of class folders.

    Raises:
      UserError: if a class is empty or there twice, or a picture is damaged or of another size.
    """
    folders = _folders(path)
    class_names, manifest = read_sidecar(path)
    unnamed = ""
    if all(_NUMBERED.fullmatch(folder.name) for folder in folders):
        folders.sort(key=_number)
        numbers = [_number(folder) for folder in folders]
        if numbers == list(range(1, len(numbers) + 1)) and not class_names:
            class_names = tuple(folder.name for folder in folders)
        elif numbers != list(range(len(numbers))):
            unnamed = _gap(folders, numbers)
        if len(set(numbers)) < len(numbers) or (unnamed and class_names):
            raise UserError(_gap(folders, numbers))
    elif not class_names:
        class_names = tuple(folder.name for folder in folders)
    paths, labels = [], []
    for label, folder in enumerate(folders):
        members = _pictures(folder)
        if not members:
            raise UserError(f"{folder} has no pictures; every class needs some.")
        paths += members
        labels += [label] * len(members)
    found = [_decoded(p) for p in paths]
    return Stored(
        pictures.stack([picture.pixels for picture in found], [str(p) for p in paths]),
        np.array(labels),
        class_names,
        manifest,
        _read_soft_labels(path),
        unnamed,
        notes=pictures.transparency_notes(*pictures.see_through(p.alpha for p in found)),
    )


def _gap(folders: list[Path], numbers: list[int]) -> str:
    """A sentence on numbered folders, sorted, that do not count from 0."""
    place = next(i for i, number in enumerate(numbers) if number != i)
    return (
        f"{folders[place]} is folder {place} in order; numbered class folders "
        f"count from 0 without a gap, so a class is missing or there twice. If they are classes "
        f"of a larger set, give class names, one for each folder in the order of the numbers."
    )


def write_numbered(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes `CCCCC/RRRRR.png` (class / rank) into an empty folder."""
    _write(folder, content, quality, lambda c, r: f"{c:05}/{r:05}")


def write_named(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes `NAME/RRRRR.png` (class / rank) into an empty folder; see `folder_names`."""
    names = folder_names(content.class_names)
    _write(folder, content, quality, lambda c, r: f"{names[c]}/{r:05}")


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Names of folders for classes, in an order that is the labels'.

    What a folder cannot have becomes "_". Where the names' own order is not the labels', or two
    differ in nothing but their case, or they look like those of other layouts, or one is that of a
    file beside the folders, numbers come before.
    """
    plain = [_UNFIT.sub("_", name)[:_LONGEST].strip(" .") or "_" for name in class_names]
    is_plain = sorted(plain) == plain and len({name.lower() for name in plain}) == len(plain)
    is_free = not {SIDECAR, _SOFT_LABELS} & {name.lower() for name in plain}
    is_named = not all(name.startswith("new") for name in plain)  # as SRe2L's are
    if is_plain and is_free and is_named and not any(_NUMBERED.fullmatch(name) for name in plain):
        return plain
    digits = len(str(len(plain) - 1))
    return [f"{number:0{digits}}_{name}" for number, name in enumerate(plain)]


def write_new000(folder: Path, content: DistilledSet, quality: int = 0) -> None:
    """Writes `new000/class000_id000.jpg` into an empty folder; five digits beyond 1000."""
    digits = 3 if max(len(content.class_names), content.ipc) <= 1000 else 5

    def name(c: int, r: int) -> str:
        return f"new{c:0{digits}}/class{c:0{digits}}_id{r:0{digits}}"

    _write(folder, content, quality, name)


def _write(
    folder: Path, content: DistilledSet, quality: int, name: Callable[[int, int], str]
) -> None:
    for i, image in enumerate(content.images):
        stem = name(i // content.ipc, i % content.ipc)
        path = folder / f"{stem}{'.jpg' if quality else '.png'}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures.encode(image, quality))
    if content.soft_labels is not None:
        files.write_npz(folder / _SOFT_LABELS, logits=content.soft_labels)
    write_sidecar(folder, content)


def _decoded(path: Path) -> pictures.Decoded:
    try:
        return pictures.decode(regular.read_bytes(path, pictures.MOST_BYTES), str(path))
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}.") from e


def _read_soft_labels(path: Path) -> np.ndarray | None:
    if not (path / _SOFT_LABELS).exists():
        return None
    arrays = read_arrays(path / _SOFT_LABELS, ("logits",))
    if "logits" not in arrays:
        raise UserError(f"{path / _SOFT_LABELS} has no array logits; export again.")
    return arrays["logits"]


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    """Pictures of a class by the numbers in their names, so that id10 comes after id9."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in pictures.ENDINGS)
    return sorted((p for p in found if not p.name.startswith(".")), key=_natural)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("new"))


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", path.name)  # text and numbers alternate, text first
    return [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(parts)], path.name
