"""Two sentences on what scores say: gains, how sure they are, and weak classes."""

from dataclasses import replace

import numpy as np
import pytest

from delt_jax.evaluation import metrics, verdict
from delt_jax.evaluation.metrics import ScoreRow

NAMES = ("cat", "dog", "cow")


def row(images, regime, mean, std, seeds=3, per_class=(0.8, 0.8, 0.8), ipc=10):
    values = (mean, std, mean, std)
    return ScoreRow("conv3", regime, images, ipc, 0.1, "delt", seeds, *values, per_class, 0.1, [])


def pair(regime, ours, theirs, std=0.01, **others):
    return [row("recovered", regime, ours, std, **others), row("random", regime, theirs, std)]


def test_a_gain_has_the_standard_error_of_the_difference():
    (gain,) = verdict.gains(pair("hard", 0.80, 0.75, 0.01))
    assert gain.points == pytest.approx(5.0)
    assert gain.error == pytest.approx(100 * np.sqrt(2 * 0.01**2 / 3))
    assert gain.judged == "more"


@pytest.mark.parametrize(
    ("ours", "theirs", "std", "judged"),
    [
        (0.80, 0.75, 0.05, "level"),
        (0.70, 0.75, 0.01, "fewer"),
        (0.75, 0.75, 0.0, "level"),
        (0.76, 0.75, 0.0, "more"),
    ],
)
def test_what_chance_gives_is_level(ours, theirs, std, judged):
    assert verdict.gains(pair("hard", ours, theirs, std))[0].judged == judged


def test_smaller_sets_and_rows_without_a_rival_are_left_out():
    rows = [*pair("hard", 0.8, 0.7), row("recovered", "hard", 0.5, 0.01, ipc=1)]
    rows.append(row("recovered", "online", 0.9, 0.01))
    assert [(gain.regime, round(gain.points)) for gain in verdict.gains(rows)] == [("hard", 10)]


@pytest.mark.parametrize(
    ("rows", "end"),
    [
        (pair("hard", 0.8, 0.7), "recovery teaches more, beyond chance."),
        (pair("hard", 0.7, 0.8), "recovery teaches less, beyond chance."),
        (pair("hard", 0.8, 0.8), "no better than random ones."),
        (
            pair("online", 0.8, 0.8) + pair("hard", 0.8, 0.7),
            "+0.0 ± 0.8 points with labels for every view and +10.0 ± 0.8 points with hard labels "
            "(3 seeds); recovery teaches more with hard labels, beyond chance.",
        ),
        (
            pair("online", 0.9, 0.8) + pair("hard", 0.6, 0.7),
            "recovery teaches more with labels for every view and less with hard labels, beyond "
            "chance.",
        ),
        (pair("hard", 0.8, 0.7, seeds=1), "+10.0 points with hard labels; one seed cannot tell "
         "chance."),
    ],
)  # fmt: skip
def test_the_first_sentence_says_what_was_gained_and_how_sure_that_is(rows, end):
    assert verdict.sentences(rows, NAMES)[0].endswith(end)


@pytest.mark.parametrize(
    ("word", "first", "end"),
    [
        ("learned", "Learned against random", "; learned images teach more, beyond chance."),
        ("distilled", "Distilled against random", "; distilled images teach more, beyond chance."),
    ],
)
def test_a_set_is_called_what_it_is(word, first, end):
    rows = metrics.in_words(pair("hard", 0.8, 0.7), word)
    said = verdict.sentences(rows, NAMES)[0]
    assert said.startswith(first)
    assert said.endswith(end)
    assert "ecover" not in said
    assert verdict.gains(rows) == verdict.gains(pair("hard", 0.8, 0.7))


def test_of_several_students_the_first_is_named():
    rows = pair("hard", 0.8, 0.7) + [replace(one, student="vgg") for one in pair("hard", 0.5, 0.6)]
    said = verdict.sentences(rows, NAMES)[0]
    assert said.startswith(
        "Recovered against random real images, for conv3, the first of 2 students: +10.0"
    )
    assert "for conv3" not in verdict.sentences(rows[:2], NAMES)[0]


def test_the_last_sentence_names_weak_classes():
    weak = row("recovered", "hard", 0.6, 0.01, per_class=(0.9, 0.2, None))
    expected = "Weakest with hard labels, where the mean of the classes is 55%: dog (20%)."
    assert verdict.sentences([weak], NAMES) == [expected]
    even = row("recovered", "hard", 0.6, 0.01, per_class=(0.9, 0.8, 0.85))
    expected = "No class is far below the others; lowest with hard labels is dog (80%)."
    assert verdict.sentences([even], NAMES) == [expected]
    assert verdict.sentences([row("random", "hard", 0.6, 0.01)], NAMES) == []
