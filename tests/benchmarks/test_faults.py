"""benchmarks/faults.py: what it calls right, what it finds, and a short run of it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fault_bytes
import fault_formats
import faults

SENTENCE = "delt_jax: x.npz is damaged; export again.\n"
TRACEBACK = "Traceback (most recent call last):\n  File x\nValueError: bad\n"


@pytest.mark.parametrize(
    ("status", "printed", "because", "outcome"),
    [
        (0, "", "", "accepted"),
        (0, "all is well\n", "", "accepted"),
        (1, SENTENCE, "", "refused"),
        (2, f"a warning\n{SENTENCE}", "", "refused"),
        (1, "", "", "traceback"),  # no sentence
        (1, SENTENCE * 2, "", "traceback"),
        (1, f"{SENTENCE}more\n", "", "traceback"),  # two lines
        (3, SENTENCE, "", "traceback"),
        (1, TRACEBACK, "", "traceback"),
        (0, TRACEBACK, "", "traceback"),
        (0, "Exception ignored in: x\n", "", "traceback"),
        (1, f"delt_jax: {'x' * 20_000}\n", "", "traceback"),
        (-signal.SIGSEGV, "", "", "crash"),
        (-signal.SIGKILL, "", "memory", "crash"),
        (-signal.SIGKILL, "", "time", "hang"),
    ],
)
def test_what_is_right(status, printed, because, outcome):
    assert faults.judge(status, printed, because)[0] == outcome


def hold_memory():
    held = bytearray(2**30)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(60)


ACTS = {
    "accepted": lambda: None,
    "refused": lambda: refuse("x is damaged."),
    "traceback": lambda: 1 // 0,
    "hang": lambda: time.sleep(60),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


def refuse(text):
    from delt_jax.errors import UserError

    raise UserError(text)


SHORT = """
import sys
sys.path[:0] = ["benchmarks", "tests/benchmarks"]
import faults, test_faults
from pathlib import Path
faults.SECONDS, faults.MEMORY = 3, 2**29
acts = [*test_faults.ACTS.values(), test_faults.hold_memory, lambda: 3]
make = lambda number, place: faults.Case("sets", str(number), acts[number])
for one in faults.outcomes(range(len(acts)), make, Path(sys.argv[1]), 2):
    print(one.number, one.outcome, one.why)
"""


def test_tracebacks_hangs_and_crashes_are_found(tmp_path):
    """In a process of its own, as forks of this one would have JAX's threads."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    assert [found[str(i)].split(" ")[0] for i in range(5)] == list(ACTS)
    assert found["1"] == "refused delt_jax: x is damaged."
    assert "ZeroDivisionError" in found["2"]
    assert found["4"] == f"crash signal {signal.SIGSEGV.value}"
    assert found["5"] == "crash memory"
    assert found["6"].startswith("traceback exit status 3")


@pytest.mark.parametrize("seed", range(30))
def test_damage_follows_the_seed(seed):
    for function, content in (
        (fault_bytes.damage_bytes, b"0123456789" * 9),
        (fault_bytes.damage_json, b'{"a": [1, 2.5, {"b": null}], "c": "x"}'),
        (fault_bytes.damage_text, b"a,b\n1,2\n3,4\n"),
        (fault_formats.damage_picture, fault_formats.png(4, 4)),
    ):
        one, two = (function(content, random.Random(seed)) for _ in range(2))
        assert one == two
        assert isinstance(one[0], bytes)


def test_most_damage_is_damage():
    content = b'{"a": [1, 2.5, {"b": null}], "c": "x"}'
    made = {fault_bytes.damage_json(content, random.Random(i))[0] for i in range(200)}
    assert len(made - {content}) > 80


def test_empty_files_can_be_damaged():
    for seed in range(100):
        for function in (
            fault_bytes.damage_bytes,
            fault_bytes.damage_json,
            fault_bytes.damage_text,
            fault_formats.damage_zip,
            fault_formats.damage_npy,
        ):
            function(b"", random.Random(seed))


def test_kinds_take_turns_by_their_weights():
    kinds = list(faults.KINDS)
    weights = {kind: faults.KINDS[kind][1] for kind in kinds}
    turn = [faults.kind_of(i, kinds) for i in range(sum(weights.values()))]
    assert {kind: turn.count(kind) for kind in kinds} == weights
    assert set(turn[: len(kinds)]) == set(kinds)  # the first cases have one of each
    assert [faults.kind_of(i + len(turn), kinds) for i in range(len(turn))] == turn


@pytest.mark.exhaustive  # bad inputs are tested where each is read
def test_a_short_run_finds_nothing():
    kinds = ",".join(kind for kind in faults.KINDS if kind != "run")  # runs take longer
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", "--count=40", f"--kinds={kinds}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 of 40 right" in done.stdout
