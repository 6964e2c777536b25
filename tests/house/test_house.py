"""Rules of the house that no linter has: lengths, names, privacy, and the size of the README.

An exception carries its reason in a comment on the line that breaks the rule:
`# house: more lines, because ...`, likewise `same name` and `private`.
"""

import ast
import configparser
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "delt_jax").rglob("*.py"))
READERS = [
    *PACKAGE,
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted(ROOT.glob("tests/**/*.py")),
]
MOST_LINES, MOST_IN_A_FILE, MOST_WORDS = 60, 400, 950


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def excused(path: Path, line: int, rule: str) -> bool:
    """Whether a line says why it breaks a rule."""
    mark, text = f"# house: {rule}, because ", path.read_text().splitlines()[line - 1]
    return len(text.partition(mark)[2]) > 10


def long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES and not excused(path, node.lineno, "more lines"):
                yield f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines"


def private_reads(path: Path) -> Iterator[str]:
    """Names with an underscore that a module takes from another module of delt_jax."""
    tree, modules = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("delt_jax"):
            for alias in node.names:
                modules.add(alias.asname or alias.name)
                if is_private(alias.name) and not excused(path, node.lineno, "private"):
                    yield f"{name_of(path)}:{node.lineno} imports {alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            foreign = node.value.id in modules and is_private(node.attr)
            if foreign and not excused(path, node.lineno, "private"):
                yield f"{name_of(path)}:{node.lineno} reads {node.value.id}.{node.attr}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if parts[0] == "delt_jax" and len(parts) > 2 and is_private(parts[-1]):
                yield f"{name_of(path)}:{node.lineno} names {node.value}"


def is_private(name: str) -> bool:
    standard = ("_replace", "_asdict", "_fields", "_cache_size")  # of NamedTuple and jax.jit
    return name.startswith("_") and not name.startswith("__") and name not in standard


def classes() -> dict[str, list[str]]:
    """Where classes of each name are defined."""
    found = defaultdict(list)
    for path in PACKAGE:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not excused(path, node.lineno, "same name"):
                found[node.name].append(f"{name_of(path)}:{node.lineno}")
    return found


def test_functions_are_short():
    assert not [line for path in PACKAGE for line in long_functions(path)]


def test_files_have_one_subject():
    long = {
        name_of(p): n for p in PACKAGE if (n := len(p.read_text().splitlines())) > MOST_IN_A_FILE
    }
    assert not long


def test_no_class_name_means_two_things():
    assert not {name: places for name, places in classes().items() if len(places) > 1}


def test_no_module_reads_what_another_keeps_private():
    assert not [line for path in READERS for line in private_reads(path)]


def test_the_map_of_the_docs_has_the_floors_that_lint_holds():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    layers = settings["importlinter:contract:floors"]["layers"].strip().splitlines()
    page = (ROOT / "docs/how_it_works.md").read_text()
    table = page[page.index("| floor | holds |") :].split("\n\n")[0].splitlines()[2:]
    floors = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table]
    assert floors == [re.findall(r"delt_jax\.(\w+)", layer) for layer in layers]


def test_every_file_that_the_docs_link_is_there():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{name_of(page)}: {link}"


def test_the_readme_is_read():
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from delt_jax.store import _private\n", ["imports _private"]),
        ("from delt_jax.store import files\nfiles._private()\n", ["reads files._private"]),
        ("x = 'delt_jax.store.files._private'\n", ["names delt_jax.store.files._private"]),
        ("from delt_jax.store import files\nfiles.public._asdict()\n", []),
        ("self._own()\n", []),
    ],
)
def test_private_reads_are_found(text, found, monkeypatch, tmp_path):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(text)
    assert [line.split(" ", 1)[1] for line in private_reads(path)] == found


def test_exceptions_need_a_reason(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "a = 1  # house: private, because the cache has no other door\nb = 2  # house: private\n"
    )
    assert excused(path, 1, "private")
    assert not excused(path, 1, "more lines")
    assert not excused(path, 2, "private")
