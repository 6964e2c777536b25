"""What a run prints: lines on stdout, progress on stderr at a bearable rate."""

import io
import itertools
import sys
import time

import pytest

from delt_jax.core.progress import Progress, progress, say


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def test_say_prints_a_line_on_stdout(capsys):
    say("  one")
    say("two")
    captured = capsys.readouterr()
    assert captured.out == "  one\ntwo\n"
    assert captured.err == ""


def test_at_most_a_line_every_15_seconds(clock, capsys):
    with progress(3600, "squeeze", "image") as bar:
        printed_at = []
        for _ in range(3600):  # an hour, a unit a second
            clock.now += 1
            bar.update(1)
            if capsys.readouterr().err:
                printed_at.append(clock.now)
    gaps = [b - a for a, b in itertools.pairwise(printed_at)]
    assert min(gaps) >= 15
    assert max(gaps) <= 17
    assert printed_at[0] - 1000 >= 15


def test_a_short_stage_prints_nothing(clock, capsys):
    with progress(10, "rank", "image") as bar:
        for _ in range(10):
            clock.now += 1
            bar.update(1)
    assert capsys.readouterr().err == ""


def test_line_has_percentage_rate_eta_and_figures(clock, capsys):
    bar = Progress(400, "recover", "iteration")
    clock.now += 10
    bar.update(50, loss=0.123456, bn_term=12.0)  # too early to print, but remembered
    clock.now += 10
    bar.update(50)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "recover  25%  5 iterations/s  ETA 01:00  loss 0.1235  bn term 12"


def test_figures_are_the_latest(clock, capsys):
    bar = Progress(400, "recover", "iteration")
    bar.update(1, loss=1.0)
    clock.now += 20
    bar.update(1, loss=2.0, training="conv3 online")
    line = capsys.readouterr().err
    assert "loss 2  conv3 online" in line
    assert "loss 1" not in line


def test_a_resumed_stage_counts_only_its_own_work_as_rate(clock, capsys):
    bar = Progress(1000, "squeeze", "image", done=500)
    clock.now += 20
    bar.update(100)
    line = capsys.readouterr().err
    assert "squeeze  60%  5 images/s  ETA 01:20" in line


def test_no_progress_yet_is_no_division_by_zero(clock, capsys):
    bar = Progress(10, "squeeze", "image")
    clock.now += 20
    bar.update(0)
    assert "squeeze   0%  0 images/s  ETA" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(10, "squeeze", "image", done=4) as bar:
        time.sleep(0.4)  # tqdm draws every 0.3 s
        bar.update(6, loss=0.5)
    text = terminal.getvalue()
    assert "squeeze" in text
    assert "10.0/10.0" in text
    assert "loss 0.5" in text
    assert "\n" not in text
    assert text.split("\r")[-1].strip() == ""  # wiped


def test_the_bar_goes_away_when_the_work_fails(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def work():
        with progress(10, "squeeze", "image"):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        work()
    assert "squeeze" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1].strip() == ""


def test_names_of_figures(clock, capsys):
    bar = Progress(400, "recover", "iteration")
    clock.now += 20
    bar.update(1, cross_entropy=1234.5678, label="x")
    assert capsys.readouterr().err.endswith("  cross entropy 1235  x\n")
