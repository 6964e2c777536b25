"""Finds the file of a recipe: delt_jax's own by their names, all others by their paths."""

import ast
import functools
import os
import re
import runpy
from pathlib import Path
from typing import Any

from delt_jax.config import paths
from delt_jax.core.progress import say
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError

LISTED = "`delt_jax configs` lists the recipes"


def names() -> list[str]:
    """Names of delt_jax's own recipes."""
    return sorted(path.stem for path in paths.packaged_recipes().glob("[!_]*.py"))


def is_path(text: str) -> bool:
    """Whether a recipe is written as a path, rather than as a name.

    >>> [is_path(text) for text in ("digits", "digits.py", "./digits", "~/digits")]
    [False, True, True, True]
    """
    return text.endswith(".py") or text.startswith("~") or os.sep in text


def find(text: str, flag: str = "--config") -> str:
    """The file of a recipe, which is a name of delt_jax's own or a path.

    Args:
      text: as typed, without a colon and what follows it.
      flag: names the flag, for sentences.

    Raises:
      UserError: if there is none.
    """
    if is_path(text):
        if os.path.isfile(text):
            return text
        name = Path(text).stem
        meant = f"did you mean {flag}={name}?" if name in names() else f"{LISTED}."
        raise UserError(f"{flag}={text}: there is no such file; {meant}")
    beside = next((file for file in (f"{text}.py", text) if text and os.path.isfile(file)), "")
    if text in names():
        tell_of(text, beside, flag)
        return str(paths.packaged_recipes() / f"{text}.py")
    if beside:
        file = beside if is_path(beside) else f".{os.sep}{beside}"
        raise UserError(
            f"{flag}={text}: delt_jax has no recipe of this name; the file here is {flag}={file}."
        )
    hint = nearest(text, names())
    raise UserError(f"{flag}={text}: there is no such recipe{hint} {LISTED}.")


@functools.cache  # a comparison asks for every cell
def tell_of(name: str, beside: str, flag: str) -> None:
    """Says that a file is not taken that may be meant by a recipe's name, if there is one."""
    if beside:
        file = beside if is_path(beside) else f".{os.sep}{beside}"
        say(f"{flag}={name} is delt_jax's own recipe; the file here is {flag}={file}")


def describe(file: Path) -> str:
    """The first sentence of a recipe's or a method's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", first)[0]


def presets(file: Path) -> dict[str, dict[str, Any]]:
    """The presets of a recipe, the `PRESETS` of its file; {} if it has none."""
    return runpy.run_path(str(file)).get("PRESETS", {})
