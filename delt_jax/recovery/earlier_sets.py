"""Start images out of a set that is there already: published, generated, or an own one."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from delt_jax import formats
from delt_jax.core.progress import say
from delt_jax.data import Normalisation, Source
from delt_jax.data.classes import in_words, spelt
from delt_jax.data.listing import some
from delt_jax.data.source import fingerprint
from delt_jax.errors import UserError
from delt_jax.formats import resizing
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.remote_sets import local_set
from delt_jax.recipe import Recipe
from delt_jax.recovery.starts import GivenPixels
from delt_jax.store import remote


@dataclass(frozen=True)
class EarlierSet(GivenPixels):
    """Images of a set, rank by rank.

    Attributes:
      path: of the set, as set.
      resized: what was done to the images, as "256x256 px to 64x64 px"; empty if nothing.
    """

    path: str = ""
    resized: str = ""

    def record(self, folder: Path) -> dict[str, Any]:
        """The name of a file with the images, which is written, and where they come from."""
        return super().record(folder) | {"set": self.path, "resized": self.resized}


class _Described(NamedTuple):
    """A set without its images: class names in label order, images per class, hash of content."""

    class_names: tuple[str, ...]
    ipc: int
    hash: str


def prepare(recipe: Recipe, source: Source, normalisation: Normalisation) -> EarlierSet:
    """The first `ipc` images of each of the data's classes, at the size of the data.

    Raises:
      UserError: as `check`.
    """
    path = recipe.select.set
    content = _load(path)
    chosen = _chosen(content.class_names, content.ipc, recipe, source)
    images = content.images[chosen.reshape(-1)]
    changed = resizing.change(images, source.image_size, source.channels)
    pixels = resizing.resized(images, source.image_size, source.channels)
    where = path if remote.is_remote(path) else str(Path(path).absolute())
    say(f"  starts from {where}{f', resized: {changed}' if changed else ''}")
    taken = set(chosen[:, 0] // content.ipc)
    unused = [name for label, name in enumerate(content.class_names) if label not in taken]
    if unused:
        say(f"  classes of it that the data lack are not used: {some(unused)}")
    return EarlierSet(pixels, normalisation, path=where, resized=changed)


def check(recipe: Recipe, source: Source) -> None:
    """Checks a set against recipe and data.

    Raises:
      UserError: if there is no set, it lacks a class of the data, or has fewer images than `ipc`.
    """
    found = _described(recipe.select.set)
    _chosen(found.class_names, found.ipc, recipe, source)


def inputs(recipe: Recipe, source: Source) -> dict[str, Any]:
    """Hash of the set's images and of their classes."""
    return {"select.set": _described(recipe.select.set).hash}


def _load(path: str) -> DistilledSet:
    if not path:
        raise UserError(
            "select.start is 'set', but select.set is empty; set it to a work directory, an "
            "export or a published set."
        )
    try:
        content = formats.load(path)
    except UserError as e:
        raise UserError(f"select.set names {path}: {e}") from e
    if content.preprocessing is not None:
        raise UserError(
            f"select.set {path} holds float images in a space of their own, and recovery begins "
            f"with pixels; make some of it with delt_jax export --to=distilled --round."
        )
    return content


def _described(path: str) -> _Described:
    if not path:
        _load(path)
    here = local_set(path)
    files = sorted(file for file in here.rglob("*") if file.is_file()) if here.is_dir() else [here]
    stamps = [(str(file), file.stat()) for file in files if file.exists()]
    return _read(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stamps))


@functools.lru_cache(maxsize=2)
def _read(path: str, stamps: tuple[tuple[str, int, int], ...]) -> _Described:
    """Reads a set once for as long as its files stay as they are."""
    del stamps  # of the files
    content = _load(path)
    names = np.array(content.class_names)
    return _Described(
        content.class_names, content.ipc, fingerprint(content.images, content.labels, names)
    )


def _chosen(names: Sequence[str], ipc: int, recipe: Recipe, source: Source) -> np.ndarray:
    """Where the start images are among a set's, int [classes, ipc]."""
    labels = _labels(names, source.class_names, recipe.select.set)
    if ipc < recipe.ipc:
        raise UserError(
            f"select.set {recipe.select.set} has {ipc} images of each class, but ipc is "
            f"{recipe.ipc}; add --config.ipc={ipc}, or less."
        )
    return labels[:, None] * ipc + np.arange(recipe.ipc)


def _labels(theirs: Sequence[str], ours: Sequence[str], path: str) -> np.ndarray:
    """A set's label of each of the data's classes, by their names, int [classes].

    A wnid of ImageNet also goes by its word; capitals and underscores do not count.
    """
    numbers = tuple(map(str, range(len(theirs))))
    known = {spelt(word): label for label, word in enumerate(in_words(theirs))}
    known |= {spelt(name): label for label, name in enumerate(theirs)}
    known |= {name: label for label, name in enumerate(theirs)}

    def label_of(name: str, word: str) -> int | None:
        tried = (name, spelt(name), spelt(word))
        return next((known[each] for each in tried if each in known), None)

    found = [label_of(*names) for names in zip(ours, in_words(ours), strict=True)]
    missing = [name for name, label in zip(ours, found, strict=True) if label is None]
    if missing and tuple(theirs) == numbers:
        raise UserError(
            f"The classes of select.set {path} are only numbered; import it with delt_jax export "
            f"--to=distilled --class_names=FILE, which lists their names in the order of its "
            f"labels, and name what that writes."
        )
    if missing:
        raise UserError(
            f"select.set {path} lacks {len(missing)} of the data's {len(ours)} classes "
            f"({some(missing, 5)}); its classes are {some(list(theirs), 5)}."
        )
    return np.array(found)
