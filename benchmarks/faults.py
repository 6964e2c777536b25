"""Hands delt_jax bad inputs, seeded, and counts what comes of them.

    python benchmarks/faults.py [--count=600] [--seed=0] [--jobs=2] [--kinds=sets,run] [--only=N]

Every case damages one good input (see fault_changes.py) or one command line, and gives it to the
reader, stage or command that people would give it to, in a process of its own with a time and a
memory limit. Right is: accepted, or one sentence as `UserError`; of a command exit status 0, or 1
or 2 with one line "delt_jax: ..." on stderr. All else is a traceback, a hang or a crash, and is
printed with how to see it again. Ends with status 1 if there was one.

Cases run in forks of one process that has the package imported. `--only=N` runs one case, keeps its
input and shows what it printed.
"""

import argparse
import importlib
import os
import pkgutil
import platform
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import fault_changes
import fault_inputs
import forks

SECONDS = 60  # of a case; a run that makes everything again takes 10 on a quiet machine
MEMORY = 2 * 2**30  # resident bytes of a case
ADDRESSES = 24 * 2**30  # bytes that a case may map: XLA maps some, a claimed 10^12 is refused
OUTCOMES = ("accepted", "refused", "traceback", "hang", "crash")
RIGHT = ("accepted", "refused")


class Case(NamedTuple):
    """A bad input and who gets it.

    Attributes:
      kind: what was damaged, a key of `KINDS`.
      what: what was done to it.
      act: gives it to delt_jax: returns None, or the exit status of a command.
    """

    kind: str
    what: str
    act: Callable[[], int | None]


class Outcome(NamedTuple):
    """What came of a case: one of `OUTCOMES`, and the line that says why."""

    number: int
    kind: str
    what: str
    outcome: str
    why: str
    seconds: float


def a_copy(base: Path, place: Path) -> Path:
    """A copy of a file or folder, with its name, in the case's own folder."""
    target = place / base.name
    if base.is_dir():
        shutil.copytree(base, target, symlinks=True)
    else:
        shutil.copy(base, target)
    return target


def damaged(base: Path, place: Path, draw: random.Random) -> tuple[Path, str]:
    """A damaged copy of a file or folder."""
    path = a_copy(base, place)
    if path.is_dir():
        return path, fault_changes.damage_folder(path, draw)
    return path, fault_changes.damage_file(path, draw)


def of_set(bases: Path, place: Path, draw: random.Random) -> Case:
    """A distilled set in any layout, loaded or exported."""
    base = draw.choice(sorted((bases / "sets").iterdir()))
    if base.suffix == ".pt" and base.stem == "set" and draw.random() < 0.5:
        path = a_copy(base, place)
        content, what = fault_changes.damage_pickle(path.read_bytes(), draw)
        path.write_bytes(content)
    else:
        path, what = damaged(base, place, draw)
    names = draw.choice(((), (), (), ("a", "b", "c"), ("a",), ("a", "a", "a"), ("",) * 3))
    constants = draw.choice(((), (), (0.5,), (0.5, 0.5, 0.5), (0.0,), (float("nan"),)))
    if base.name == "mtt":
        constants = constants or (0.5,)
    if draw.random() < 0.25:
        to = draw.choice(("npz", "folder", "parquet", "distilled", "new000", "tfds"))
        line = [f"--to={to}", f"--out={place / 'out'}", str(path)]
        return Case("", f"{base.name}: {what}: export {to}", lambda: command("export", line))

    def act() -> None:
        import delt_jax

        delt_jax.load(path, class_names=names, mean=constants, std=constants)

    return Case("", f"{base.name}: {what}", act)


def of_data(bases: Path, place: Path, draw: random.Random) -> Case:
    """Real images of any source, opened and read."""
    base = draw.choice(sorted(p for p in (bases / "data").iterdir() if p.suffix != ".txt"))
    settings: dict[str, Any] = {"workers": 0, "image_size": draw.choice((0, 0, 4, 16))}
    what = ""
    if draw.random() < 0.15 and base.name in ("whole.npz", "flat", "splits"):
        path = a_copy(base, place)
        classes, what = damaged(bases / "data/classes.txt", place, draw)
        settings["classes"] = str(classes)
    else:
        path, what = damaged(base, place, draw)
    name = {"flat": "folder", "splits": "folder", "plain": "idx", "zipped": "idx", "tfds": "tfds"}
    settings |= {"name": name.get(base.name, "npz"), "path": str(path)}
    if settings["name"] == "idx":
        settings["image_size"] = 0
    if settings["name"] == "tfds":
        settings["dataset"] = "tiny_animals"
    if settings["name"] == "folder":
        settings["unreadable"] = draw.choice(("stop", "skip"))

    def act() -> None:
        from delt_jax.data import batches, measure_normalisation, open_source
        from delt_jax.recipe import DataRecipe

        recipe = DataRecipe(**settings)
        source = open_source(recipe)
        measure_normalisation(recipe, source)
        for split in (source.train, source.test):
            for _ in batches(split, 8):
                pass

    return Case("", f"{base.name}: {what}", act)


def of_teacher(bases: Path, place: Path, draw: random.Random) -> Case:
    """A file of weights, given to the squeeze stage."""
    base = draw.choice(sorted((bases / "teachers").iterdir()))
    if base.name == "teacher.pth" and draw.random() < 0.5:
        path = a_copy(base, place)
        content, what = fault_changes.damage_pickle(path.read_bytes(), draw)
        path.write_bytes(content)
    elif base.name.endswith("d.pth") and draw.random() < 0.5:
        path = a_copy(base, place)
        content, what = fault_changes.damage_zip(path.read_bytes(), draw)
        path.write_bytes(content)
    else:
        path, what = damaged(base, place, draw)
    if draw.random() < 0.3:
        mean, std = fault_inputs.MEAN_STD
        line = [*fault_inputs.TINY, f"--config.teacher.weights={path}", "--stages=squeeze"]
        line += [f"--config.data.mean={mean},", f"--config.data.std={std},"]
        line += [f"--workdir={place / 'run'}"]
        return Case("", f"{base.name}: {what}: squeeze", lambda: command("main", line))

    def act() -> None:
        from delt_jax.models import ModelSpec, torch_files, torch_weights

        state = torch_files.read(path)
        torch_weights.from_torch(state, ModelSpec("conv3", 10, 8, 1, 8))

    return Case("", f"{base.name}: {what}", act)


def of_run(bases: Path, place: Path, draw: random.Random) -> Case:
    """A file of a finished run; then the run, its plan, an export or a comparison's reader."""
    path, what = damaged(bases / "run", place, draw)
    how = draw.choice(("run", "run", "run", "run", "plan", "plan", "load", "export", "students"))
    line = [*fault_inputs.TINY, f"--workdir={path}"]
    if how == "plan":
        line.append("--dry_run")
    if how == "students":
        line.append("--config.evaluate.seeds=2")
    if how == "export":
        line = ["--to=npz", f"--out={place / 'out.npz'}", str(path)]
        return Case("", f"{what}: export", lambda: command("export", line))
    if how != "load":
        return Case("", f"{what}: {how}", lambda: command("main", line))

    def act() -> None:
        import delt_jax
        from delt_jax.comparison import tables
        from delt_jax.errors import UserError

        first: UserError | None = None
        for read in (lambda: delt_jax.load(path), lambda: tables.read(path, "own")):
            try:
                read()
            except UserError as e:
                first = first or e
        if first is not None:
            raise first

    return Case("", f"{what}: load", act)


def of_config(bases: Path, place: Path, draw: random.Random) -> Case:
    """A config file, planned by main or compare."""
    path, what = damaged(bases / "config/own.py", place, draw)
    if draw.random() < 0.4:
        extra = draw.choice(
            ("import sys; sys.exit(0)", "raise SystemExit('bye')", "1 / 0", "x = ",
             "config.ipc = 'a'", "config.nothing = 1", "return None", "return 3",
             "del config.seed", "exit()",
             "config.recover = 3", "config.seed = 10**30",
             "import nothing_of_that_name", "raise RecursionError", "config.ipc = float('nan')",
             "config.teacher.model = None", "config.data.class_names = {1: 2}")
        )  # fmt: skip
        place_of = "    config = default_config()\n"
        good = (bases / "config/own.py").read_text(encoding="utf-8")
        at_top = extra.startswith(("import", "x", "raise")) and draw.random() < 0.5
        text = f"{extra}\n{good}" if at_top else good.replace(place_of, f"{place_of}    {extra}\n")
        path.write_text(text, encoding="utf-8")
        what = f"own.py with {extra!r}"
    workdir = f"--workdir={place / 'run'}"
    if draw.random() < 0.25:
        line = [f"--configs={path}", workdir, "--dry_run"]
        return Case("", f"{what}: compare", lambda: command("compare", line))
    variant = draw.choice(("", "", ":", ":x", ":ipc=3", ":ü", ":a,b", "::"))
    line = [f"--config={path}{variant}", workdir, "--dry_run"]
    return Case("", f"{what}{variant}: main", lambda: command("main", line))


ODD_VALUES = (
    "", " ", "-1", "0", "1", "2", "1e400", "nan", "inf", "-inf", "9" * 30, "2147483648", "1e308",
    "None", "True", "abc", "'", "(1,", "[[[", "{}", "()", "(,)", "a" * 4000, "ü💥", "../..",
    "1,2,3", "-0.0", "1e-320", "0x10", "1_0", "٣", "__import__('os')", "a=1", "=", "1;2", "\n",
    "-", "--", "'a',",
    "/dev/null", "100000", "0.999999999", "0.5",
)  # fmt: skip
ODD_PATHS = (
    "", " ", "/dev/null", "/dev/full", "/proc/self/mem", "/nowhere/at/all", "a" * 300, "x/" * 3000,
    "~", "~nobody_of_this_name/x", "s3://bucket/x", "gs://b/x", "file:///tmp/x", "http://x/y",
    "a\nb", "ü💥", "-x", ".", "..", "/", "a,b", "a:b", "C:\\x", "\udcff\udcfe", "*", "a b",
)  # fmt: skip


def of_main(bases: Path, place: Path, draw: random.Random) -> Case:
    """Settings and flags of a run with odd values; planned, or its first stage run."""
    from delt_jax.recipe import SETTINGS

    line = [*fault_inputs.TINY]
    what = []
    workdir = f"--workdir={place / 'run'}"
    for _ in range(draw.choice((1, 1, 1, 2))):
        name = draw.choice(sorted(SETTINGS))
        value = draw.choice(ODD_VALUES)
        way = draw.random()
        if way < 0.6:
            given = f"--config.{name}={value}"
        elif way < 0.7:
            given = draw.choice(
                (f"--config.{name}", f"--noconfig.{name}", f"--config.{name[:-1]}={value}",
                 f"--config..{name}={value}", "--config.=1", "--config.recover=1", "---", "--",
                 "positional", "-h=3", "--config", "--workdir", "--help=x", "--flagfile=/dev/null",
                 "--flagfile=/nowhere", "--undefok=x", "--dry_run=maybe")
            )  # fmt: skip
        elif way < 0.8:
            given = f"--stages={draw.choice((*ODD_VALUES, 'squeeze,squeeze', 'report', 'rank,x'))}"
        elif way < 0.9:
            flag = draw.choice(
                ("num_processes", "process_id", "coordinator_address", "distributed")
            )
            given = f"--{flag}={value}"
        else:
            where = draw.choice(ODD_PATHS)
            option = draw.choice(
                ("workdir", "config", "config.data.path", "config.teacher.weights")
            )
            given = f"--{option}={where}"
            if option == "workdir":
                workdir = given
                continue
        line.append(given)
        what.append(given[:80])
    real = draw.random() < 0.15
    line += [workdir, *([] if real else ["--dry_run"])]
    if real and not any(g.startswith("--stages") for g in line):
        line.append("--stages=squeeze")
    told = " ".join([*what, workdir[:80], "" if real else "--dry_run"])
    return Case("", told, lambda: command("main", line))


def of_export(bases: Path, place: Path, draw: random.Random) -> Case:
    """Flags of an export with odd values."""
    source = a_copy(draw.choice(sorted((bases / "sets").iterdir())), place)
    given = {
        "to": draw.choice(("npz", "folder", "new000", "parquet", "distilled", "tfds")),
        "out": str(place / "out"),
    }
    flag = draw.choice(
        ("to", "out", "per_class", "quality", "class_names", "mean", "std", "overwrite", "source")
    )
    odd = draw.choice(ODD_PATHS if flag in ("out", "class_names", "source") else ODD_VALUES)
    paths = [str(source)]
    if flag == "source":
        paths = draw.choice(([odd], [odd, str(source)], [str(place)], []))
    elif flag == "class_names" and draw.random() < 0.7:
        names, how = damaged(bases / "data/names.txt", place, draw)
        given[flag] = str(names)
        odd = how
    elif flag == "out" and draw.random() < 0.5:
        given[flag] = odd = str(draw.choice((source, place, source / "images", place / "x/y/z")))
        if draw.random() < 0.5:
            given["overwrite"] = "true"
    else:
        given[flag] = odd
    line = [*(f"--{name}={value}" for name, value in given.items()), *paths]
    return Case(
        "",
        f"{source.name}: --to={given['to'][:20]} {flag} {odd[:60]!r}",
        lambda: command("export", line),
    )


def of_compare(bases: Path, place: Path, draw: random.Random) -> Case:
    """Flags of a comparison's plan with odd values."""
    own = str(forks.ROOT / "configs/digits.py")
    given = {"configs": own, "ipc": "1,2", "workdir": str(place / "grid")}
    flag = draw.choice(("configs", "ipc", "seeds", "workdir", "setting", "extra"))
    odd = draw.choice(ODD_PATHS if flag in ("configs", "workdir") else ODD_VALUES)
    more = []
    if flag == "configs":
        odd = draw.choice((odd, f"{own}:{odd}", f"{own},{odd}", f"{odd},{own}", f"{own},{own}"))
    if flag == "setting":
        from delt_jax.recipe import SETTINGS

        more = [f"--config.{draw.choice(sorted(SETTINGS))}={odd}"]
    elif flag == "extra":
        more = [
            draw.choice(("x", "--nothing=1", "--help", "-z", "--config=a.py", "--keep_going=x"))
        ]
        odd = more[0]
    else:
        given[flag] = odd
    line = [*(f"--{name}={value}" for name, value in given.items()), *more, "--dry_run"]
    return Case("", f"{flag} {(more or [odd])[0][:80]!r}", lambda: command("compare", line))


KINDS: dict[str, tuple[Callable[[Path, Path, random.Random], Case], int, tuple[str, ...]]] = {
    # Its cases, how many of them to each of the others, and the good inputs that it needs.
    "sets": (of_set, 6, ("sets",)),
    "data": (of_data, 5, ("data",)),
    "teachers": (of_teacher, 3, ("teachers",)),
    "run": (of_run, 5, ("run",)),
    "config": (of_config, 2, ("config",)),
    "main": (of_main, 4, ()),
    "export": (of_export, 3, ("sets", "data")),
    "compare": (of_compare, 2, ()),
}


def command(name: str, arguments: Sequence[str]) -> int:
    """Exit status of a command line, as its module's `main` gives it."""
    module = importlib.import_module(f"delt_jax.{name}")
    try:
        return module.main([name, *arguments])
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 0 if e.code is None else 1


def kind_of(number: int, kinds: Sequence[str]) -> str:
    """Kinds take turns, each as often as its weight says."""
    turns = [
        (i / KINDS[kind][1], k, kind) for k, kind in enumerate(kinds) for i in range(KINDS[kind][1])
    ]
    return sorted(turns)[number % len(turns)][2]


def make_case(number: int, seed: int, kinds: Sequence[str], bases: Path, place: Path) -> Case:
    """The case with this number, and its input in the folder `place`."""
    draw = random.Random(f"{seed} {number}")
    kind = kind_of(number, kinds)
    return KINDS[kind][0](bases, place, draw)._replace(kind=kind)


def fork_case(case: Case, place: Path, log: Path) -> int:
    """Starts a case in a fork; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 97
    try:
        forks.begin(log)
        os.chdir(place)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = give(case)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def give(case: Case) -> int:
    """Gives the input to delt_jax; returns 0, or 1 or 2 with one line on stderr."""
    from delt_jax.errors import UserError

    try:
        return case.act() or 0
    except UserError as e:
        print(f"delt_jax: {e}", file=sys.stderr)
        return 1


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def judge(status: int, printed: str, because: str) -> tuple[str, str]:
    """Outcome of a case, and why, by its exit status, its output, and why it had to be ended."""
    lines = [line for line in printed.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if because:
        return ("hang" if because == "time" else "crash"), because
    if status < 0:
        return "crash", f"signal {-status}"
    if "Traceback (most recent call last)" in printed or "Exception ignored" in printed:
        raised = [
            line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)
        ]
        return "traceback", (raised or lines)[-1]
    if status == 0:
        return "accepted", last
    told = [line for line in lines if line.startswith("delt_jax: ")]
    if status in (1, 2) and len(told) == 1 and last == told[0] and len(last) < 10_000:
        return "refused", last
    return "traceback", f"exit status {status} with {len(told)} sentences, at last {last!r}"


class Running(NamedTuple):
    """A case that has been started."""

    number: int
    case: Case
    pid: int
    started: float


def outcomes(
    numbers: Sequence[int], make: Callable[[int, Path], Case], folder: Path, jobs: int
) -> Iterator[Outcome]:
    """What comes of every case, several at a time.

    Args:
      numbers: of the cases.
      make: makes a case and its input in an empty folder.
      folder: where the inputs and outputs are.
      jobs: cases at a time.
    """
    waiting = list(numbers)[::-1]
    running: dict[int, Running] = {}
    while waiting or running:
        for slot in range(jobs):
            place, log = folder / f"case{slot}", folder / f"case{slot}.log"
            if slot not in running and waiting:
                clear(place)
                place.mkdir()
                number = waiting.pop()
                case = make(number, place)
                running[slot] = Running(number, case, fork_case(case, place, log), time.monotonic())
            if slot in running:
                now = running[slot]
                because = ""
                if time.monotonic() > now.started + SECONDS:
                    because = "time"
                elif resident(now.pid) > MEMORY:
                    because = "memory"
                status = forks.ended(now.pid, 0.0 if because else now.started + 10**6)
                if status is not None:
                    del running[slot]
                    seconds = time.monotonic() - now.started
                    printed = log.read_text(encoding="utf-8", errors="replace")
                    outcome, why = judge(status, printed, because)
                    yield Outcome(now.number, now.case.kind, now.case.what, outcome, why, seconds)
        time.sleep(0.01)


def clear(place: Path) -> None:
    """Deletes a case's folder, whatever its files allow."""
    for folder, _, _ in os.walk(place):
        os.chmod(folder, 0o700)
    shutil.rmtree(place, ignore_errors=True)


def prepare(kinds: Iterable[str], bases: Path) -> None:
    """Makes the good inputs, each in a fork, so that nothing starts JAX in this process.

    Raises:
      SystemExit: if one cannot be made.
    """
    bases.mkdir()
    for name in dict.fromkeys(need for kind in kinds for need in KINDS[kind][2]):
        log = bases / f"{name}.log"
        make, target = fault_inputs.MAKERS[name], bases / name

        def act(make=make, target=target) -> None:
            make(target)

        pid = fork_case(Case(name, "", act), bases, log)
        while (status := forks.ended(pid, time.monotonic() + 600)) is None:
            time.sleep(0.02)
        if status:
            raise SystemExit(f"the input {name} cannot be made:\n{log.read_text()}")
        log.unlink()


def import_package() -> None:
    """Imports every module of the package, so that forks start with them."""
    import delt_jax

    for module in pkgutil.walk_packages(delt_jax.__path__, "delt_jax."):
        importlib.import_module(module.name)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands listen from their import


def table(found: Sequence[Outcome]) -> list[str]:
    """Markdown: how many cases of each kind had which outcome."""
    lines = [f"| input | cases | {' | '.join(OUTCOMES)} |", "|---" * (2 + len(OUTCOMES)) + "|"]
    for kind in KINDS:
        own = Counter(o.outcome for o in found if o.kind == kind)
        if own:
            counts = " | ".join(str(own[outcome]) for outcome in OUTCOMES)
            lines.append(f"| {kind} | {own.total()} | {counts} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of inputs, with commas")
    parser.add_argument("--only", type=int, default=None, help="number of a single case")
    parser.add_argument("--all", action="store_true", help="print every case")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if kind in options.kinds.split(",")]
    numbers = range(options.count) if options.only is None else [options.only]
    started, found = time.monotonic(), []
    folder = Path(tempfile.mkdtemp(prefix="faults_")).resolve()
    sys.path.insert(0, str(forks.ROOT))
    forks.warm()
    import_package()
    try:
        prepare(dict.fromkeys(kind_of(number, kinds) for number in numbers), folder / "good")

        def make(number: int, place: Path) -> Case:
            return make_case(number, options.seed, kinds, folder / "good", place)

        for one in outcomes(numbers, make, folder, options.jobs):
            found.append(one)
            if options.all or one.outcome not in RIGHT:
                print(
                    f"{one.number} {one.kind} {one.outcome}: {one.what!r}: {one.why[:300]}",
                    flush=True,
                )
    finally:
        if options.only is None:
            for place in folder.iterdir():
                clear(place)
            shutil.rmtree(folder, ignore_errors=True)
    if options.only is not None:
        print((folder / "case0.log").read_text(encoding="utf-8", errors="replace"))
        print(f"its input: {folder / 'case0'}")
    print("\n".join(table(found)))
    wrong = sum(o.outcome not in RIGHT for o in found)
    again = f"--seed={options.seed} --kinds={','.join(kinds)} --only=N"
    print(
        f"seed {options.seed}: {len(found) - wrong} of {len(found)} right in "
        f"{time.monotonic() - started:.0f} s; each again with {again}; {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {date.today()}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
