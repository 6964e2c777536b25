"""Image folders: a folder per class, with or without a test split; Tiny-ImageNet's layout too."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from delt_jax.data import headers
from delt_jax.data.classes import check_count, choose, order_note, text_of, wanted_classes
from delt_jax.data.listing import (
    Found,
    ImageFile,
    by_ending,
    count_files,
    folder_at,
    is_picture,
    look,
    pictures_below,
    several,
    some,
    together,
)
from delt_jax.data.names import Names, printable
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint, split_mask
from delt_jax.data.splits import ANNOTATIONS, Layout, class_folders, find_splits, find_train
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import pictures, regular, remote
from delt_jax.store.identity import identity
from delt_jax.store.pictures import UnreadableError

SIDES = (28, 32, 64, 128, 224)  # pixels: a size that is not set becomes the nearest of these
_SAMPLE = 200  # files whose headers are read to derive size and channels
_OPAQUE = (".jpg", ".jpeg", ".jpe", ".jfif")  # formats without transparency


@dataclass(frozen=True)
class Files:
    """Files below a folder.

    Attributes:
      root: the folder, as the file system has its name.
      names: paths below it.
    """

    root: bytes
    names: Names

    def read(self, indices: np.ndarray) -> list[bytes | UnreadableError]:
        """Contents; for what is gone, a broken link, no regular file or not ours to read, why."""
        paths = [os.path.join(self.root, self.names.raw(int(i))) for i in indices]
        if remote.is_remote(os.fsdecode(self.root)):
            found = remote.read_all([os.fsdecode(path) for path in paths], pictures.MOST_BYTES)
        else:
            found = [_content(path) for path in paths]
        return [_unreadable(one) if isinstance(one, OSError) else one for one in found]


def _content(path: bytes) -> bytes | OSError:
    try:
        return regular.read_bytes(path, pictures.MOST_BYTES)
    except OSError as e:
        return e


def _unreadable(error: OSError) -> UnreadableError:
    return UnreadableError(error.strerror or repr(error))


class _Listing(NamedTuple):
    """All image files of a folder, none of them opened.

    Attributes:
      layout: folders of the splits.
      class_names: of the folders, in label order.
      train: files in the order of classes and names.
      test: likewise; empty where the training files are to be split.
      notes: sentences on what is not used, and on what the user may not expect.
    """

    layout: Layout
    class_names: tuple[str, ...]
    train: list[ImageFile]
    test: list[ImageFile]
    notes: tuple[str, ...]

    def identity(self, with_times: bool = True) -> str:
        """Hash of classes and files; every file counts with path, class, bytes and last change.

        Args:
          with_times: whether the last change counts, which copies of the files have differently.
        """

        def listed(files: Sequence[ImageFile]) -> list[list[str | int]]:
            times = [[f.changed] if with_times else [] for f in files]
            named = zip(files, times, strict=True)
            return [[os.fsdecode(f.name), f.label, f.size, *changed] for f, changed in named]

        return identity(
            {
                "classes": self.class_names,
                "train": listed(self.train),
                "test": listed(self.test),
            }
        )


def open_folder(recipe: DataRecipe, cache: Path | None) -> Source:
    """Opens the images below ``data.path``; reads no pixels unless files are to be checked.

    ROOT/train/CLASS/** with ROOT/test, val or the like beside it, ROOT/train/CLASS/** or
    ROOT/CLASS/** split by ``data.test_share``, or Tiny-ImageNet as it is published. Links are
    followed. Classes are in the order of their names, or of ``data.classes``.

    Raises:
      UserError: for anything that is not such a folder, naming the class or file.
    """
    listing = _list(recipe)
    remote.forget()  # of a million files, hundreds of megabytes
    root = listing.layout.root
    everything = _examples(listing, recipe)
    size, channels, derived = _derive(recipe, everything, len(listing.train))
    everything = replace(everything, image_size=size, channels=channels)
    names = recipe.class_names or listing.class_names
    check_count(names, len(listing.class_names), str(listing.layout.train))
    content = listing.identity()
    readable, left_out, found = leave_out(everything, recipe.unreadable, content, cache)
    if listing.test:
        in_test = np.arange(len(everything)) >= len(listing.train)
    else:
        in_test = split_mask(everything.labels, recipe.test_share, recipe.split_seed, readable)
    train, test = (
        _split(everything, readable & mask, what, listing)
        for mask, what in ((~in_test, "training"), (in_test, "test"))
    )
    of_all = {
        "source": "folder",
        "class_names": names,
        "image_size": size,
        "channels": channels,
        "fit": recipe.fit,
        "in_test": fingerprint(in_test),
        "readable": fingerprint(readable),
    }
    return Source(
        name=printable(root.resolve().name),
        class_names=names,
        image_size=size,
        channels=channels,
        train=train,
        test=test,
        fingerprint=identity(of_all | {"listing": content}),
        notes=(*derived, *listing.notes, *left_out),
        found=found,
        content=identity(of_all | {"listing": listing.identity(with_times=False)}),
    )


def _list(recipe: DataRecipe) -> _Listing:
    """Finds classes, splits and files; opens none.

    Raises:
      UserError: if the folder is missing or a class has no folder or no files.
    """
    what = "the folder that holds train/ and val/, or one folder per class"
    root, wanted = folder_at(recipe.path, what), wanted_classes(recipe.classes)
    train_root = find_train(root, wanted)
    folders = class_folders(root, train_root, wanted)
    chosen = choose(folders, recipe.classes, str(train_root))
    if len(chosen) < 2:
        raise UserError(
            f"{train_root} has {len(chosen)} class folders ({', '.join(chosen) or 'none'}); put "
            f"the images of each class into a folder of its own, two classes at least."
        )
    layout = find_splits(root, train_root, chosen, wanted)
    train = class_files(root, train_root, chosen)
    notes = [*layout.notes, *_unused(train_root, folders, chosen), *_notes(train_root, train)]
    test = Found()
    if layout.test:
        test, more = _test_files(layout.test, layout, folders, chosen)
        notes += [*more, *_notes(layout.test, test)]
    if not recipe.classes:
        notes += order_note(chosen, recipe.class_names, str(train_root))
    return _Listing(layout, chosen, train.files, test.files, tuple(notes))


def _examples(listing: _Listing, recipe: DataRecipe) -> EncodedExamples:
    """The training files, then the test files; their size is not known yet."""
    listed = [*listing.train, *listing.test]
    names = Names.of(f.name for f in listed)
    return EncodedExamples(
        encoded=Files(os.fsencode(listing.layout.root), names),
        labels=np.array([f.label for f in listed], np.int32),
        names=names,
        where=f"{listing.layout.root}/",
        image_size=0,
        channels=0,
        fit=recipe.fit,
        workers=worker_count(recipe.workers),
        most_pixels=recipe.max_pixels,
    )


def _split(
    examples: EncodedExamples, chosen: np.ndarray, name: str, listing: _Listing
) -> EncodedExamples:
    """A split: the examples where the mask, bool [N], is true.

    Raises:
      UserError: if a class has none.
    """
    where, files = np.flatnonzero(chosen), examples.encoded
    assert isinstance(files, Files)
    counts = np.bincount(examples.labels[where], minlength=len(listing.class_names))
    if not counts.all():
        empty = int(np.argmin(counts))
        count = int((examples.labels == empty).sum())
        raise UserError(
            f"{listing.layout.root} leaves no {name} image of class "
            f"{listing.class_names[empty]!r} ({count} file{'s' * (count != 1)}); add images that "
            f"can be read (two per class at least where no test split is given)."
        )
    names = files.names.take(where)
    return replace(
        examples, encoded=Files(files.root, names), labels=examples.labels[where], names=names
    )


def class_files(root: Path, folder: Path, chosen: Sequence[str]) -> Found:
    """All files of the classes.

    Args:
      root: the folder that paths are relative to.
      folder: holds a folder for each class.
      chosen: names of these folders, in label order.

    Raises:
      UserError: if a class has no picture.
    """
    labelled = list(enumerate(chosen))
    parts = several(lambda one: pictures_below(root, folder / one[1], one[0]), labelled, root)
    empty = [name for name, part in zip(chosen, parts, strict=True) if not part.files]
    if empty:
        others = together(part for part in parts if not part.files).others
        holds = f" (but {by_ending(others)})" if others else ""
        which, them = ("folders", "them") if len(empty) > 1 else ("folder", "it")
        raise UserError(
            f"{folder} has no images in its class {which} "
            f"{', '.join(map(repr, empty[:3]))}"
            f"{f' and {len(empty) - 3} more' if len(empty) > 3 else ''}{holds}; add .png, .jpg or "
            f"other pictures that Pillow reads, or remove {them}."
        )
    return together(parts)


def _test_files(
    folder: Path, layout: Layout, folders: Sequence[str], chosen: Sequence[str]
) -> tuple[Found, list[str]]:
    """Files of the test split, from class folders or Tiny-ImageNet's table, and notes."""
    inside = look(folder)
    if ANNOTATIONS in inside.files and chosen[0] not in inside.folders:
        return _annotated(layout.root, folder, folders, chosen)
    missing = [name for name in chosen if name not in inside.folders]
    if missing:
        raise UserError(
            f"{folder} lacks the class folder {missing[0]!r} ({len(missing)} in all), which "
            f"{layout.train} has; both splits need all classes."
        )
    notes = _unused(folder, [], [])
    more = [name for name in inside.folders if name not in folders]
    if more and layout.train != layout.root:
        counted = [f"{name}/ ({count_files(folder / name)})" for name in more]
        notes.append(
            f"{folder} has folders that are no classes of {layout.train} and not used: "
            f"{some(counted)}"
        )
    return class_files(layout.root, folder, chosen), notes


def _annotated(
    root: Path, folder: Path, folders: Sequence[str], chosen: Sequence[str]
) -> tuple[Found, list[str]]:
    """Tiny-ImageNet's val/images, whose classes stand in a table of file and wnid; and notes."""
    annotations = folder / ANNOTATIONS
    rows = [line.split("\t") for line in text_of(annotations).splitlines() if line.strip()]
    wrong = next((i for i, row in enumerate(rows) if len(row) < 2), None)
    if wrong is not None:
        raise UserError(
            f"{annotations}, line {wrong + 1}, is not a file and a class parted by a tab; unpack "
            f"the data set again."
        )
    classes = {os.fsencode(row[0]): row[1].strip() for row in rows}
    place = {name: i for i, name in enumerate(chosen)}
    found = pictures_below(root, folder, 0)
    listed = [(file, classes.get(os.path.basename(file.name))) for file in found.files]
    counts = {
        "pictures are not in it": sum(name is None for _, name in listed),
        "of its files are missing": len(classes) - sum(name is not None for _, name in listed),
        "of its files have a class without a folder": sum(
            name is not None and name not in folders for _, name in listed
        ),
    }
    notes = [f"{annotations}: {count} {what}" for what, count in counts.items() if count > 0]
    files = [f._replace(label=place[name]) for f, name in listed if name in place]
    filled = {file.label for file in files}
    empty = [name for c, name in enumerate(chosen) if c not in filled]
    if empty:
        raise UserError(
            f"{annotations} names no picture of the class {some(empty, 3)}; unpack the data set "
            f"again."
        )
    found.others[".txt"] -= 1  # the table itself
    return replace(found, files=files), notes


def _unused(folder: Path, folders: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Sentences on what lies right in a folder of classes and is not used."""
    inside, notes = look(folder), []
    if len(folders) > len(chosen):
        notes.append(
            f"{len(folders) - len(chosen)} of {len(folders)} class folders in {folder} are not "
            f"among data.classes and not used"
        )
    if inside.pictures:
        notes.append(
            f"{inside.pictures} pictures lie right in {folder}, in no class folder, and are not "
            f"used"
        )
    others = len(inside.files) - inside.pictures
    if others:
        named = some([name for name in inside.files if not is_picture(name)])
        notes.append(f"beside its class folders, {folder} has what is not used: {named}")
    return notes


def _notes(folder: Path, found: Found) -> list[str]:
    """Sentences on files of the classes that were passed over or that the user may not expect."""
    notes = []
    if count := found.others.total():
        notes.append(
            f"{count} files below the class folders of {folder} are no pictures that can be read "
            f"and not used: {by_ending(+found.others)}"
        )
    if found.nested:
        first = printable(found.nested[0].name)
        notes.append(
            f"{len(found.nested)} of {len(found.files)} pictures below {folder} lie in subfolders "
            f"of their class folders and are used as well, such as {first}"
        )
    if found.repeated:
        notes.append(
            f"{found.repeated} links below {folder} lead to folders that are read already or hold "
            f"other classes, and are not followed"
        )
    return notes


def _derive(
    recipe: DataRecipe, examples: EncodedExamples, count: int
) -> tuple[int, int, tuple[str, ...]]:
    """Size and channels as set, or from the headers of some files; and what these tell.

    Args:
      recipe: may have the size or the channels.
      examples: of which the first are looked at.
      count: how many these are.
    """
    places = np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int))
    given = {"data.image_size": recipe.image_size, "data.channels": recipe.channels}
    if all(given.values()):  # what is left to see is transparency, which JPEG does not have
        places = places[
            [os.path.splitext(examples.names[i])[1].lower() not in _OPAQUE for i in places]
        ]
        return recipe.image_size, recipe.channels, headers.look(examples, places).notes
    found = headers.look(examples, places)
    seen = len(found.sides)
    if not seen:
        raise UserError(
            f"None of {len(places)} files looked at in {examples.where[:-1]} is a readable image."
        )
    median = float(np.median(found.sides))
    size = recipe.image_size or min(SIDES, key=lambda s: abs(np.log(s / median)))
    channels = recipe.channels or (1 if found.grey == seen else 3)
    derived = {"data.image_size": size, "data.channels": channels}
    named = " and ".join(f"{k} {v}" for k, v in derived.items() if not given[k])
    note = (
        f"{named}: of {seen} images the median shorter side is {median:g} px, {found.grey} are grey"
    )
    return size, channels, (note, *found.notes)
