"""Data sets in shards, files of many pictures each: their splits, classes, sizes and identity."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from delt_jax.data import headers
from delt_jax.data.classes import choose, relabel
from delt_jax.data.names import Names
from delt_jax.data.readable import leave_out
from delt_jax.data.source import EncodedExamples, Source, fingerprint, split_mask
from delt_jax.data.stream import worker_count
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import files, regular
from delt_jax.store.foreign import shown
from delt_jax.store.identity import identity
from delt_jax.store.pictures import UnreadableError

_TESTS = ("test", "validation", "valid", "val")  # splits to test on, the first choice first
_HASHED = 256 * 2**20  # bytes of a file that is read as a whole to tell whether it has changed
_PIECES, _PIECE = 64, 2**16  # of a larger file, and bytes of each
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAMPLE = 100  # pictures whose size is looked at


class Shards(Protocol):
    """Encoded pictures in shards; `delt_jax.data.source.Encoded`."""

    def read(self, indices: np.ndarray) -> Sequence[bytes | UnreadableError]:
        """Contents of the pictures; for what cannot be read, why."""
        ...

    def taken(self, places: np.ndarray) -> "Shards":
        """Some of them, int [n]."""
        ...


@dataclass(frozen=True)
class Sharded:
    """What the shards of a data set hold.

    Attributes:
      kind: name of the source.
      name: of the data set.
      root: where the shards lie.
      shards: the pictures of the training split, then those of the test split.
      names: of the pictures.
      labels: int64 [n] by split, as stored; -1 where hidden.
      class_names: in label order.
      content: hash of the shards.
    """

    kind: str
    name: str
    root: Path
    shards: Shards
    names: Names
    labels: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]
    content: str


def splits_of(root: Path, ending: str, wanted: re.Pattern | None = None) -> dict[str, list[Path]]:
    """Shards of the training split and, if there is one, of the test split, in order.

    A shard belongs to the split that its name or a folder's begins with; others to the first.

    Args:
      root: the only shard, or a folder of them.
      ending: of their names.
      wanted: what their paths below the folder match; None for all.

    Raises:
      UserError: if there are none, or those of several data sets.
    """
    if root.is_file():
        return {"train": [root]}
    found = sorted(root.rglob(f"*{ending}")) if root.is_dir() else []
    if wanted is not None:
        found = [file for file in found if wanted.fullmatch(file.relative_to(root).as_posix())]
    sets = sorted({_set_of(file.relative_to(root)) for file in found})
    if len(sets) > 1:
        raise UserError(
            f"data.path {root} holds the files of {len(sets)} sets "
            f"({shown(', '.join(sets), 200)}); add the folder of one to data.path."
        )
    if not found:
        return {}
    by_word: dict[str, list[Path]] = {}
    for file in found:
        by_word.setdefault(_split_of(file.relative_to(root)), []).append(file)
    splits = {"train": by_word.get("train") or by_word.get("", [])}
    test = next((by_word[word] for word in _TESTS if word in by_word), None)
    if not splits["train"]:
        raise UserError(f"{root} has {ending} files of {', '.join(by_word)}, but none of train.")
    return splits | ({"test": test} if test else {})


def _set_of(path: Path) -> str:
    """The folder of the set that a file belongs to, without a last one for its split."""
    folders = path.parts[:-1]
    return "/".join(folders[:-1] if folders and _split_of(Path(folders[-1])) else folders) or "."


def _split_of(path: Path) -> str:
    """The word for a split that the file's name or a folder's begins with; empty for none."""
    words = ("train", *_TESTS)
    for part in reversed(path.parts):
        match = re.match(r"[a-z]+", part.lower())
        if match and match[0] in words:
            return match[0]
    return ""


def content_of(path: Path) -> list[Any]:
    """What tells this file from another: its name and content, of a large one size and pieces.

    Copies have the same. A file of the Hub's cache is a link whose target is named by its content.
    """
    size, target = path.stat().st_size, Path(os.path.realpath(path)).name
    if size <= _HASHED:
        return [path.name, files.file_checksum(path)]
    content = target if _SHA256.fullmatch(target) else _pieces_checksum(path, size)
    return [path.name, size, content]


def _pieces_checksum(path: Path, size: int) -> str:
    """SHA-256 of pieces that are spread evenly over a file, its beginning and end among them."""
    digest = hashlib.sha256()
    with regular.open_file(path) as f:
        for start in np.linspace(0, max(size - _PIECE, 0), _PIECES).astype(np.int64):
            f.seek(int(start))
            digest.update(f.read(_PIECE))
    return digest.hexdigest()


def numbered(labels: Mapping[str, np.ndarray], where: str) -> tuple[str, ...]:
    """Numbers as names of the classes, from 0 to the highest label.

    Raises:
      UserError: if the labels do not count from 0.
    """
    highest = max(int(each.max()) for each in labels.values() if len(each))
    if highest < 0 or highest >= sum(map(len, labels.values())):
        raise UserError(f"The labels of {where} are no classes that count from 0.")
    return tuple(map(str, range(highest + 1)))


def open_sharded(recipe: DataRecipe, cache: Path | None, found: Sharded) -> Source:
    """The source that some shards are.

    Raises:
      UserError: if a class has no picture left, or the size must be set.
    """
    where, labels = str(found.root), found.labels
    chosen = choose(found.class_names, recipe.classes, where)
    everything = _examples(recipe, found)
    size, channels, notes = _derive(recipe, everything)
    old, new = _relabelled(labels, found.class_names, chosen, where)
    everything = replace(everything, labels=new, image_size=size, channels=channels)
    readable, left_out, outcome = leave_out(everything, recipe.unreadable, found.content, cache)
    if "test" in labels:
        in_test = np.arange(len(new)) >= len(labels["train"])
    else:
        in_test = split_mask(old, recipe.test_share, recipe.split_seed, readable)
    kept, hidden = readable & (new >= 0), int((old < 0).sum())
    if hidden:
        notes = (*notes, f"{hidden} samples of {where} have no class and are not used")
    of_all = {
        "source": found.kind,
        "class_names": chosen,
        "image_size": size,
        "channels": channels,
        "fit": recipe.fit,
        "labels": fingerprint(new, in_test, readable),
        "files": found.content,
    }
    return Source(
        name=found.name,
        class_names=chosen,
        image_size=size,
        channels=channels,
        train=_taken(everything, kept & ~in_test, chosen, "training"),
        test=_taken(everything, kept & in_test, chosen, "test"),
        fingerprint=identity(of_all),
        notes=(*notes, *left_out),
        found=outcome,
    )


def _examples(recipe: DataRecipe, found: Sharded) -> EncodedExamples:
    """All pictures; their size is not known yet."""
    return EncodedExamples(
        encoded=found.shards,
        labels=np.concatenate(list(found.labels.values())).astype(np.int32),
        names=found.names,
        where=f"{found.root}: ",
        image_size=0,
        channels=0,
        fit=recipe.fit,
        workers=worker_count(recipe.workers),
        most_pixels=recipe.max_pixels,
    )


def _relabelled(
    labels: Mapping[str, np.ndarray], names: Sequence[str], chosen: Sequence[str], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """All labels as stored, and int32 among the chosen classes, -1 where they are of none."""
    old = np.concatenate(list(labels.values()))
    if old.max() >= len(names):
        raise UserError(
            f"{where} has the label {old.max()}, but {len(names)} class names; name all classes "
            f"with data.class_names."
        )
    return old, np.where(old < 0, -1, relabel(names, chosen)[old]).astype(np.int32)


def _taken(
    examples: EncodedExamples, where: np.ndarray, class_names: Sequence[str], split: str
) -> EncodedExamples:
    """A split: the examples where the mask, bool [N], is true.

    Raises:
      UserError: if a class has none.
    """
    places = np.flatnonzero(where)
    counts = np.bincount(examples.labels[places], minlength=len(class_names))
    if not counts.all():
        raise UserError(
            f"{examples.where}no {split} image of class {class_names[int(counts.argmin())]!r} is "
            f"left; add some."
        )
    shards: Any = examples.encoded
    names = examples.names
    assert isinstance(names, Names)
    return replace(
        examples,
        encoded=shards.taken(places),
        labels=examples.labels[places],
        names=names.take(places),
    )


def _derive(recipe: DataRecipe, examples: EncodedExamples) -> tuple[int, int, tuple[str, ...]]:
    """Size and channels as set, or those of the first pictures; and what these tell."""
    found = headers.look(examples, np.arange(min(_SAMPLE, len(examples))))
    if recipe.image_size and recipe.channels:
        return recipe.image_size, recipe.channels, found.notes
    sides = set(found.sides)
    if not recipe.image_size and len(sides) != 1:
        seen = f"from {min(sides)} to {max(sides)} px" if sides else "that none of the first shows"
        raise UserError(f"{examples.where}pictures have sides {seen}; set data.image_size.")
    size = recipe.image_size or sides.pop()
    channels = recipe.channels or (1 if 0 < found.grey == len(found.sides) else 3)
    note = f"data.image_size {size}, data.channels {channels}: as the pictures"
    return size, channels, (note, *found.notes)
