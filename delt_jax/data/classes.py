"""Names of classes: those that `data.classes` chooses, and what any of them must be."""

import difflib
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from delt_jax.data.names import printable
from delt_jax.errors import UserError
from delt_jax.recipe.data import lists_classes
from delt_jax.store import regular
from delt_jax.store.local_copies import local

_MOST_BYTES = 2**26  # of a list of classes or files
# Control characters, ends of lines, and bytes that were no UTF-8.
_UNFIT = ("Cc", "Cs", "Zl", "Zp")
_BYTE_ORDER_MARK = "\ufeff"
_SHIPPED = ("imagenet", "imagenet100", "imagenet10", "imagenette", "imagewoof")
_WORDS = "imagenet_words"  # names of the classes of "imagenet", in their order


def wanted_classes(setting: str) -> tuple[str, ...]:
    """Classes that `data.classes` names, in label order; empty if it is empty.

    Args:
      setting: "", a shipped list's name, the path of a text file with a class per line
        (lines that begin with # are remarks), or classes of ImageNet with commas between, each by
        its wnid, its name or its label.

    Raises:
      UserError: if there is no such list, or it is empty or repeats a class.
    """
    if not setting:
        return ()
    if setting in _SHIPPED:
        return _parse(setting, shipped(setting))
    if lists_classes(setting):
        return pick(setting.split(","), wanted_classes("imagenet"), "ImageNet")
    try:
        text = regular.read_bytes(local(setting), _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as e:
        raise UserError(
            f"data.classes {setting!r} cannot be read ({e}); name a file with a class per line, "
            f"one of the lists {', '.join(_SHIPPED)}, or classes of ImageNet with commas between."
        ) from e
    return _parse(setting, text)


def pick(listed: Sequence[str], known: Sequence[str], where: str) -> tuple[str, ...]:
    """Those of the known classes that a list names: each by its name, its word or its label.

    Args:
      listed: the list.
      known: class names in label order; wnids of ImageNet also go by their words.
      where: has these classes, for the sentence.

    Raises:
      UserError: for an entry that is none of them, or is there twice.
    """
    places = places_by_name(known)
    entries = [entry.strip() for entry in listed]
    unknown = next((entry for entry in entries if spelt(entry) not in places), None)
    if unknown is not None:
        near = difflib.get_close_matches(spelt(unknown), places, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; name each as the list does."
        raise UserError(f"data.classes lists {unknown!r}, which is no class of {where}{hint}")
    chosen = tuple(known[places[spelt(entry)]] for entry in entries)
    twice = next((name for name, count in Counter(chosen).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"data.classes lists the class {twice!r} more than once; list it once.")
    return chosen


def places_by_name(known: Sequence[str]) -> dict[str, int]:
    """Labels of classes by all that they go by, as `spelt`: label, word of ImageNet's, name.

    Where two classes could be meant, names come before words, and words before labels.
    """
    places = {str(label): label for label in range(len(known))}
    places |= {spelt(word): label for label, word in enumerate(in_words(known))}
    return places | {spelt(name): label for label, name in enumerate(known)}


def spelt(name: str) -> str:
    """A name as people may type it: in lower case, with spaces for underscores."""
    return name.strip().casefold().replace("_", " ")


def in_words(class_names: Sequence[str]) -> tuple[str, ...]:
    """Class names for people to read: words for wnids of ImageNet's classes, others unchanged.

    >>> in_words(("n02007558", "cat"))
    ('flamingo', 'cat')
    """
    words = _imagenets_words()
    return tuple(words.get(name, name) for name in class_names)


@functools.cache
def _imagenets_words() -> dict[str, str]:
    """Words of ImageNet's classes by wnid."""
    return dict(zip(wanted_classes("imagenet"), _parse(_WORDS, shipped(_WORDS)), strict=True))


def shipped(name: str) -> str:
    """Text of a list that comes with the package."""
    file = resources.files("delt_jax.data") / "class_lists" / f"{name}.txt"
    return file.read_text(encoding="utf-8")


def positions(class_names: Sequence[str], known: Sequence[str]) -> tuple[int, ...] | None:
    """Labels of classes among all that a network knows, or None if any is not one of them.

    A teacher of a subset needs these rows of the last layer of a network of all classes.
    """
    places = {name: i for i, name in enumerate(known)}
    if not all(name in places for name in class_names):
        return None
    return tuple(places[name] for name in class_names)


def choose(found: Sequence[str], setting: str, where: str) -> tuple[str, ...]:
    """Chooses among the classes found; returns them in label order.

    Raises:
      UserError: if the list names a class that was not found.
    """
    wanted = wanted_classes(setting)
    missing = [name for name in wanted if name not in set(found)]
    if missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{where} lacks {len(missing)} of the {len(wanted)} classes in data.classes {setting} "
            f"({listed}); its classes are {', '.join(list(found)[:5])}, ...; name these."
        )
    return wanted or tuple(found)


def check_names(names: Sequence[str], where: str) -> None:
    """Checks class names of any source.

    Raises:
      UserError: if one is empty, is there twice, or holds control characters.
    """
    for i, name in enumerate(names):
        unfit = [c for c in name if unicodedata.category(c) in _UNFIT or c == _BYTE_ORDER_MARK]
        if not name.strip() or unfit:
            what = f"holds the character U+{ord(unfit[0]):04X}" if unfit else "is empty"
            raise UserError(
                f"The name of class {i} in {where}, '{printable(name)}', {what}; give it a name "
                f"of visible characters."
            )
    twice = [(name, count) for name, count in Counter(names).items() if count > 1]
    if twice:
        name, count = twice[0]
        raise UserError(
            f"{where} has the class name {name!r} {count} times; give each class a name of its own."
        )


def check_count(names: Sequence[str], count: int, where: str) -> None:
    """Raises a UserError unless there is a name for each of the `count` classes of a folder."""
    if len(names) != count:
        raise UserError(
            f"data.class_names has {len(names)} names, but {where} has {count} classes; leave it "
            f"empty to take the folders' names{comma_hint(names)}."
        )


def comma_hint(names: Sequence[str]) -> str:
    """End of a sentence on too few names: a flag's a,b is one name, as names may have commas."""
    if len(names) != 1 or "," not in names[0]:
        return ""
    parted = ",".join(f"'{printable(part.strip())}'" for part in names[0].split(","))
    return f', or write --config.data.class_names="({parted})", for a name may have a comma'


def order_note(folders: Sequence[str], names: Sequence[str], where: str) -> list[str]:
    """A sentence if numbered class folders, sorted by name, are not in the order of numbers.

    Args:
      folders: names of the class folders, in label order.
      names: that the user gave the classes, in label order; may be empty.
      where: the folder that holds them.
    """
    parts = [re.fullmatch(r"([^0-9]*)([0-9]+)([^0-9]*)", name) for name in folders]
    numbers = [int(part[2]) for part in parts if part]
    alike = {(part[1], part[3]) for part in parts if part}
    if len(numbers) < len(folders) or len(alike) > 1 or numbers == sorted(numbers):
        return []
    named = [f"{f} is {n!r}" for f, n in zip(folders, names, strict=False)] or list(folders)
    return [
        f"the class folders in {where} are numbered but in the order of their names: "
        f"{', '.join(named[:4])}, ...; data.classes takes another order"
    ]


def text_of(path: Path) -> str:
    """Text of a file that comes with a data set.

    Raises:
      UserError: if it cannot be read or is not UTF-8.
    """
    try:
        return regular.read_bytes(local(path), _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read ({e}); unpack the data set again.") from e


def relabel(found: Sequence[str], chosen: Sequence[str]) -> np.ndarray:
    """New label of each class found, int32 [len(found)]; -1 for what was not chosen."""
    place = {name: i for i, name in enumerate(chosen)}
    return np.array([place.get(name, -1) for name in found], np.int32)


def _parse(setting: str, text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    names = tuple(line for line in lines if line and not line.startswith("#"))
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if not names or repeated:
        problem = f"repeats the class {repeated[0]!r}" if repeated else "names no class"
        raise UserError(f"data.classes {setting} {problem}; give each class a line of its own.")
    check_names(names, f"data.classes {setting}")
    return names
