"""Signals are noted, and obeyed at safe points; none is lost."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from delt_jax.core import stopping
from delt_jax.core.progress import progress
from delt_jax.core.stopping import Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def default_interrupt():
    """Ctrl-C as a terminal has it; a job in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopped(work):
    """The status with which some work leaves."""
    with pytest.raises(Stopped) as left, stopping.listening():
        work()
    assert not stopping.requested()
    return left.value.status


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_obeyed_at_a_safe_point_only(number, status):
    done = []

    def work():
        os.kill(os.getpid(), number)
        done.append("went on")
        assert stopping.requested()
        stopping.check()
        done.append("went too far")

    assert stopped(work) == status
    assert done == ["went on"]


def test_a_signal_that_nobody_looks_at_is_obeyed_at_the_end():
    assert stopped(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143


def test_a_signal_during_a_callback_that_swallows_exceptions_is_not_lost():
    def callback(phase, info):
        if phase == "start":
            os.kill(os.getpid(), signal.SIGTERM)

    def work():
        gc.collect()
        gc.callbacks.remove(callback)
        stopping.check()

    gc.callbacks.append(callback)
    assert stopped(work) == 143


def test_what_a_signal_breaks_is_not_what_is_reported():
    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("a worker died of the same signal")

    assert stopped(work) == 143


def test_deferred_work_leaves_where_it_says():
    done = []

    def work():
        stopping.request(signal.SIGINT)
        with stopping.deferred():
            stopping.check()
            done.append("saved")
            stopping.leave()
            done.append("went too far")

    assert stopped(work) == 130
    assert done == ["saved"]


def test_progress_is_a_safe_point():
    updates = []

    def work():
        with progress(10, "work", "image") as bar:
            for i in range(3):
                bar.update(1)
                updates.append(i)
                stopping.request(signal.SIGTERM)

    assert stopped(work) == 143
    assert updates == [0]


def test_handlers_are_those_of_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stopping.listening():
        assert signal.getsignal(signal.SIGTERM) != before[0]
        with stopping.listening():
            pass
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_nothing_is_handled():
    failed = []

    def work():
        try:
            with stopping.listening():
                stopping.check()
        except BaseException as e:
            failed.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


COMMAND = """
from delt_jax.core import stopping
stopping.listen()
import sys, time
def work():
    print("ready", flush=True)
    {work}
def main():
    try:
        with stopping.listening():
            work()
    except stopping.Stopped as e:
        return e.status
    return 0
sys.exit(main())
"""


def command(work):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(work=work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_second_signal_ends_what_has_no_safe_point():
    process = command("while True: sum(range(10**6))")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    assert "a second signal ends at once" in process.stderr.read()


def test_two_signals_at_once_are_one():
    process = command("time.sleep(2)")  # as GNU timeout sends them: to the process and its group
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    assert process.wait(10) == 143


def test_a_signal_that_a_shell_ignores_stays_ignored():
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(work="time.sleep(1)")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
