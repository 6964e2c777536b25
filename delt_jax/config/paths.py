"""Paths as people type them: `~` is expanded, what cannot be a path here is refused."""

import re
from pathlib import Path

import delt_jax
from delt_jax.errors import UserError
from delt_jax.store import remote

_LONGEST_NAME = 255  # bytes that Linux and macOS allow
_ELSEWHERE = ("hf:", "pkg:")  # as `delt_jax.models.torch_files` reads them


def packaged_recipes() -> Path:
    """The folder of delt_jax's own recipes: of the installed package, else of the checkout."""
    package = Path(delt_jax.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def expand(text: str, what: str) -> str:
    """A path that is read or written as a whole, on this machine or in an object store.

    Args:
      text: as typed; empty stays empty. `file://` becomes the local path.
      what: names flag or setting, for the sentence.

    Raises:
      UserError: for a URL of another kind or one whose file system is not installed, an unknown
        user, or a name that no file can have.
    """
    _check_names(text, what)
    text = remote.checked(text, what)
    return _with_home(text, what)


def expand_local(text: str, what: str, instead: str) -> str:
    """A path on this machine.

    Args:
      text: as typed; empty stays empty. `file://` becomes the local path.
      what: names flag or setting, for the sentence.
      instead: what to do instead of giving a URL, as a clause that ends the sentence.

    Raises:
      UserError: for a URL, an unknown user, or a name that no file can have.
    """
    text = remote.without_file_scheme(text)
    if remote.scheme_of(text):
        raise UserError(f"{what} {text} is a URL, and {instead}.")
    _check_names(text, what)
    return _with_home(text, what)


def expand_workdir(text: str, what: str = "--workdir") -> str:
    """The path of a work directory.

    Raises:
      UserError: as `expand_local`.
    """
    name = re.sub(r"^.*?://", "", text).strip("/") or "BUCKET/run"
    kept = text if remote.is_remote(text) else f"gs://{name}"
    return expand_local(
        text,
        what,
        f"locks and renames that keep a run whole need a local one; work locally, and add "
        f"--mirror={kept} to have finished work copied there",
    )


def expand_recipe(text: str, what: str) -> str:
    """FILE:VARIANTS with the path of the file expanded.

    Raises:
      UserError: as `expand_local`.
    """
    file = re.match(r"(?:\w[\w+.-]+://)?[^:]*", text)[0]  # type: ignore[index]
    instead = "a recipe is a file of this machine; copy it here"
    return expand_local(file, what, instead) + text[len(file) :]


def expand_mirror(text: str, what: str = "--mirror") -> str:
    """The URL where finished work is copied to; empty stays empty.

    Raises:
      UserError: for a local path, and as `expand`.
    """
    place = expand(text, what)
    if place and not remote.is_remote(place):
        raise UserError(
            f"{what} {text} is a local path, and a mirror lies in an object store "
            f"({remote.schemes()}); leave it out, or copy the work directory."
        )
    return place


def _check_names(text: str, what: str) -> None:
    if text.startswith(_ELSEWHERE) and not Path(text).exists():
        raise UserError(
            f"{what} {text} is no path: only teacher.weights takes what the Hugging Face Hub or "
            f"an installed package has; copy it to this machine."
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


def _with_home(text: str, what: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as e:
        raise UserError(f"{what} {text}: there is no such user or home folder.") from e
