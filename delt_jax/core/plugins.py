"""Parts of a run from outside this package, found by name (see docs/extending.md).

A plug-in is named "package.module:name", or by the name of an entry point that an installed package
declares in one of `GROUPS`. Only what the user has named in a recipe or on the command line is ever
imported (`allow`): a name in a file, such as the architecture in a teacher's manifest, is none.
"""

import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from delt_jax.core.progress import say
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Group:
    """A kind of part that plug-ins may bring.

    Attributes:
      name: of the group of entry points.
      noun: what such a part is called in sentences.
      settings: which name such parts.
    """

    name: str
    noun: str
    settings: tuple[str, ...]


TERMS = Group("delt_jax.terms", "term", ("recover.terms",))
STARTS = Group("delt_jax.starts", "start", ("select.start",))
RULES = Group("delt_jax.rules", "selection rule", ("select.rule",))
PROTOCOLS = Group("delt_jax.protocols", "protocol", ("evaluate.protocol", "evaluate.hard_protocol"))
MODELS = Group("delt_jax.models", "model", ("teacher.model", "teacher.others", "evaluate.students"))
OPTIMISERS = Group("delt_jax.optimisers", "optimiser", ("recover.optimiser",))
DATA = Group("delt_jax.data", "data source", ("data.name",))
METHODS = Group("delt_jax.methods", "method", ())
GROUPS = (TERMS, STARTS, RULES, PROTOCOLS, MODELS, OPTIMISERS, DATA, METHODS)

_allowed: set[tuple[str, str]] = set()  # groups and names that the user has named in this process
_told: set[tuple[str, str]] = set()  # names of built-in parts that a package has, too
_used: dict[tuple[str, str], Any] = {}  # what each plug-in was when it was first asked for


def group_of(setting: str) -> Group | None:
    """The kind of part that a setting names; None if it names none."""
    return next((group for group in GROUPS if setting in group.settings), None)


def allow(group: Group, name: str) -> None:
    """Takes note that the user has named a plug-in, which may then be imported.

    Args:
      group: the kind of part.
      name: of an entry point, or "package.module:name"; other names are ignored.
    """
    if is_path(name) or name in declared(group):
        _allowed.add((group.name, name))


def is_allowed(group: Group, name: str) -> bool:
    """Whether this names a plug-in that the user has asked for."""
    return (group.name, name) in _allowed


def named(group: Group) -> list[str]:
    """Names of the plug-ins of a kind that the user has asked for in this process."""
    return sorted(name for kind, name in _allowed if kind == group.name)


def is_path(name: str) -> bool:
    """Whether a name has the form "package.module:name"."""
    return _NAME.fullmatch(name) is not None


def names(group: Group) -> list[str]:
    """Names of all plug-ins that installed packages declare."""
    return sorted(declared(group))


def declared(group: Group) -> Mapping[str, EntryPoint]:
    """The entry points of a kind, by name; nothing is imported."""
    return {name: entries[0] for name, entries in _declared(group.name, tuple(sys.path)).items()}


@functools.lru_cache(maxsize=32)
def _declared(group: str, path: tuple[str, ...]) -> Mapping[str, list[EntryPoint]]:
    """All entry points of each name that stand for different objects; `path` says where to look."""
    del path
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        same = found.setdefault(entry.name, [])
        if entry.value not in [other.value for other in same]:
            same.append(entry)
    return found


def find(group: Group, name: str, built_in: Mapping[str, Any]) -> Any:
    """The part of a name: one of our own, or else a plug-in.

    Args:
      group: the kind of part.
      name: of a built-in part, of an entry point, or "package.module:name".
      built_in: this package's own parts by name, which win.

    Raises:
      UserError: if there is no such part, the user has not named it, or it cannot be imported or
        was imported anew.
    """
    if name in built_in:
        tell_clash(group, name)
        return built_in[name]
    if not is_path(name) and name not in declared(group):
        raise unknown(group, name, built_in)
    if not is_allowed(group, name):
        settings = " or ".join(group.settings)
        raise UserError(
            f"The {group.noun} {name!r} is a plug-in that no setting of this run names, and what a "
            f"file says is never imported; if you trust it, name it in {settings}."
        )
    found = _imported(*_parted(group, name), f"{group.noun} {name!r}")
    if _used.setdefault((group.name, name), found) is not found:
        raise UserError(
            f"The {group.noun} {name!r} was imported anew, but this process has compiled programs "
            f"of what it was before; start Python again."
        )
    return found


def forget() -> None:
    """Forgets what the user has named, as a new process would; for tests."""
    _allowed.clear()
    _told.clear()
    _used.clear()


def tell_clash(group: Group, name: str) -> None:
    """Says once that a package has a part of the name of one of our own."""
    entry = declared(group).get(name)
    if entry is not None and (group.name, name) not in _told:
        _told.add((group.name, name))
        say(
            f"The {group.noun} {name!r} is delt_jax's own; that of {_owner(entry)} has the same "
            f"name, and is reached as {_target(entry)}."
        )


def unknown(group: Group, name: str, built_in: Iterable[str]) -> UserError:
    """The error about a name that no part of a kind has."""
    known = [*built_in, *names(group)]
    where = f" for {group.settings[0]}" if len(group.settings) == 1 else ""
    return UserError(
        f"There is no {group.noun} {name!r}{where}{nearest(name, known)} There are "
        f"{', '.join(known)}, and plug-ins as package.module:name (docs/extending.md)."
    )


def module_of(group: Group, name: str) -> ModuleType | None:
    """The module of a plug-in that the user has named; None for any other name."""
    if not is_allowed(group, name):
        return None
    module, _ = _parted(group, name)
    find(group, name, {})
    return sys.modules[module]


def version(group: Group, name: str) -> int:
    """The `VERSION` of a plug-in's module; 1 where there is none, and for any other name.

    Raises:
      UserError: if it is no whole number.
    """
    declared_version = getattr(module_of(group, name), "VERSION", 1)
    if type(declared_version) is not int:
        raise UserError(
            f"VERSION in the module of the {group.noun} {name!r} must be a whole number, not "
            f"{declared_version!r}."
        )
    return declared_version


def checked(group: Group, name: str, found: Any, wanted: Any, what: str) -> Any:
    """An object that a plug-in has given, if it is what it should be.

    Args:
      group, name: of the plug-in.
      found: the object.
      wanted: its type.
      what: the type in words, such as "a delt_jax.terms.Term".

    Raises:
      UserError: if it is anything else.
    """
    if isinstance(found, wanted):
        return found
    raise UserError(
        f"The {group.noun} {name!r} must be {what}, but is {_a(type(found).__name__)} "
        f"(docs/extending.md)."
    )


def call(group: Group, name: str, function: Any, *arguments: Any) -> Any:
    """What a plug-in's function returns; its own errors get a sentence, with their cause.

    Raises:
      UserError: if it raises anything; its own UserErrors as they are.
    """
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"The {group.noun} {name!r} failed: {_one_line(e)}") from e


def files(group: Group) -> dict[str, Path]:
    """Source files of the plug-ins that packages declare or the user has named, by name.

    They are not imported; only a package that lies elsewhere than it is installed, as one that is
    being edited, has its `__init__` run. What cannot be found is left out, unless it is named.
    """
    found = {}
    for name in sorted({*declared(group), *named(group)}):
        try:
            found[name] = _file(group, name)
        except UserError:
            if is_allowed(group, name):
                raise
    return found


def _file(group: Group, name: str) -> Path:
    """Source file of a plug-in's module.

    Raises:
      UserError: if it cannot be found.
    """
    module, _ = _parted(group, name)
    entry = declared(group).get(name)
    if entry is not None and entry.dist is not None:
        installed = Path(str(entry.dist.locate_file(f"{module.replace('.', '/')}.py")))
        if installed.is_file():
            return installed
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        raise UserError(f"The {group.noun} {name!r} cannot be found: there is no module {module}.")
    return Path(spec.origin)


def _parted(group: Group, name: str) -> tuple[str, str]:
    """Module and attribute of a plug-in; no attribute where the module itself is meant.

    Raises:
      UserError: if several packages have one of this name.
    """
    target = name
    if not is_path(name):
        entries = _declared(group.name, tuple(sys.path))[name]
        if len(entries) > 1:
            listed = " and ".join(f"{_owner(entry)} ({_target(entry)})" for entry in entries)
            raise UserError(
                f"{listed} both have a {group.noun} {name!r}; name the one that you want by its "
                f"module, or uninstall one of them."
            )
        target = _target(entries[0])
    module, _, attribute = target.partition(":")
    return module, attribute


def _imported(module: str, attribute: str, what: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):
            raise UserError(f"The {what} cannot be imported: {_one_line(e)}") from e
        raise UserError(
            f"The {what} cannot be found: there is no module {e.name}; install its package, or "
            f"name the folder that holds it in PYTHONPATH."
        ) from e
    except Exception as e:
        raise UserError(f"The {what} cannot be imported: {_one_line(e)}") from e
    for part in filter(None, attribute.split(".")):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise UserError(f"{module} has no {attribute}, so no {what}{nearest(part, public)}")
        found = getattr(found, part)
    return found


def _target(entry: EntryPoint) -> str:
    """What an entry point stands for, "package.module:name", without extras."""
    return entry.value.partition("[")[0].replace(" ", "")


def _owner(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else f"the module {entry.module}"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def _one_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines() or ("",)
    return f"{type(error).__name__}: {lines[0][:300]}".rstrip(": ").rstrip(".") + "."
