"""Changes the package a little, again and again, and sees whether the tests of that room notice.

    python benchmarks/mutations.py [--count=150] [--seed=0] [--jobs=2] [--modules=metrics,mix]

Draws changes (see mutation_changes.py) with a seed, spread evenly over the modules of `ROOMS`,
makes each alone in a copy of the checkout, and runs the tests that the module's row names until one
fails. Prints every change that no test noticed, what came of each module, and the changes that are
listed as equal in `EQUAL`, which are not counted. Ends with status 1 if fewer than 95 % were
noticed; a change with which the tests do not end in time counts as not noticed.

Tests run in forks of one process that has the libraries imported, fastest test first. Before the
first change they run without one and must pass. docs/tests.md has the figures.
"""

import argparse
import functools
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import forks
import mutation_changes
from mutation_changes import Change

ROOT = forks.ROOT
NEEDED = 0.95
_COPIED = (
    *("delt_jax", "tests", "configs", "docs", "benchmarks", "launch"),
    *("setup.cfg", "pyproject.toml", "README.md", "Makefile", "LICENSE"),
)
_EXPORTS = (
    "formats/test_stored.py",
    "formats/test_export.py",
    "formats/test_hostile_sets.py",
    "formats/test_ownership.py",
    "formats/test_imported_sets.py",
)

# The modules whose numbers and files people read, each with the test files of its room.
ROOMS: dict[str, tuple[str, ...]] = {
    "augment/crop.py": ("augment/test_augment.py",),
    "augment/mix.py": ("augment/test_augment_views.py",),
    "augment/tables.py": ("augment/test_augment_operations.py", "augment/test_augment_policies.py"),
    "comparison/tables.py": ("comparison/test_comparison_tables.py",),
    "config/derive.py": ("config/test_derive.py",),
    "evaluation/dd_ranking.py": ("evaluation/test_dd_ranking.py",),
    "evaluation/metrics.py": ("evaluation/test_metrics.py",),
    "evaluation/score_store.py": ("evaluation/test_score_store.py",),
    "formats/class_folders.py": _EXPORTS,
    "formats/distilled.py": (*_EXPORTS, "store/test_store.py"),
    "formats/npz.py": _EXPORTS,
    "formats/own.py": _EXPORTS,
    "formats/parquet.py": _EXPORTS,
    "formats/pt.py": _EXPORTS,
    "formats/stored.py": _EXPORTS,
    "formats/tfds_directory.py": _EXPORTS,
    "labels/compact.py": ("labels/test_labels.py",),
    "labels/label_store.py": ("labels/test_labels.py",),
    "recovery/schedule.py": ("recovery/test_schedule.py",),
    "recovery/selection.py": ("recovery/test_selection.py",),
    "reporting/tables.py": ("reporting/test_tables.py",),
    "store/files.py": ("store/test_store.py",),
    "training/protocols.py": ("training/test_protocols.py",),
    "training/published_protocols.py": ("training/test_protocols.py",),
}
_WIDTHS = "mine.shape[1] != theirs.shape[1]"
_REASON = "(str(e).strip().splitlines() or [''])[0]"


def _lossless(path: str) -> dict[str, str]:
    """Changes of the default quality of a writer that has to take one and does not use it."""
    head = f"def write({path}: Path, content: DistilledSet, quality: int="
    return {f"{head}0)  ->  {head}{n})": "a lossless layout takes no quality" for n in (1, -1)}


# Changes with which nothing that anyone can see is different, by module, then as `Change.text`
# prints them, with the reason.
EQUAL: dict[str, dict[str, str]] = {
    "augment/crop.py": {
        "images.shape[1:3]  ->  images.shape[1:4]": "height and width are taken, not the rest",
        "view.roll[1]  ->  view.roll[2]": "JAX takes the last one for an index beyond it",
        "draws[_BOX_DRAWS] < 0.5  ->  draws[_BOX_DRAWS] <= 0.5": "a draw of exactly 1/2 comes once "
        "in eight million",
    },
    "augment/mix.py": {
        "images.shape[1]  ->  images.shape[2]": "views are square",
        "low[1]  ->  low[2]": "JAX takes the last one for an index beyond it",
        "high[1]  ->  high[2]": "JAX takes the last one for an index beyond it",
        "inside.mean((-2, -1), dtype=jnp.float32)  ->  inside.mean((-2, -1))": "float32 is what "
        "JAX gives a mean of truth values",
    },
    "config/derive.py": {
        "_STUDENT_IMAGES = 10000  ->  _STUDENT_IMAGES = 9999": "within 100 to 300 epochs both "
        "round to the same for every number of images",
    },
    "evaluation/metrics.py": {
        "members[0]  ->  members[-1]": "the members of a group have one learning rate and protocol",
    },
    "evaluation/score_store.py": {
        "trained.logits.argmax(-1)  ->  trained.logits.argmax(1)": "logits have two axes",
    },
    "formats/distilled.py": {
        "images[0]  ->  images[-1]": "the images before have one size",
    },
    "formats/npz.py": {
        **_lossless("path"),
        "np.zeros(0, str)  ->  np.ones(0, str)": "there is nothing in it",
    },
    "formats/own.py": _lossless("folder"),
    "formats/parquet.py": {
        **_lossless("folder"),
        "file.iter_batches(batch_size=_BATCH, columns=columns)  ->  "
        "file.iter_batches(columns=columns)": "only memory depends on the size of a batch",
        "shards[0]  ->  shards[-1]": "some shard differs from the last if one does from the first",
        f"mine is not None and theirs is not None and ({_WIDTHS})  ->  mine is not None and "
        f"{_WIDTHS}": "where one is missing, the lines above have said so",
        f"mine is not None and theirs is not None and ({_WIDTHS})  ->  theirs is not None and "
        f"{_WIDTHS}": "where one is missing, the lines above have said so",
    },
    "formats/pt.py": _lossless("path"),
    "formats/class_folders.py": {
        "(-1, p)  ->  (1, p)": "text is only compared with text, and numbers with numbers",
    },
    "formats/tfds_directory.py": {
        **_lossless("folder"),
        "_SHARD = 10000  ->  _SHARD = 10001": "no reader depends on the size of a shard",
        "_SHARD = 10000  ->  _SHARD = 9999": "no reader depends on the size of a shard",
        **{
            f"{_REASON}[:120]  ->  {_REASON}[:{end}]": "how much of a reason a sentence quotes"
            for end in ("119", "121", "")
        },
        "examples[0]  ->  examples[-1]": "TFDS gives every example the same features",
    },
    "labels/compact.py": {
        "jnp.asarray(compact.classes, jnp.int32)  ->  jnp.asarray(compact.classes)": "JAX takes "
        "unsigned indices, too",
    },
    "labels/label_store.py": {
        "digests[:plan.epochs]  ->  digests[:]": "what the file does not hold has no checksum",
        "expected > 0  ->  expected > -1": "a plan of no epochs or images is refused before",
        "expected > 0  ->  expected > 1": "an epoch has two bytes at least",
        "expected > 0  ->  expected >= 0": "a plan of no epochs or images is refused before",
        "len(digests) == plan.epochs and expected > 0  ->  len(digests) == plan.epochs": "a plan "
        "of no epochs or images is refused before",
    },
    "recovery/selection.py": {
        "n + 1  ->  n + 2": "offsets beyond the class are left out",
    },
    "reporting/tables.py": {
        "lines[0]  ->  lines[-1]": "there is one line",
        "values[0]  ->  values[-1]": "the last and the best epoch miss the same scores",
    },
    "store/files.py": {
        "np.load(path, allow_pickle=False)  ->  np.load(path)": "False is numpy's default",
    },
    "training/published_protocols.py": {
        f"{views}  ->  {views.replace('True', 'False')}": "data.flip takes the place of a "
        "protocol's flip"
        for views in (
            "ViewSpec('rand-m6-n2-mstd1.0', 1, 0.25, True, 'cutmix', 1.0)",
            "ViewSpec('', factor, 1 / factor, True, 'cutmix', 1.0)",
            "ViewSpec('', 1, 0.08, True, 'cutmix', 1.0)",
        )
    },
}


class Mutant(NamedTuple):
    """A change of a module, by its number in `mutation_changes.changes`."""

    module: str
    number: int
    change: Change

    def text(self) -> str:
        """Where it is and what it is."""
        where = f"delt_jax/{self.module}:{self.change.line} {self.change.function}"
        return f"{where}: {self.change.kind}: {self.change.text()}"

    def why_equal(self) -> str:
        """The reason in `EQUAL`, or nothing."""
        return EQUAL.get(self.module, {}).get(self.change.text(), "")


@dataclass
class Verdict:
    """What came of a mutant: "noticed", "not noticed" or "timed out", and the test that failed."""

    mutant: Mutant
    outcome: str
    by: str


@dataclass
class Order:
    """A plugin of pytest that measures tests, and that runs the fastest first.

    Attributes:
      known: seconds by the name of a test, to sort by.
      spent: the same, as measured.
    """

    known: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Adds the time of a test's set-up, call or end."""
        self.spent[report.nodeid] = self.spent.get(report.nodeid, 0.0) + report.duration

    def pytest_collection_modifyitems(self, items: list) -> None:
        """Sorts whole files by their time, and the tests of each by theirs."""
        of_file: dict[str, float] = {}
        for item in items:
            name = file_of(item.nodeid)
            of_file[name] = of_file.get(name, 0.0) + self.known.get(item.nodeid, 0.0)
        items.sort(
            key=lambda item: (of_file[file_of(item.nodeid)], self.known.get(item.nodeid, 0.0))
        )


def file_of(test: str) -> str:
    """File of a test by its name."""
    return test.split("::")[0]


@functools.cache
def source_of(module: str) -> str:
    """Source of a module as it is when it is first asked for."""
    return (ROOT / "delt_jax" / module).read_text(encoding="utf-8")


def draw(count: int, seed: int, modules: Sequence[str]) -> tuple[list[Mutant], list[Mutant]]:
    """Draws changes without replacement, one module after the other in turn.

    Returns:
      `count` mutants, or all there are; and those met on the way that `EQUAL` lists.
    """
    left = {}
    for module in modules:
        found = enumerate(mutation_changes.changes(source_of(module)))
        left[module] = [Mutant(module, number, change) for number, change in found]
        random.Random(f"{seed} {module}").shuffle(left[module])
    drawn: list[Mutant] = []
    equal: list[Mutant] = []
    while len(drawn) < count and any(left.values()):
        for module in modules:
            while left[module] and len(drawn) < count:
                mutant = left[module].pop()
                if mutant.why_equal():
                    equal.append(mutant)
                else:
                    drawn.append(mutant)
                    break
    return drawn, equal


class Copy:
    """A copy of the checkout in which one module at a time is changed.

    Its modules are without comments and layout from the start, as a changed one is.
    """

    def __init__(self, folder: Path, source: Path):
        """Copies the checkout, or another copy with what Python has compiled there."""
        self.folder = folder
        folder.mkdir()
        for name in _COPIED:
            ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
            if (source / name).is_dir():
                shutil.copytree(
                    source / name, folder / name, ignore=ignored if source == ROOT else None
                )
            elif (source / name).exists():
                shutil.copy(source / name, folder / name)
        if source == ROOT:
            for module in ROOMS:
                path = folder / "delt_jax" / module
                plain = mutation_changes.plain(path.read_text(encoding="utf-8"))
                path.write_text(plain, encoding="utf-8")

    def change(self, mutant: Mutant) -> None:
        """Makes the change. Its time is another than compiled modules were made from."""
        path = self.folder / "delt_jax" / mutant.module
        self._before = (path, path.read_bytes(), path.stat().st_mtime_ns)
        path.write_text(
            mutation_changes.changed_source(source_of(mutant.module), mutant.number),
            encoding="utf-8",
        )
        os.utime(path, (1, 1))

    def restore(self) -> None:
        """Takes the last change back."""
        path, content, changed_at = self._before
        path.write_bytes(content)
        os.utime(path, ns=(changed_at, changed_at))
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)


def fork_tests(copy: Path, files: Sequence[str], order: Order, log: Path, change: bool) -> int:
    """Starts the tests in a fork; returns its process id.

    Args:
      copy: folder whose tests and package are used.
      files: test files, below tests/.
      order: times of the tests.
      log: what pytest prints. Times that a run without a change measures are written beside it.
      change: whether there is a change; then the first failure ends the tests, and nothing that
        Python compiles is kept.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        forks.begin(log)
        os.chdir(copy)
        sys.dont_write_bytecode = change
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1" if change else ""
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, copy)]
        sys.path.insert(0, str(copy))
        import pytest

        given = [f"tests/{name}" for name in files] + (["-x"] if change else [])
        given += ["-q", "-rfE", "--hypothesis-seed=0", "-p", "no:cacheprovider", "--tb=line"]
        status = int(pytest.main(given, plugins=[order]))
        if not change:
            lines = [f"{seconds}\t{name}" for name, seconds in order.spent.items()]
            log.with_suffix(".times").write_text("\n".join(lines))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def measure(copy: Path, modules: Sequence[str], log: Path) -> dict[str, float]:
    """Seconds of each test without a change, by name.

    Raises:
      SystemExit: if a test fails, in its own order or in the order of its time.
    """
    seconds: dict[str, float] = {}
    for name in sorted({name for module in modules for name in ROOMS[module]}):
        for known in ({}, seconds):
            pid = fork_tests(copy, [name], Order(known), log, change=False)
            while (status := forks.ended(pid, time.monotonic() + 60)) is None:
                time.sleep(0.02)
            if status:
                raise SystemExit(f"tests/{name} fails without a change:\n{log.read_text()}")
            for line in log.with_suffix(".times").read_text().splitlines():
                spent, test = line.split("\t", 1)
                seconds[test] = float(spent)
    return seconds


def judged(
    mutants: Sequence[Mutant], copies: Sequence[Copy], seconds: dict[str, float], log: Path
) -> Iterator[Verdict]:
    """What comes of every mutant, one after the other in each copy."""
    waiting = list(mutants)[::-1]
    running: dict[int, tuple[Mutant, int, float]] = {}
    while waiting or running:
        for i, copy in enumerate(copies):
            own = log.with_name(f"{i}.log")
            if i not in running and waiting:
                mutant = waiting.pop()
                copy.change(mutant)
                files = ROOMS[mutant.module]
                names = {f"tests/{name}" for name in files}
                needed = sum(s for test, s in seconds.items() if file_of(test) in names)
                pid = fork_tests(copy.folder, files, Order(seconds), own, change=True)
                running[i] = (mutant, pid, time.monotonic() + 60 + 5 * needed)
            if i in running:
                mutant, pid, until = running[i]
                status = forks.ended(pid, until)
                if status is not None:
                    del running[i]
                    copy.restore()
                    yield verdict(mutant, status, own.read_text(errors="replace"))
        time.sleep(0.02)


def verdict(mutant: Mutant, status: int, printed: str) -> Verdict:
    """What the tests' exit status says of a mutant; SIGKILL means that their time was over.

    Raises:
      SystemExit: if there were no tests, or they could not be started.
    """
    if status in (0, -signal.SIGKILL):
        return Verdict(mutant, "timed out" if status else "not noticed", "")
    if status in (4, 5, 99):
        raise SystemExit(f"the tests of {mutant.module} do not run:\n{printed}")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", printed, re.MULTILINE)
    return Verdict(mutant, "noticed", failed[0] if failed else f"exit status {status}")


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Markdown: how many changes of each module were noticed."""
    lines = ["| module | changes | noticed | not noticed | timed out |", "|---|---|---|---|---|"]
    for module in ROOMS:
        own = [v.outcome for v in verdicts if v.mutant.module == module]
        if own:
            counts = (own.count(o) for o in ("noticed", "not noticed", "timed out"))
            lines.append(f"| `{module}` | {len(own)} | {' | '.join(map(str, counts))} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=150, help="number of changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument("--modules", default="", help="parts of modules' names, with commas")
    parser.add_argument("--all", action="store_true", help="print noticed changes, too")
    options = parser.parse_args()
    asked = options.modules.split(",")
    modules = [m for m in ROOMS if any(part in m for part in asked)]
    drawn, equal = draw(options.count, options.seed, modules)
    forks.warm()
    started, verdicts = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mutations_") as folder:
        first = Copy(Path(folder).resolve() / "copy0", ROOT)
        log = Path(folder) / "tests.log"
        seconds = measure(first.folder, modules, log)
        more = [
            Copy(Path(folder).resolve() / f"copy{i}", first.folder) for i in range(1, options.jobs)
        ]
        print(f"{len(seconds)} tests pass without a change", flush=True)
        for found in judged(drawn, [first, *more], seconds, log):
            verdicts.append(found)
            if options.all or found.outcome != "noticed":
                by = f" ({found.by})" if found.by else ""
                print(f"{found.outcome}: {found.mutant.text()}{by}", flush=True)
    for mutant in equal:
        print(f"equal: {mutant.text()}: {mutant.why_equal()}")
    print("\n".join(table(verdicts)))
    noticed = sum(v.outcome == "noticed" for v in verdicts)
    print(
        f"seed {options.seed}: {noticed} of {len(verdicts)} changes noticed "
        f"({100 * noticed / max(len(verdicts), 1):.1f} %) in {time.monotonic() - started:.0f} s; "
        f"{len(equal)} equal ones left out; {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {date.today()}"
    )
    return 0 if noticed >= NEEDED * len(verdicts) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
