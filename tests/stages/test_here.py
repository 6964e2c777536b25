"""Hours on the CPU at hand, and cheaper settings."""

import pytest
from tiny_run import tiny

from delt_jax import config
from delt_jax.stages import here
from delt_jax.stages.costs import StageWork

PEAK = 1e12  # so that 0.4e12 FLOP take a second


def work(**hours):
    return {
        name: StageWork(value * 3600 * here.UTILISATION * PEAK) for name, value in hours.items()
    }


def test_short_runs_have_one_line():
    recipe = config.from_config(tiny())
    (line,) = here.lines(work(squeeze=0.001, recover=0.5), recipe, PEAK)
    expected = (
        "on this CPU: about 30 min (squeeze < 1 min, recover 30 min), at 40% of the 1 TFLOP/s"
    )
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("longest", "changes", "proposed"),
    [
        ("squeeze", {}, ["teacher.epochs=4 halves", "teacher.fine_tune=True needs few"]),
        ("recover", {}, ["iterations=2 --config.recover.round_iterations=1 halves"]),
        ("recover", {"recover.round_iterations": 0}, ["recover.iterations=2 halves"]),
        ("evaluate", {}, ["seeds=1 takes 1/2", "regimes=online leaves"]),
        ("evaluate", {"evaluate.seeds": 1}, ["regimes=online leaves"]),
        ("recover", {"data.image_size": 96}, ["halves recover", "data.image_size=64 shortens"]),
    ],
)
def test_long_runs_have_proposals(longest, changes, proposed):
    recipe = config.from_config(tiny(**changes))
    hours = dict.fromkeys(("squeeze", "recover", "evaluate"), 1.0) | {longest: 5.0}
    head, *found = here.lines(work(**hours), recipe, PEAK)
    assert head.startswith("on this CPU: about 7.0 h (")
    assert len(found) == len(proposed)
    assert all(part in line for line, part in zip(found, proposed, strict=True))


def test_the_peak_is_one_that_a_cpu_has():
    assert 1e9 < here.peak() < 1e14
