"""Says in a sentence what a flag parser or a config file raised."""

import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import delt_jax
from delt_jax.core.spelling import nearest
from delt_jax.recipe import SETTINGS

_NOT_A_USERS = (*sysconfig.get_paths().values(), str(Path(delt_jax.__file__).parent))


def sentence(error: BaseException) -> str:
    """One line, without a traceback, that names file and line where a config file failed."""
    text = str(error.args[0]) if error.args else type(error).__name__
    where = place(error)
    at = f" ({where})" if where else ""
    if isinstance(error, SystemExit):
        return f"The --config file{at} ends the program; it must return a ConfigDict."
    unknown = re.search(r'Key "(\w+)" does not exist', text)
    if unknown:
        hint = nearest(unknown[1], list(SETTINGS))
        return f"The --config file{at} sets {unknown[1]!r}, but there is no such setting{hint}"
    if "get_config() takes 0 positional arguments" in text:
        return "This recipe has no variants; leave out the colon and what follows it."
    if "Traceback (most recent call last)" in text:
        text = f"The --config file failed{at}: {text.strip().splitlines()[-1]}"
    elif where:
        text = f"The --config file failed{at}: {type(error).__name__}: {text}"
    return re.sub(r"\s+", " ", text).strip()


def place(error: BaseException) -> str:
    """File and line of the user's that an error comes from; empty if it is from elsewhere."""
    own = [f"{file}, line {line}" for file, line in _frames(error) if _is_users(file)]
    return own[-1] if own else ""


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    """Files and lines that an error passed through, the innermost last."""
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename, frame.lineno or 0
    # ml_collections raises some errors again, with their traceback as text.
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', str(error)):
        yield file, int(line)
    if isinstance(error, SyntaxError) and error.filename:
        yield error.filename, error.lineno or 0


def _is_users(file: str) -> bool:
    """Whether a file is neither Python's, nor a package's, nor ours."""
    return not file.startswith(("<", *_NOT_A_USERS))
