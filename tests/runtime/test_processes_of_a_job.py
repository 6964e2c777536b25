"""Several processes of one job: they share the work, agree, wait, and end together."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from processes import (
    ROOT,
    SETTINGS,
    assert_same,
    config,
    ended,
    free_address,
    start,
    start_job,
    unrecovered,
)
from sklearn.datasets import load_digits

from delt_jax import main
from delt_jax.config import cli
from delt_jax.errors import UserError
from delt_jax.recovery.run import checkpoint
from delt_jax.runtime import compile_cache
from delt_jax.runtime import processes as hosts
from delt_jax.store.workdir import WorkDir

STUDENTS = {
    "relabel.rand_augment": "",
    "relabel.stored_epochs": 3,
    "evaluate.regimes": ("stored",),
    "evaluate.images": ("recovered", "random"),
    "evaluate.epochs": 2,
    "evaluate.width": 8,
    "evaluate.keep_students": True,
}
ALL = "squeeze,rank,recover,relabel,evaluate"
# One of two processes, which ends in some way while the other works or waits.
MEMBER = """
import os, sys, time
from delt_jax.config import command
from delt_jax.core import ending, stopping
from delt_jax.errors import UserError
address, how, who, meanwhile, index = sys.argv[1:]
def go(_):
    from delt_jax.runtime import processes as hosts
    hosts.start(False, address, 2, int(index))
    hosts.agree({"the number": index if how == "differ" else "1"})
    assert hosts.broadcast(int(index)) == 0
    assert [len(array) for array in hosts.gather([0.5] * int(index))] == [0, 1]
    hosts.barrier("both")
    if index == who:
        time.sleep(0.5)
        if how == "error":
            raise UserError("The disk is full.")
        os.kill(os.getpid(), 9)
    elif meanwhile == "waits":
        hosts.barrier("for ever")
    while True:
        time.sleep(0.02)
        stopping.check()
ending.end(command.exit_status(lambda: None, go))
"""
ENDS = {  # of who ends how, while the other does what: exit statuses of both
    ("differ", "0", "works"): (1, 1),
    ("error", "1", "works"): (1, 1),
    ("kill", "0", "waits"): (-9, -6),
    ("kill", "1", "waits"): (-6, -9),
    ("kill", "1", "works"): (-6, -9),
}


class Pair(threading.Thread):
    """Two processes of MEMBER, and when each of them ended."""

    def __init__(self, case):
        super().__init__()
        arguments = [sys.executable, "-c", MEMBER, free_address(), *case]
        self.processes = [
            subprocess.Popen(
                [*arguments, str(i)],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        self.errors, self.times = ["", ""], [0.0, 0.0]
        self.start()

    def run(self):
        def follow(i):
            self.errors[i] = ended(self.processes[i], 120)[2]
            self.times[i] = time.monotonic()

        first = threading.Thread(target=follow, args=[0])
        first.start()
        follow(1)
        first.join()


@pytest.fixture(scope="module")
def pairs():
    """All cases of ENDS side by side, as a kill is heard of only after some missed heartbeats."""
    started = {case: Pair(case) for case in ENDS}
    yield started
    for pair in started.values():
        pair.join()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Digits as image files: train/CLASS and test/CLASS."""
    folder, digits = tmp_path_factory.mktemp("pictures") / "digits", load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:500], digits.target, strict=False)):
        path = folder / ("test" if i % 4 == 0 else "train") / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pictures, pairs):
    """Made by one process of four devices: with more, XLA's threads sum students' gradients in
    another order."""
    folder = tmp_path_factory.mktemp("hosts") / "run"
    status, _, errors = ended(start(folder, *flags(pictures), devices=4, stages=ALL))
    assert status == 0, errors
    return folder


def on(pictures):
    """Settings of a run on these pictures."""
    return {"data.name": "folder", "data.path": str(pictures), "data.image_size": 8} | STUDENTS


def flags(pictures):
    """The flags of a process of such a run."""
    return [f"--config.{name}={value}" for name, value in on(pictures).items()]


def test_two_processes_with_their_own_copies_of_the_data_make_the_same_files(
    whole, pictures, tmp_path
):
    workdir = unrecovered(whole, tmp_path)
    for path in ("ranking.csv", "ranking.json"):
        (workdir / path).unlink()
    for path in ("soft_labels", "evaluation", "scores"):
        shutil.rmtree(workdir / path)
    copied = shutil.copytree(pictures, tmp_path / "copied", copy_function=shutil.copyfile)
    each = [flags(folder) for folder in (pictures, copied)]
    (status, out, errors), other = map(ended, start_job(workdir, each, stages=ALL))
    assert (status, other[0]) == (0, 0), errors + other[2]
    assert "squeeze: done, nothing changed" in out
    assert "recovered 30 images" in out
    assert other[1] == ""
    assert_same(workdir, whole)
    students = [
        path.relative_to(whole) for path in whole.glob("evaluation/students/*/*.safetensors")
    ]
    assert len(students) == 6
    for path in ("ranking.csv", "soft_labels/views.bin", "soft_labels/logits.npz", *students):
        assert (workdir / path).read_bytes() == (whole / path).read_bytes()
    assert not list(workdir.glob("*.partial")) + list(workdir.glob(".job-*"))


@pytest.mark.exhaustive  # one process is killed in stages/test_resume.py
def test_a_job_that_was_stopped_and_killed_is_followed_by_one_process(whole, pictures, tmp_path):
    workdir, before = unrecovered(whole, tmp_path), 0
    each = [flags(pictures)] * 2
    for number, who, expected in (
        (signal.SIGTERM, 1, [143, 143]),
        (signal.SIGKILL, 0, [-signal.SIGKILL, -signal.SIGABRT]),
    ):
        job = start_job(workdir, each)
        while reached(workdir) <= before and all(process.poll() is None for process in job):
            time.sleep(0.02)
        job[who].send_signal(number)
        both = [ended(process, 60) for process in job]
        assert [status for status, _, _ in both] == expected
        assert number != signal.SIGTERM or "process 1 of 2 is stopping" in both[0][2]
        assert reached(workdir) > before
        before = reached(workdir)
    main.run(config(**on(pictures)), str(workdir), ["recover"])
    assert_same(workdir, whole)


def reached(workdir):
    """Iterations that are saved of the first batch of each process, the fewer of both."""
    partial = workdir / "distilled.partial"
    return min(
        SETTINGS["recover.iterations"]
        if checkpoint.finished_batch(partial, i).exists()
        else checkpoint.step_of(partial, i)
        for i in range(2)
    )


@pytest.mark.parametrize("case", ENDS, ids=" ".join)
def test_processes_end_together(pairs, case):
    pair = pairs[case]
    pair.join()
    assert tuple(process.returncode for process in pair.processes) == ENDS[case], pair.errors
    how, who, _ = case
    assert abs(pair.times[0] - pair.times[1]) < (50 if how == "kill" and who == "1" else 20)
    if how == "error":
        assert "The disk is full." in pair.errors[int(who)]
        assert f"process {who} of 2 ends with exit status 1" in pair.errors[1 - int(who)]
    if how == "differ":
        assert "the number is 0 in process 0 and 1 in process 1" in "".join(pair.errors)


def test_alone_nobody_is_waited_for():
    hosts.barrier("nobody")
    hosts.agree({"a": "b"})
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.broadcast((1, 2)) == (1, 2)
    assert [list(array) for array in hosts.gather(np.arange(3))] == [[0, 1, 2]]


def test_another_folder_has_no_mark(tmp_path):
    ours, theirs = WorkDir(tmp_path / "ours"), WorkDir(tmp_path / "theirs")
    ours.path.mkdir()
    ours.mark("a")
    assert WorkDir(ours.path).is_marked("a")
    assert not theirs.is_marked("a")
    ours.unmark("a")
    assert not list(ours.path.iterdir())


def test_shares_are_disjoint_and_complete():
    for among in (1, 2, 3, 8):
        shares = [hosts.share(range(7), of, among) for of in range(among)]
        assert sorted(i for s in shares for i in s) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert hosts.share("abc") == ["a", "b", "c"]  # alone


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_processes=2"], "all three or none"),
        (["--coordinator_address=a:1", "--num_processes=2"], "all three or none"),
        (["--distributed=auto", "--process_id=0"], "leave out --coordinator_address"),
        (
            ["--coordinator_address=a:1", "--num_processes=2", "--process_id=2"],
            r"below --num_processes \(2\), not 2",
        ),
        (["--distributed=yes"], "distributed"),
        (["--num_processes=0"], "num_processes"),
    ],
)
def test_flags_that_do_not_fit(flags, words):
    with pytest.raises(UserError, match=words):
        cli.parse(["main", "--config=configs/digits.py", "--workdir=x", *flags])


def test_nothing_is_started_unasked(monkeypatch):
    def never(*arguments, **named):
        raise AssertionError

    monkeypatch.setattr(hosts.jax.distributed, "initialize", never)
    assert (
        cli.parse(["main", "--config=configs/digits.py", "--workdir=x"]).job == cli.ProcessFlags()
    )
    hosts.start(*cli.ProcessFlags())


def test_a_job_that_cannot_be_joined_is_a_sentence(monkeypatch):
    def fails(*arguments, **named):
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", fails)
    monkeypatch.setattr(hosts.jax.config, "update", lambda *arguments: None)
    with pytest.raises(UserError, match=r"could not be joined \(coordinator_address should be"):
        hosts.start(True)


def test_compiled_programs_are_kept_where_the_environment_says(monkeypatch, tmp_path):
    chosen, values = {}, {"jax_compilation_cache_dir": "the program's"}
    jax = SimpleNamespace(config=SimpleNamespace(update=chosen.__setitem__, values=values))
    monkeypatch.setattr(compile_cache, "jax", jax)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_cache.use()
    assert chosen.keys() == {"jax_persistent_cache_min_compile_time_secs"}
    values["jax_compilation_cache_dir"] = None
    compile_cache.use()
    assert chosen == {
        "jax_compilation_cache_dir": f"{tmp_path}/delt_jax/compiled",
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    chosen.clear()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    compile_cache.use()
    assert not chosen
