"""Paths as people type them: `~` is expanded, what cannot be a path here is refused."""

import re
from pathlib import Path

import delt_jax
from delt_jax.errors import UserError

_LONGEST_NAME = 255  # bytes that Linux and macOS allow


def packaged_recipes() -> Path:
    """The folder of delt_jax's own recipes: of the installed package, else of the checkout."""
    package = Path(delt_jax.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def expand(text: str, what: str) -> str:
    """A path with `~` expanded.

    Args:
      text: as typed; empty stays empty.
      what: names flag or setting, for the sentence.

    Raises:
      UserError: for a URL, an unknown user, or a name that no file can have.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise UserError(
            f"{what} {text} is a URL, but only local paths are read and written; mount or copy it, "
            f"and name the local path."
        )
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"{what} {text!a} is not UTF-8; rename the file or folder.") from e
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UserError(f"{what} {text!r} has control characters; rename the file or folder.")
    if any(len(part.encode()) > _LONGEST_NAME for part in text.split("/")):
        raise UserError(
            f"{what} {text[:60]}... has a name of more than {_LONGEST_NAME} bytes, which no file "
            f"can have; shorten it."
        )
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as e:
        raise UserError(f"{what} {text}: there is no such user or home folder.") from e
