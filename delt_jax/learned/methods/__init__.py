"""Methods of learning a set: every file has its own in METHODS, which the engine runs."""

import functools
import importlib
import pkgutil

from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError
from delt_jax.learned.method import Method


@functools.cache
def _all() -> dict[str, Method]:
    """Every method by its name, of all files of this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {method.name: method for module in modules for method in module.METHODS}


def names() -> list[str]:
    """Names of the methods."""
    return sorted(_all())


def find(name: str) -> Method:
    """The method of a name.

    Raises:
      UserError: if there is none.
    """
    known = names()
    if name not in known:
        raise UserError(
            f"learn.method is {name!r}, but sets are learned by {', '.join(known[:-1])} or "
            f"{known[-1]}{nearest(name, known)}"
        )
    return _all()[name]


_VERSIONS = {"att": 2, "ftd": 2, "ratbptt": 2, "rcig": 2, "tesla": 2}


def version(name: str) -> int:
    """Version of a method, part of the identity of everything made with it."""
    return _VERSIONS.get(name, 1)
