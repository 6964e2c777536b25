"""Pictures of known classes, in a folder for each class: test images, or images to start from."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from delt_jax.data.classes import places_by_name, spelt
from delt_jax.data.folder import Files, class_files
from delt_jax.data.listing import by_ending, look, some
from delt_jax.data.names import Names
from delt_jax.data.source import EncodedExamples, Source
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.store import remote
from delt_jax.store.identity import identity
from delt_jax.store.pictures import MOST_PIXELS


class Classes(NamedTuple):
    """Classes of pictures, and what pictures are brought to.

    Attributes:
      names: in label order.
      all_names: of all classes that a network knows, whose labels may name folders.
      image_size, channels, fit: see `delt_jax.data.fit.fit_image`.
      workers: processes to decode in.
      most_pixels: that a picture may have.
    """

    names: tuple[str, ...]
    all_names: tuple[str, ...]
    image_size: int
    channels: int
    fit: str
    workers: int
    most_pixels: int = MOST_PIXELS


class ClassPictures(NamedTuple):
    """The pictures below a folder.

    Attributes:
      examples: in the order of classes and names.
      fingerprint: hash of paths, classes, sizes and times of the files.
      content: likewise without times, which copies of the files have differently.
      notes: sentences on what is not used.
    """

    examples: EncodedExamples
    fingerprint: str
    content: str
    notes: tuple[str, ...]


def of_source(source: Source, fit: str, workers: int, most_pixels: int) -> Classes:
    """The classes and sizes of a source of real images; `workers` is as `data.workers` has it."""
    names, size = source.class_names, source.image_size
    all_names = source.all_classes or names
    processes = worker_count(workers)
    return Classes(names, all_names, size, source.channels, fit, processes, most_pixels)


def open_pictures(setting: str, path: str, classes: Classes) -> ClassPictures:
    """Finds the pictures of every class; opens none.

    The folder of a class goes by the class's name, its word where the name is a wnid of
    ImageNet's, or its label among all names; capitals and underscores do not count.

    Args:
      setting: dotted name of the setting that has the path, for sentences.
      path: of the folder.
      classes: that are wanted.

    Raises:
      UserError: if it is no folder, or a class has no folder, two of them, or no picture.
    """
    if not remote.is_folder(path):
        raise UserError(
            f"{setting} {path!r} is not a folder; set it to one that holds a folder of pictures "
            f"for each class."
        )
    root = remote.path_of(path)
    folders, unused = _by_class(root, classes)
    found = class_files(root, root, folders)
    notes = []
    if unused:
        notes.append(f"{root} has folders of other classes, which are not used: {some(unused)}")
    if count := found.others.total():
        notes.append(
            f"{count} files in {root} are no pictures that can be read and not used: "
            f"{by_ending(+found.others)}"
        )
    labels = np.array([file.label for file in found.files], np.int32)
    names = Names.of(file.name for file in found.files)
    listed = [[os.fsdecode(file.name), file.label, file.size] for file in found.files]
    sized = {
        "size": [classes.image_size, classes.channels],
        "fit": classes.fit,
        "classes": classes.names,
    }
    times = [file.changed for file in found.files]
    return ClassPictures(
        named(root, names, labels, classes),
        identity(sized | {"files": listed, "times": times}),
        identity(sized | {"files": listed}),
        tuple(notes),
    )


def named(root: Path, names: Names, labels: np.ndarray, classes: Classes) -> EncodedExamples:
    """Pictures by their paths below a folder, and their classes int32 [N]."""
    return EncodedExamples(
        encoded=Files(os.fsencode(root), names),
        labels=labels,
        names=names,
        where=f"{root}/",
        image_size=classes.image_size,
        channels=classes.channels,
        fit=classes.fit,
        workers=classes.workers,
        most_pixels=classes.most_pixels,
    )


def _by_class(root: Path, classes: Classes) -> tuple[list[str], list[str]]:
    """The folder of each class, in label order, and those of none."""
    places, chosen = places_by_name(classes.all_names), {n: i for i, n in enumerate(classes.names)}
    found: dict[int, list[str]] = {}
    unused = []
    for folder in look(root).folders:
        known = places.get(spelt(folder))
        known = places.get(folder.lstrip("0") or "0") if known is None else known
        label = None if known is None else chosen.get(classes.all_names[known])
        if label is None:
            unused.append(folder)
        else:
            found.setdefault(label, []).append(folder)
    missing = [name for name, label in chosen.items() if label not in found]
    if missing:
        raise UserError(
            f"{root} has no folder for {some(missing, 3)}; every one of the {len(chosen)} classes "
            f"needs one, named like the class."
        )
    twice = next((folders for folders in found.values() if len(folders) > 1), None)
    if twice:
        raise UserError(f"{root} has several folders of one class, {some(twice)}; keep one.")
    return [found[label][0] for label in range(len(chosen))], unused
