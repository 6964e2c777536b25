"""Which folder holds the training images and which the test images, and what lies beside them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from delt_jax.data.listing import Inside, count_files, folders_among, look, several, some
from delt_jax.errors import UserError

ANNOTATIONS = "val_annotations.txt"
_TRAIN = ("train", "training", "trn")
_SPELLINGS = ("train", "Train", "TRAIN", "training", "Training")
# In the order of preference. The words after them count only beside a training folder.
_TESTS = ("test", "val", "validation", "valid", "testing", "eval", "evaluation", "tests", "vals")
_MORE_TESTS = (*_TESTS, "tst", "validate", "dev", "holdout", "heldout")
_FILLERS = ("dataset", "images", "image", "imgs", "img", "data", "set", "split", "folder")


class Layout(NamedTuple):
    """The folders of the splits.

    Attributes:
      root: the folder that the user named.
      train: folder of the training classes, `root` itself or one in it.
      test: folder of the test images; None if the training images are to be split.
      notes: sentences on what lies beside them and is not used.
    """

    root: Path
    train: Path
    test: Path | None
    notes: tuple[str, ...] = ()


def find_train(root: Path, wanted: Sequence[str]) -> Path:
    """The folder whose subfolders are the training classes.

    Args:
      root: the folder that the user named.
      wanted: classes that the user named; if they all lie in `root`, none of them is a split.

    Raises:
      UserError: if several folders could be meant.
    """
    folders = _candidates(look(root), wanted)
    if "train" in folders:
        return root / "train"
    # Under other names it may as well be a class, whose pictures lie right in it.
    folders = [name for name in folders if _has_word(name, (*_TRAIN, *_TESTS))]
    holders = {name: {*look(root / name).folders} for name in folders}
    holders = {n: inner for n, inner in holders.items() if inner and not look(root / n).pictures}
    sure = [name for name in holders if split_word(name) in _TRAIN]
    if len(sure) > 1:
        raise UserError(
            f"{root} has {some(sure)}, and each may hold the training images; keep one of them "
            f"there, or name it train."
        )
    if sure:
        return root / sure[0]
    likely = [name for name in holders if _has_word(name, _TRAIN)]
    tests = [name for name in holders if _has_word(name, _TESTS)]
    if len(likely) == 1 and any(holders[likely[0]] & holders[test] for test in tests):
        return root / likely[0]
    return root


def class_folders(root: Path, train: Path, wanted: Sequence[str]) -> list[str]:
    """Names of the folders in `train`, sorted; without a test split that lies among them.

    Raises:
      UserError: for a name that is not UTF-8.
    """
    names = look(train).folders
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as e:
            raise UserError(
                f"{train} has a folder whose name is not UTF-8, "
                f"{os.fsencode(name).decode('utf-8', 'backslashreplace')}; rename it."
            ) from e
    if train != root:
        return names
    tests = _test_names(root, train, wanted)
    rest = [name for name in names if name not in tests]
    held = several(lambda name: folders_among(_SPELLINGS, root / name), rest, root)
    for name, inner in zip(rest, held, strict=True):
        if inner and not look(root / name).pictures:
            raise UserError(
                f"{root / name} holds {inner[0]}/, so {root} is a level too high; set data.path to "
                f"{root / name}."
            )
    return rest


def find_splits(root: Path, train: Path, chosen: Sequence[str], wanted: Sequence[str]) -> Layout:
    """Finds the test split, and names what lies beside the splits.

    Args:
      root: the folder that the user named.
      train: as `find_train` returns it.
      chosen: the classes, all of them folders in `train`.
      wanted: as in `find_train`.

    Raises:
      UserError: if there is a test split but none that can be used.
    """
    tests = _test_names(root, train, wanted)
    reasons = {name: _why_not(root / name, train, chosen) for name in tests}
    usable = [name for name in tests if not reasons[name]]
    sure = [name for name in tests if split_word(name) in _MORE_TESTS]
    if sure and not usable:
        where = f"set data.path to {train} to hold out data.test_share of its images"
        if train == root:
            where = "move it away; if it is a class, list all classes in a file for data.classes"
        raise UserError(
            f"{root / sure[0]} looks like the test split of {train}, but it {reasons[sure[0]]}; "
            f"sort its images into folders named like those of the training images, or {where}."
        )
    test = root / usable[0] if usable else None
    told = [name for name in tests if name in sure or not reasons[name]] if usable else []
    notes = [
        f"{test} holds the test images; {root / name} ({count_files(root / name)}) is not used"
        + (f", for it {reasons[name]}" if reasons[name] else "")
        for name in told
        if root / name != test
    ]
    if train != root:
        notes += _beside(root, [train, *([test] if test else [])], told)
    return Layout(root, train, test, tuple(notes))


def split_word(name: str) -> str:
    """The one word of a folder's name that is no filler: "val" of "Val_Set" or "val2017"."""
    words = [_without_filler(word) for word in re.findall("[a-z]+", name.casefold())]
    words = [word for word in words if word]
    return words[0] if len(words) == 1 else ""


def _without_filler(word: str) -> str:
    """A word without what follows in "trainset" or "testimages"; empty if it is nothing else."""
    for filler in _FILLERS:
        if word.endswith(filler):
            return word.removesuffix(filler)
    return word


def _has_word(name: str, words: Sequence[str]) -> bool:
    found = re.findall("[a-z]+", name.casefold())
    return any(_without_filler(word) in words for word in found)


def _candidates(inside: Inside, wanted: Sequence[str]) -> list[str]:
    """Folders that may be splits: not the classes that the user has named."""
    apart = set(wanted) if set(wanted) <= set(inside.folders) else set()
    return [name for name in inside.folders if name not in apart]


def _test_names(root: Path, train: Path, wanted: Sequence[str]) -> list[str]:
    """Folders in `root` that look like a test split, the preferred first."""
    folders = [name for name in _candidates(look(root), wanted) if root / name != train]
    if train == root:  # here the others are classes, so only the plain words are splits
        return sorted(
            (name for name in folders if _plain_word(name) in _TESTS),
            key=lambda name: (_rank(name), name),
        )
    found = [name for name in folders if _has_word(name, _MORE_TESTS)]
    return sorted(found, key=lambda name: (_rank(name), name))


def _plain_word(name: str) -> str:
    return split_word(name) if re.fullmatch("[a-z _.-]+", name.casefold()) else ""


def _rank(name: str) -> tuple[bool, int]:
    """The exact name first, then names that are made of it."""
    if name in _TESTS:
        return False, _TESTS.index(name)
    word = split_word(name)
    return True, _MORE_TESTS.index(word) if word in _MORE_TESTS else len(_MORE_TESTS)


def _why_not(folder: Path, train: Path, chosen: Sequence[str]) -> str:
    """Why a folder cannot be the test split, as a phrase; empty if it can."""
    inside = look(folder)
    if ANNOTATIONS in inside.files or set(chosen) & set(inside.folders):
        return ""
    if inside.pictures:
        return f"has {inside.pictures} pictures right in it, in no class folder"
    if inside.folders:
        return f"has the folders {some(inside.folders)}, and no class of {train} among them"
    return "has no class folders"


def _beside(root: Path, used: Sequence[Path], told: Sequence[str]) -> list[str]:
    """A sentence on what else lies beside the splits."""
    inside = look(root)
    folders = [
        f"{name}/ ({count_files(root / name)})"
        for name in inside.folders
        if root / name not in used and name not in told
    ]
    rest = [*folders, *inside.files]
    named = " and ".join(f"{folder.name}/" for folder in used)
    return [f"beside {named}, {root} has what is not used: {some(rest)}"] if rest else []
