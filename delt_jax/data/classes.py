"""Chooses classes and their order by the setting `data.classes`."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from delt_jax.errors import UserError

_SHIPPED = ("imagenet", "imagenet100", "imagenet10", "imagenette", "imagewoof")


def wanted_classes(setting: str) -> tuple[str, ...]:
    """Classes that `data.classes` names, in label order; empty if it is empty.

    Args:
      setting: "", a shipped list's name, or the path of a text file with a class per line
        (lines that begin with # are remarks).

    Raises:
      UserError: if there is no such list, or it is empty or repeats a class.
    """
    if not setting:
        return ()
    if setting in _SHIPPED:
        return _parse(setting, shipped(setting))
    try:
        text = Path(setting).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as e:
        raise UserError(
            f"data.classes {setting!r} cannot be read ({e}); name a file with a class per line, or "
            f"one of the lists {', '.join(_SHIPPED)}."
        ) from e
    return _parse(setting, text)


def shipped(name: str) -> str:
    """Text of a list that comes with the package."""
    return (resources.files("delt_jax.data") / "class_lists" / f"{name}.txt").read_text()


def positions_in_imagenet(class_names: Sequence[str]) -> tuple[int, ...] | None:
    """Labels of wnids among ImageNet's 1000 classes, or None if any is not one of them.

    A teacher of a subset needs these rows of the last layer of a 1000-class network.
    """
    places = {wnid: i for i, wnid in enumerate(wanted_classes("imagenet"))}
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
        bar = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{where} lacks {len(missing)} of the {len(wanted)} classes in data.classes {setting} "
            f"({bar}); its classes are {', '.join(list(found)[:5])}, ...; name these."
        )
    return wanted or tuple(found)


def relabel(found: Sequence[str], chosen: Sequence[str]) -> np.ndarray:
    """New label of each class found, int32 [len(found)]; -1 for what was not chosen."""
    place = {name: i for i, name in enumerate(chosen)}
    return np.array([place.get(name, -1) for name in found], np.int32)


def _parse(setting: str, text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    names = tuple(line for line in lines if line and not line.startswith("#"))
    repeated = sorted({name for name in names if names.count(name) > 1}) if names else []
    if not names or repeated:
        problem = f"repeats the class {repeated[0]!r}" if repeated else "names no class"
        raise UserError(f"data.classes {setting} {problem}; give each class a line of its own.")
    return names
