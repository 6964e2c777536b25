"""benchmarks/mutations.py: its changes by hand, its draws, its verdicts, and a run in miniature."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import mutation_changes
import mutations


def texts(source: str, kind: str = "") -> list[str]:
    found = mutation_changes.changes(source)
    return [change.text() for change in found if kind in ("", change.kind)]


@pytest.mark.parametrize(
    ("source", "kind", "expected"),
    [
        ("a < b", "comparison", ["a < b  ->  a <= b", "a < b  ->  a >= b"]),
        ("a in b", "comparison", ["a in b  ->  a not in b"]),
        ("x = n - 1", "constant", ["n - 1  ->  n - 2", "n - 1  ->  n - 0"]),
        ("x = n - 1", "arithmetic", ["n - 1  ->  n + 1"]),
        ("x = a * (b / c)", "arithmetic", ["a * (b / c)  ->  a / (b / c)", "b / c  ->  b * c"]),
        ("x = 'a' + b", "arithmetic", []),
        ("x = y.mean(axis=1)", "axis", ["y.mean(axis=1)  ->  y.mean(axis=0)"]),
        ("x = y.std(ddof=d)", "argument", ["y.std(ddof=d)  ->  y.std()"]),
        ("x = Shape(size=d)", "argument", []),
        ("x = round(y, d)", "argument", ["round(y, d)  ->  round(y)"]),
        ("x = sorted(y)", "order", ["sorted(y)  ->  sorted(y, reverse=True)"]),
        ("x = np.argsort(y)", "order", ["x = np.argsort(y)  ->  x = np.argsort(y)[::-1]"]),
        ("x = max(a, b)", "name", ["max(a, b)  ->  min(a, b)"]),
        ("x = row.last_std", "name", ["row.last_std  ->  row.best_std"]),
        ("if not a:\n    pass", "sign", ["if not a  ->  if a"]),
        ("x = -a", "sign", ["x = -a  ->  x = a"]),
        (
            "if a and b:\n    pass",
            "condition",
            ["a and b  ->  a or b", "a and b  ->  b", "a and b  ->  a"],
        ),
        ("if a():\n    pass", "negation", ["if a()  ->  if not a()"]),
        ("def f() -> float:\n    return a", "negation", ["return a  ->  return -a"]),
        ("def f() -> bool:\n    return a", "negation", ["return a  ->  return not a"]),
        ("def f() -> str:\n    return a", "negation", []),
        ("x = y[a:b]", "slice", ["y[a:b]  ->  y[:b]", "y[a:b]  ->  y[a:]"]),
        ("x = 0.5", "constant", ["x = 0.5  ->  x = 1.0", "x = 0.5  ->  x = 0.25"]),
        ("x = True", "constant", ["x = True  ->  x = False"]),
        (
            "def f(n=3):\n    pass",
            "constant",
            ["def f(n=3)  ->  def f(n=4)", "def f(n=3)  ->  def f(n=2)"],
        ),
        ("x = f'{a:.2f}'", "digits", ["f'{a:.2f}'  ->  f'{a:.3f}'"]),
    ],
)
def test_changes_by_hand(source, kind, expected):
    assert texts(source, kind) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""1 < 2."""',
        "raise ValueError(f'{a + 1}')",
        "def f(a: 'x < 1' = None) -> 'int < 2':\n    pass",
        "@g(1)\ndef f():\n    pass",
        "print(a + 1)",
        "told = shown(names, 400)",
        "VERSION = 1",
        "import a",
        "zip(a, strict=True)",
    ],
)
def test_what_no_number_depends_on_is_left(source):
    assert texts(source) == []


def test_every_change_gives_another_module_that_parses():
    source = (ROOT / "delt_jax/evaluation/metrics.py").read_text(encoding="utf-8")
    plain = mutation_changes.plain(source)
    listed = mutation_changes.changes(source)
    changed = [mutation_changes.changed_source(source, i) for i in range(len(listed))]
    assert len(set(changed)) > 0.97 * len(changed)  # `a and b` loses a in two ways, at times
    assert plain not in changed
    for text, change in zip(changed, listed, strict=True):
        ast.parse(text)
        differ = [
            (a, b) for a, b in zip(plain.splitlines(), text.splitlines(), strict=True) if a != b
        ]
        assert len(differ) == 1, change
    with pytest.raises(IndexError):
        mutation_changes.changed_source(source, len(listed))
    assert "pairs / (n * (n - 1))  ->  pairs * (n * (n - 1))" in [c.text() for c in listed]
    assert {c.function for c in listed} >= {"aggregate", "ScoreRow.text", "calibration_error"}


def test_draws_are_even_and_follow_the_seed():
    modules = ["evaluation/metrics.py", "recovery/selection.py", "augment/mix.py"]
    drawn, equal = mutations.draw(20, 0, modules)
    assert [m.module for m in drawn] == (modules * 7)[:20]
    assert len({(m.module, m.number) for m in drawn}) == 20
    assert mutations.draw(20, 0, modules) == (drawn, equal)
    assert mutations.draw(20, 1, modules)[0] != drawn
    every, listed = mutations.draw(10**6, 0, modules)
    assert not [m for m in every if m.why_equal()]
    assert {m.why_equal() for m in listed} == {
        why for module in modules for why in mutations.EQUAL.get(module, {}).values()
    }


@pytest.mark.parametrize("module", mutations.ROOMS)
def test_rooms_and_equal_changes_are_there(module):
    source = (ROOT / "delt_jax" / module).read_text(encoding="utf-8")
    for name in mutations.ROOMS[module]:
        assert (ROOT / "tests" / name).is_file()
    there = {change.text() for change in mutation_changes.changes(source)}
    assert set(mutations.EQUAL.get(module, {})) <= there
    assert all(len(why) > 15 for why in mutations.EQUAL.get(module, {}).values())


def a_mutant():
    change = mutation_changes.Change(3, "f", "sign", "-a", "a")
    return mutations.Mutant("augment/mix.py", 0, change)


def test_verdicts():
    printed = "...\nFAILED tests/x.py::test_y - AssertionError\n1 failed\n"
    assert mutations.verdict(a_mutant(), 1, printed).by == "tests/x.py::test_y"
    assert mutations.verdict(a_mutant(), 1, printed).outcome == "noticed"
    assert mutations.verdict(a_mutant(), 2, "ERROR tests/x.py\n").by == "tests/x.py"
    assert mutations.verdict(a_mutant(), -signal.SIGSEGV, "").outcome == "noticed"
    assert mutations.verdict(a_mutant(), 0, "1 passed").outcome == "not noticed"
    assert mutations.verdict(a_mutant(), -signal.SIGKILL, "").outcome == "timed out"
    for status in (4, 5, 99):
        with pytest.raises(SystemExit, match="do not run"):
            mutations.verdict(a_mutant(), status, "")


def test_a_table_counts_by_module():
    verdicts = [mutations.Verdict(a_mutant(), o, "") for o in ("noticed", "noticed", "timed out")]
    assert mutations.table(verdicts)[2:] == ["| `augment/mix.py` | 3 | 2 | 0 | 1 |"]


def run(*flags):
    done = subprocess.run(
        [sys.executable, "benchmarks/mutations.py", "--jobs=1", "--all", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.exhaustive  # its parts are tested above
def test_a_run_in_miniature_leaves_the_checkout_as_it_was():
    path = ROOT / "delt_jax/recovery/selection.py"
    before = path.read_bytes()
    status, lines, errors = run("--modules=recovery/selection", "--count=3", "--seed=5")
    assert status == 0, errors
    found = [line for line in lines if line.startswith("noticed: delt_jax/recovery/selection.py:")]
    assert len(found) == 3
    assert all("(tests/recovery/test_selection.py::" in line for line in found)
    assert lines[-1].startswith("seed 5: 3 of 3 changes noticed (100.0 %)")
    assert path.read_bytes() == before
