"""What is installed, and the command `delt_jax`; .ci/install builds and installs it."""

import ast
import fnmatch
import re
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import yaml

import delt_jax
from delt_jax import __main__ as program
from delt_jax.config import usage
from delt_jax.recipe import SETTINGS
from delt_jax.stages import pipeline

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "delt_jax"
ALL = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = ALL["project"], ALL["tool"]["setuptools"]


def test_every_package_is_listed():
    """One that is not would be missing from what is installed."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    folders |= {path.parent for path in (ROOT / "configs").rglob("*.py")}
    found |= {"delt_jax.configs", "delt_jax.configs.methods"}
    assert sorted(found) == SETUPTOOLS["packages"]
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert SETUPTOOLS["package-dir"] == {"delt_jax.configs": "configs"}


def test_every_other_file_is_installed():
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, given in SETUPTOOLS["package-data"].items()
        for pattern in given
    ]
    others = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert len(others) >= 7
    for path in others:
        name = path.relative_to(ROOT).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def imported() -> set[str]:
    """Names of the packages of others that delt_jax imports anywhere."""
    names: set[str] = set()
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"delt_jax"}


def test_what_is_imported_is_required():
    def plain(name: str) -> str:
        return re.split(r"[^\w.-]", name)[0].lower().replace("_", "-")

    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in extras if name != "test")]
    required = {plain(requirement) for requirements in lists for requirement in requirements}
    providers = metadata.packages_distributions()
    for name in imported():
        assert {plain(d) for d in providers.get(name, [name])} & required, name


def called(*arguments: str) -> int:
    """The exit status of a command line."""
    try:
        return program.status(["delt_jax", *arguments])
    except SystemExit as e:
        return e.code


def test_the_console_command_has_its_commands(capsys):
    module, _, function = PROJECT["scripts"]["delt_jax"].partition(":")
    assert getattr(import_module(module), function) is program.main
    assert called() == 2
    shown = capsys.readouterr().out
    for name, command in program.COMMANDS.items():
        assert f"  {name} " in shown
        assert called(name, "--help") == called(name, "--version") == 0
        assert f"delt_jax {name}" in capsys.readouterr().out
        assert callable(import_module(command.module).main)
    assert called("rum", "--config=digits") == called("--config=digits") == 2
    errors = capsys.readouterr().err.splitlines()
    assert "did you mean run?" in errors[0]
    assert "try delt_jax run --config=digits" in errors[1]


def test_help_has_every_setting_with_default_meaning_and_choices(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "72")
    assert called("--help") == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    for name, setting in SETTINGS.items():
        assert f"\n  {name} = " in shown
        assert " ".join(setting.meaning.split()) in words
        for choice in setting.choices:
            assert str(choice) in words
    assert "recover.iterations = 4000" in shown
    assert "One of class_major, whole_classes, one_per_class." in words
    assert "--distributed=off|auto" in shown
    assert all(len(line) <= 88 for line in shown.splitlines())
    assert tuple(usage.STAGES) == pipeline.NAMES
    assert called("run", "--help", "teacher") == called("run", "--help=teacher") == 0
    first, second = capsys.readouterr().out.split("teacher: The teacher")[1:]
    assert first == second
    assert "teacher.epochs = " in first
    assert "recover.iterations =" not in first
    assert called("run", "--help=taecher") == 2
    assert "did you mean teacher?" in capsys.readouterr().err
    assert called("run", "--version") == 0
    assert capsys.readouterr().out.startswith(f"delt_jax {delt_jax.__version__} (Python 3.")


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == delt_jax.__version__
    assert citation["license"] == PROJECT["license"]
    assert f"\n## {delt_jax.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
