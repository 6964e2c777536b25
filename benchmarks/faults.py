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
from typing import NamedTuple

import fault_inputs
import forks
from fault_cases import KINDS, Case

SECONDS = 60  # of a case; a run that makes everything again takes 10 on a quiet machine
MEMORY = 2 * 2**30  # resident bytes of a case
ADDRESSES = 24 * 2**30  # bytes that a case may map: XLA maps some, a claimed 10^12 is refused
OUTCOMES = ("accepted", "refused", "traceback", "hang", "crash")
RIGHT = ("accepted", "refused")


class Outcome(NamedTuple):
    """What came of a case: one of `OUTCOMES`, and the line that says why."""

    number: int
    kind: str
    what: str
    outcome: str
    why: str
    seconds: float


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
