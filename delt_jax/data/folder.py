"""Image folders: a folder per class, with or without a test split; Tiny-ImageNet's layout too."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from delt_jax.data.classes import choose
from delt_jax.data.fit import FORMATS, is_grey
from delt_jax.data.names import Names
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint, split_mask
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store.identity import identity

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SIDES = (28, 32, 64, 128, 224)  # pixels: a size that is not set becomes the nearest of these
_ENDINGS = tuple(os.fsencode(ending) for ending in ENDINGS)
_TRAIN, _TESTS = "train", ("test", "val", "validation")
_ANNOTATIONS = "val_annotations.txt"
_SAMPLE = 200  # files whose headers are read to derive size and channels


@dataclass(frozen=True)
class Files:
    """Files below a folder.

    Attributes:
      root: the folder, as the file system has its name.
      names: paths below it.
    """

    root: bytes
    names: Names

    def read(self, indices: np.ndarray) -> list[bytes]:
        """Contents; empty where a file is gone, a broken link or not ours to read."""
        return [self._content(int(i)) for i in indices]

    def _content(self, i: int) -> bytes:
        try:
            with open(os.path.join(self.root, self.names.raw(i)), "rb") as f:
                return f.read()
        except OSError:
            return b""


class _File(NamedTuple):
    """A file: path below the root, class, and what changes when its content does."""

    name: bytes
    label: int
    size: int
    changed: int


class _Listing(NamedTuple):
    """All image files of a folder, none of them opened.

    Attributes:
      root: the folder.
      train_root: folder of the training classes, `root` itself or its train/.
      class_names: of the folders, in label order.
      train: files in the order of classes and names.
      test: likewise; empty where the training files are to be split.
    """

    root: Path
    train_root: Path
    class_names: tuple[str, ...]
    train: list[_File]
    test: list[_File]

    def identity(self) -> str:
        """Hash of classes and files; every file counts with path, class, bytes and last change."""

        def listed(files: Sequence[_File]) -> list[list[str | int]]:
            return [[os.fsdecode(f.name), f.label, f.size, f.changed] for f in files]

        return identity(
            {
                "classes": self.class_names,
                "train": listed(self.train),
                "test": listed(self.test),
            }
        )


def open_folder(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens the images below ``data.path``; reads no pixels unless files are to be checked.

    ROOT/train/CLASS/* with ROOT/test, val or validation beside it, ROOT/train/CLASS/* or
    ROOT/CLASS/* split by ``data.test_share``, or Tiny-ImageNet as it is published. Links are
    followed. Classes are in the order of their names, or of ``data.classes``.

    Raises:
      UserError: for anything that is not such a folder, naming the class or file.
    """
    listing = _list(recipe)
    size, channels, derived = _derive(recipe, listing.root, listing.train)
    names = recipe.class_names or listing.class_names
    if len(names) != len(listing.class_names):
        raise UserError(
            f"data.class_names has {len(names)} names, but {listing.train_root} has "
            f"{len(listing.class_names)} classes; leave it empty to take the folders' names."
        )
    everything = _examples(listing, recipe, size, channels)
    if listing.test:
        in_test = np.arange(len(everything)) >= len(listing.train)
    else:
        in_test = split_mask(everything.labels, recipe.test_share, recipe.split_seed)
    content = listing.identity()
    readable, left_out, found = leave_out(everything, recipe.unreadable, content, cache)
    train = _take(everything, np.flatnonzero(readable & ~in_test))
    test = _take(everything, np.flatnonzero(readable & in_test))
    _check_split("training", train, listing)
    _check_split("test", test, listing)
    return Source(
        name=listing.root.resolve().name,
        class_names=names,
        image_size=size,
        channels=channels,
        train=train,
        test=test,
        fingerprint=identity(
            {
                "source": "folder",
                "listing": content,
                "class_names": names,
                "image_size": size,
                "channels": channels,
                "fit": recipe.fit,
                "in_test": fingerprint(in_test),
                "readable": fingerprint(readable),
            }
        ),
        notes=(*derived, *left_out),
        found=found,
    )


def _list(recipe: DataRecipe) -> _Listing:
    """Finds classes, splits and files; opens none.

    Raises:
      UserError: if the folder is missing or a class has no folder or no files.
    """
    root = Path(recipe.path)
    if not recipe.path or not root.is_dir():
        raise UserError(
            f"data.path {recipe.path!r} is not a folder; set it to the folder that holds train/ "
            f"and val/, or one folder per class."
        )
    train_root = root / _TRAIN if (root / _TRAIN).is_dir() else root
    chosen = choose(_class_folders(train_root), recipe.classes, str(train_root))
    if len(chosen) < 2:
        raise UserError(
            f"{train_root} has {len(chosen)} class folders ({', '.join(chosen) or 'none'}); put "
            f"the images of each class into a folder of its own, two classes at least."
        )
    train = [f for c, name in enumerate(chosen) for f in _files(root, train_root / name, c)]
    _check_classes(train, chosen, str(train_root))
    test_root = _test_root(root, chosen) if train_root != root else None
    test = _test_files(root, test_root, chosen) if test_root else []
    return _Listing(root, train_root, chosen, train, test)


def _examples(listing: _Listing, recipe: DataRecipe, size: int, channels: int) -> EncodedExamples:
    """The training files, then the test files."""
    listed = [*listing.train, *listing.test]
    names = Names.of(f.name for f in listed)
    return EncodedExamples(
        encoded=Files(os.fsencode(listing.root), names),
        labels=np.array([f.label for f in listed], np.int32),
        names=names,
        where=f"{listing.root}/",
        image_size=size,
        channels=channels,
        fit=recipe.fit,
        workers=worker_count(recipe.workers),
    )


def _check_split(split: str, examples: EncodedExamples, listing: _Listing) -> None:
    """Raises a UserError if a class has no image in a split."""
    counts = np.bincount(examples.labels, minlength=len(listing.class_names))
    if not counts.all():
        raise UserError(
            f"{listing.root} leaves no {split} image of class "
            f"{listing.class_names[int(np.argmin(counts))]!r}; add images (two per class at least "
            f"where no test split is given)."
        )


def _take(examples: EncodedExamples, where: np.ndarray) -> EncodedExamples:
    """The examples at `where`, int [N]."""
    files = examples.encoded
    assert isinstance(files, Files)
    names = files.names.take(where)
    return replace(
        examples, encoded=Files(files.root, names), labels=examples.labels[where], names=names
    )


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones and macOS's."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as e:
            raise UserError(
                f"{folder} has a folder whose name is not UTF-8, "
                f"{os.fsencode(name).decode('utf-8', 'backslashreplace')}; rename it."
            ) from e
    return [name for name in names if name != "__MACOSX"]


def _files(root: Path, folder: Path, label: int) -> Iterator[_File]:
    """Image files right in a class folder, or in its images/, as Tiny-ImageNet has them."""
    inner = folder / "images"
    if inner.is_dir():
        folder = inner
    below = os.fsencode(folder.relative_to(root))
    with os.scandir(os.fsencode(folder)) as entries:
        listed = sorted(entries, key=lambda e: e.name)
    for entry in listed:
        if entry.name.startswith(b".") or not entry.name.lower().endswith(_ENDINGS):
            continue
        try:
            about = entry.stat()
            if not os.path.isdir(entry.path):
                yield _File(
                    os.path.join(below, entry.name), label, about.st_size, about.st_mtime_ns
                )
        except OSError:  # a broken link: listed, and unreadable like any damaged file
            yield _File(os.path.join(below, entry.name), label, 0, 0)


def _check_classes(files: Sequence[_File], chosen: Sequence[str], where: str) -> None:
    """Raises a UserError if a class has no file."""
    filled = {f.label for f in files}
    empty = [name for c, name in enumerate(chosen) if c not in filled]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise UserError(
            f"{where} has no images right in its class folder {', '.join(map(repr, empty[:3]))}"
            f"{more}; add {', '.join(ENDINGS)} files or remove the folder."
        )


def _test_root(root: Path, chosen: Sequence[str]) -> Path | None:
    """The test split beside train/; a folder without any class (Tiny-ImageNet's test/) is none."""
    for name in _TESTS:
        folder = root / name
        if (folder / _ANNOTATIONS).is_file() or any((folder / c).is_dir() for c in chosen):
            return folder
    return None


def _test_files(root: Path, folder: Path, chosen: Sequence[str]) -> list[_File]:
    """Files of the test split, from class folders or Tiny-ImageNet's table."""
    annotations = folder / _ANNOTATIONS
    if annotations.is_file() and not (folder / chosen[0]).is_dir():
        found = _annotated(root, folder, annotations, chosen)
    else:
        missing = [name for name in chosen if not (folder / name).is_dir()]
        if missing:
            raise UserError(
                f"{folder} lacks the class folder {missing[0]!r} ({len(missing)} in all), which "
                f"{root / _TRAIN} has; both splits need all classes."
            )
        found = [f for c, name in enumerate(chosen) for f in _files(root, folder / name, c)]
    _check_classes(found, chosen, str(folder))
    return found


def _annotated(root: Path, folder: Path, annotations: Path, chosen: Sequence[str]) -> list[_File]:
    """Tiny-ImageNet's val/images, whose classes stand in a table of file and wnid."""
    place = {name: i for i, name in enumerate(chosen)}
    rows = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
    wrong = next((i for i, row in enumerate(rows) if len(row) < 2), None)
    if wrong is not None:
        raise UserError(
            f"{annotations}, line {wrong + 1}, is not a file and a class parted by a tab; unpack "
            f"the data set again."
        )
    classes = {os.fsencode(row[0]): place.get(row[1].strip(), -1) for row in rows}
    found = []
    for file in _files(root, folder, 0):
        label = classes.get(os.path.basename(file.name), -1)
        if label >= 0:
            found.append(_File(file.name, label, file.size, file.changed))
    return found


def _derive(
    recipe: DataRecipe, root: Path, files: Sequence[_File]
) -> tuple[int, int, tuple[str, ...]]:
    """Size and channels as set, or from the headers of some files; and what was derived."""
    if recipe.image_size and recipe.channels:
        return recipe.image_size, recipe.channels, ()
    sides, grey = [], []
    for i in sorted(set(np.linspace(0, len(files) - 1, _SAMPLE).astype(int).tolist())):
        try:
            path = os.path.join(os.fsencode(root), files[i].name)
            with open(path, "rb") as f, Image.open(f, formats=FORMATS) as image:
                sides.append(min(image.size))
                grey.append(is_grey(image.mode))
        except Exception:  # unreadable files are named when they are decoded
            continue
    if not sides:
        raise UserError(f"None of {_SAMPLE} files looked at in {root} is a readable image.")
    median = float(np.median(sides))
    size = recipe.image_size or min(SIDES, key=lambda s: abs(np.log(s / median)))
    channels = recipe.channels or (1 if all(grey) else 3)
    derived = {"data.image_size": size, "data.channels": channels}
    given = {"data.image_size": recipe.image_size, "data.channels": recipe.channels}
    named = " and ".join(f"{k} {v}" for k, v in derived.items() if not given[k])
    seen = f"of {len(sides)} images the median shorter side is {median:g} px, {sum(grey)} are grey"
    note = f"{named}: {seen}"
    return size, channels, (note,)
