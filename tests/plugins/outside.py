"""The package of docs/extending.md as if pip had installed it, without pip."""

import contextlib
import shutil
import sys
import tomllib
from pathlib import Path

from delt_jax.core import plugins

PACKAGE = Path(__file__).parent / "example_package"


@contextlib.contextmanager
def installed(folder: Path):
    """A context in which the package, or an edited copy, lies in a folder of sys.path.

    It is imported anew there, and nothing of it is left afterwards, as in a new process.
    """
    if not (folder / "delt_example").exists():
        shutil.copytree(PACKAGE / "delt_example", folder / "delt_example")
    declare(folder, tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"])
    sys.path.insert(0, str(folder))
    forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget()


def forget() -> None:
    """Forgets what has been imported of the package, and what was named."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "delt_example"]:
        del sys.modules[name]
    plugins.forget()


def declare(folder: Path, project: dict) -> None:
    """Writes what importlib.metadata reads of an installed package."""
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
