"""Data sets as webdataset has them: tar files, in which members of one name make a sample."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from delt_jax.core.progress import progress
from delt_jax.data import tar_files
from delt_jax.data.classes import text_of
from delt_jax.data.names import Names, printable
from delt_jax.data.sharded import Sharded, content_of, numbered, open_sharded, splits_of
from delt_jax.data.source import Source
from delt_jax.data.tar_files import TarSample
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store.foreign import ForeignFileError, parse_json, shown
from delt_jax.store.identity import identity
from delt_jax.store.local_copies import local
from delt_jax.store.pictures import MOST_BYTES, UnreadableError
from delt_jax.store.remote import Listed

_WILD = re.compile(r"[*?{\[]")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_NAMES = ("classes.txt", "classnames.txt", "classes.json")  # beside the shards
_FIELDS = ("label", "cls", "class")  # of a sample's .json
_HIGHEST = 2**31 - 1


class _Picture(NamedTuple):
    """Where a picture lies: the number of its shard, its first byte there, its bytes."""

    shard: int
    offset: int
    size: int


@dataclass(frozen=True)
class Members:
    """Pictures inside of tar files; `delt_jax.data.sharded.Shards`.

    Attributes:
      paths: of the tar files.
      places: int64 [N, 3], the `_Picture` of each.
    """

    paths: tuple[str, ...]
    places: np.ndarray

    def taken(self, places: np.ndarray) -> "Members":
        """Some of them, int [n]."""
        return replace(self, places=self.places[places])

    def read(self, indices: np.ndarray) -> list[bytes | UnreadableError]:
        """Contents of the pictures; every tar file is opened once."""
        wanted = self.places[indices]
        found: list[bytes | UnreadableError] = [b""] * len(wanted)
        for shard in np.unique(wanted[:, 0]):
            with open(self.paths[shard], "rb") as file:
                for i in np.flatnonzero(wanted[:, 0] == shard):
                    _, offset, size = wanted[i].tolist()
                    file.seek(offset)
                    content = file.read(min(size, MOST_BYTES + 1))
                    found[i] = content if len(content) == size else _cut(size)
        return found


def _cut(size: int) -> UnreadableError:
    return UnreadableError(
        f"more than {MOST_BYTES:,} bytes" if size > MOST_BYTES else "the tar file was cut short"
    )


def open_webdataset(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens the tar files that ``data.path`` names: one, a folder of them, or a pattern.

    A file belongs to the split that its name or folder begins with; others to the training split.
    Without a test split, ``data.test_share`` of each class is drawn. The class of a sample is its
    member ``.cls``, the field of its ``.json`` that ``data.dataset`` names, or the folder in its
    name. Files are neither unpacked, nor are links in them followed.

    Raises:
      UserError: if there are none, one is damaged, or a sample lacks its picture or its class.
    """
    root, splits = _shards_of(recipe.path)
    paths = tuple(str(path) for found in splits.values() for path in found)
    samples: dict[str, list[TarSample]] = {split: [] for split in splits}
    pictures = []
    with progress(len(paths), "list", "tar file") as bar:
        for number, path in enumerate(paths):
            split = "train" if number < len(splits["train"]) else "test"
            for sample in tar_files.samples(Path(path)):
                samples[split].append(sample)
                pictures.append(_Picture(number, sample.offset, sample.size))
            bar.update(1)
    classes = {split: _classes(found, recipe.dataset) for split, found in samples.items()}
    names = recipe.class_names or _names_beside(root)
    labels, names = _labelled(classes, names, root)
    if "test" in labels and (labels["test"] < 0).all():  # hidden, as those of contests are
        del labels["test"]
    kept = sum(map(len, labels.values()))
    found = Sharded(
        kind="webdataset",
        name=re.sub(_WILD, "", root.stem) or root.stem,
        root=root,
        shards=Members(paths, np.array(pictures[:kept], np.int64).reshape(-1, 3)),
        names=Names.of(
            f"{Path(sample.shard).name}/".encode() + sample.name
            for split in labels
            for sample in samples[split]
        ),
        labels=labels,
        class_names=names,
        content=identity([content_of(path) for split in labels for path in splits[split]]),
    )
    return open_sharded(recipe, cache, found)


def _shards_of(path: str) -> tuple[Path, dict[str, list[Path]]]:
    """Where the tar files lie, and those of each split.

    Raises:
      UserError: if there are none.
    """
    if not path:
        raise UserError("data.path is empty; name a tar file, a folder of them, or a pattern.")
    base, wanted = path, None
    if _WILD.search(path) and not Path(path).exists():
        base, pattern = _parted(path)
        wanted = _as_expression(pattern)
    root = local(base, lambda found: _tars(found, wanted))
    splits = splits_of(root, ".tar", wanted)
    if not splits or (root.is_file() and root.suffix != ".tar"):
        raise UserError(
            f"data.path {path} names no .tar files; name one, a folder of them, or a pattern such "
            f"as train-{{000..099}}.tar. Unpack what is compressed."
        )
    return root, splits


def _parted(path: str) -> tuple[str, str]:
    """A pattern's folder, which has no wild letters, and the rest."""
    place = _WILD.search(path)
    assert place is not None
    folder, _, _ = path[: place.start()].rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), path[len(folder) :].lstrip("/")


def _as_expression(pattern: str) -> re.Pattern:
    """A pattern with *, ?, [abc], {a,b} and {000..099} as a regular expression."""
    parts = re.split(r"(\{[^{}]*\}|\[[^\]]*\]|\*\*/|\*|\?)", pattern)
    return re.compile("".join(_as_part(part) for part in parts))


def _as_part(part: str) -> str:
    plain = {"*": "[^/]*", "?": "[^/]", "**/": "(?:.*/)?"}
    if part in plain:
        return plain[part]
    if part.startswith("[") and part.endswith("]"):
        return f"[{'^' if part[1:2] == '!' else ''}{re.escape(part[1:-1].removeprefix('!'))}]"
    if not (part.startswith("{") and part.endswith("}")):
        return re.escape(part)
    numbers = _RANGE.fullmatch(part[1:-1])
    if not numbers:
        return f"(?:{'|'.join(map(re.escape, part[1:-1].split(',')))})"
    low, high = numbers.groups()
    if int(high) - int(low) >= 10**6:
        raise UserError(f"data.path has the range {part}; write * in its place.")
    return f"(?:{'|'.join(f'{n:0{len(low)}}' for n in range(int(low), int(high) + 1))})"


def _tars(found: Mapping[str, Listed], wanted: re.Pattern | None) -> Mapping[str, Listed]:
    """Those of a folder's files in an object store that are copied here."""

    def is_wanted(name: str) -> bool:
        is_tar = name.endswith(".tar") and (wanted is None or bool(wanted.fullmatch(name)))
        return is_tar or name in _NAMES

    return {name: entry for name, entry in found.items() if is_wanted(name)}


def _classes(samples: list[TarSample], field: str) -> list[int | str]:
    """The class of every sample, a number or a name.

    All take it from where the first sample has it.
    """
    if not samples:
        return []
    first = samples[0]
    way = _of_field if field or (first.cls is None and first.json is not None) else _of_cls
    if not field and first.cls is None and first.json is None:
        way = _of_folder
    return [way(sample, field) for sample in samples]


def _of_cls(sample: TarSample, field: str) -> int:
    text = "" if sample.cls is None else sample.cls.decode("utf-8", "replace").strip()
    if not re.fullmatch(r"-?[0-9]+", text):
        has = "has no .cls" if sample.cls is None else f"has {shown(text, 60)!r} as .cls"
        raise UserError(f"{sample.where} {has}, where a class belongs, a whole number.")
    return int(text)


def _of_field(sample: TarSample, field: str) -> int | str:
    try:
        content = {} if sample.json is None else parse_json(sample.json)
    except ForeignFileError as e:
        raise UserError(f"{sample.where} has a .json that cannot be read ({e}).") from e
    about: dict[str, Any] = content if isinstance(content, dict) else {}
    tried = (field,) if field else _FIELDS
    value = next((about[name] for name in tried if name in about), None)
    if isinstance(value, bool) or not isinstance(value, int | str):
        listed = shown(", ".join(map(str, about)), 200) or "nothing"
        raise UserError(
            f"{sample.where} has no class: its .json has {listed}, but no number or name called "
            f"{' or '.join(tried)}; name the field with data.dataset."
        )
    return value


def _of_folder(sample: TarSample, field: str) -> str:
    folder, _, _ = sample.name.rpartition(b"/")
    if not folder:
        raise UserError(
            f"{sample.where} has no class: neither .cls nor .json, and it lies in no folder."
        )
    return printable(folder.rpartition(b"/")[2])


def _names_beside(root: Path) -> tuple[str, ...]:
    """Names of the classes in a file beside the shards, in label order; () if there is none."""
    folder = root.parent if root.is_file() else root
    path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if path is None:
        return ()
    text = text_of(path)
    if path.suffix == ".txt":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        content = parse_json(text)
    except ForeignFileError as e:
        raise UserError(f"{path} cannot be read ({e}).") from e
    if isinstance(content, dict):  # by number, or numbers by name
        by_number = {str(v): k for k, v in content.items() if isinstance(v, int)} or content
        content = [by_number.get(str(number)) for number in range(len(by_number))]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} is no list of names, and no names by number; write one of these.")
    return tuple(content)


def _labelled(
    classes: Mapping[str, list[int | str]], names: tuple[str, ...], root: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Labels int64 [n] by split, and names of the classes; without any, of folders or numbers."""
    kinds = {type(value) for found in classes.values() for value in found}
    if len(kinds) != 1:
        which = "both numbers and names as classes" if kinds else "no sample"
        raise UserError(f"The tar files of {root} have {which}; a data set has one kind.")
    if kinds == {str}:
        names = names or tuple(sorted({str(v) for found in classes.values() for v in found}))
        numbers = {name: number for number, name in enumerate(names)}
        unknown = next((v for found in classes.values() for v in found if v not in numbers), None)
        if unknown is not None:
            raise UserError(
                f"{root} has samples of the class {shown(str(unknown), 60)!r}, which is none of "
                f"its {len(names)} class names; name all classes."
            )
        return {
            split: np.array([numbers[str(value)] for value in found], np.int64)
            for split, found in classes.items()
        }, names
    every = [int(value) for found in classes.values() for value in found]
    if min(every) < -1 or max(every) > _HIGHEST:
        raise UserError(
            f"{root} has classes from {min(every)} to {max(every)}; they count from 0, and -1 is "
            f"for those that are hidden."
        )
    labels = {split: np.array(found, np.int64) for split, found in classes.items()}
    return labels, names or numbered(labels, str(root))
