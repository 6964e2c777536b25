"""Sentences on failed training: each for its cause, and none where all is well."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from delt_jax.data import Normalisation, open_source
from delt_jax.evaluation import failed_training
from delt_jax.evaluation.metrics import ScoreRow, calibration_error
from delt_jax.models import ModelSpec
from delt_jax.recipe import DataRecipe
from delt_jax.teachers.teacher import Teacher

SOURCE = open_source(DataRecipe("digits"))  # 539 test images of 10 classes, the largest 55
COUNT = len(SOURCE.test)
CHANCE = 55 / 539
DIGITS = Normalisation((0.306,), (0.376,))


def teacher(accuracy):
    return Teacher(ModelSpec("conv3", 10, 8, 1), {}, DIGITS, SOURCE.class_names, accuracy)


def row(mean, **changes):
    values = ("conv3", "hard", "random", 5, 0.001, "delt", 2, mean, 0.01, mean, 0.01, [], 0.1, [])
    return replace(ScoreRow(*values), **changes)


def test_chance_is_the_largest_class():
    assert failed_training.chance(SOURCE.test.labels, 10) == pytest.approx(CHANCE)
    assert failed_training.chance(np.array([0, 0, 0, 1]), 2) == 0.75


def test_the_limit_is_that_of_a_binomial_test():
    limit = int(stats.binom.ppf(0.99, 539, CHANCE))  # guessing gets no more in 99 of 100 trials
    assert failed_training.is_chance(limit / 539, 539, CHANCE)
    assert not failed_training.is_chance((limit + 1) / 539, 539, CHANCE)
    assert 70 <= limit <= 75
    assert failed_training.is_chance(1.0, 10, 1.0)  # of a single class nothing can be learnt
    assert not failed_training.is_chance(1.0, 3, 1 / 3)  # too few to tell, but all right
    assert failed_training.is_chance(2 / 3, 3, 1 / 3)
    assert failed_training.is_chance(0.3, 20, 0.1) == (stats.binom.sf(5, 20, 0.1) > 0.01)


def test_the_test_is_true_to_its_level():
    draws = np.random.default_rng(0).binomial(539, CHANCE, 3000) / 539
    named = np.mean([failed_training.is_chance(a, 539, CHANCE) for a in draws])
    assert 0.985 < named <= 1


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.102, "gets 10.2% of the 539 test images right, no better than chance (10.2%)"),
        (0.0, "no better than chance"),
        (0.2, "nearer to chance (10.2%) than to all"),
        (0.55, "nearer to chance"),
        (0.56, None),
        (0.935, None),
    ],
)
def test_teachers(accuracy, words):
    found = failed_training.of_teacher(teacher(accuracy), SOURCE)
    assert len(found) == (words is not None)
    assert all(words in sentence for sentence in found)


@pytest.mark.parametrize(
    ("mean", "std", "is_named"),
    [
        (0.306, 0.376, False),
        (0.485, 0.229, False),  # ImageNet's
        (0.5, 0.5, False),
        (0.6, 0.376, True),
        (0.0, 0.376, True),
        (0.306, 0.1, True),
        (0.306, 1 / 255, True),
        (0.306, 1.0, False),
    ],
)
def test_constants(mean, std, is_named):
    found = failed_training.of_constants(Normalisation((mean,), (std,)), SOURCE)
    assert len(found) == is_named
    assert all("those of digits have mean 0.3" in sentence for sentence in found)


def test_saturated_images():
    draw = np.random.default_rng(0)
    starts = draw.integers(1, 255, (6, 8, 8, 1), np.uint8)
    ends = draw.choice(np.array([0, 255], np.uint8), starts.shape)
    (found,) = failed_training.of_images(ends, starts)
    assert found.startswith("100% of the recovered pixels are saturated (0 or 255)")
    assert "started from 0% were" in found
    half = np.where(draw.random(starts.shape) < 0.45, ends, np.clip(starts, 2, 253) + 1)
    assert failed_training.of_images(half, starts) == []
    more = np.where(draw.random(starts.shape) < 0.6, ends, starts)
    assert len(failed_training.of_images(more, starts)) == 1
    # Scans of digits are black and white for the most part before anything is optimised.
    black = np.where(draw.random(starts.shape) < 0.6, 0, starts).astype(np.uint8)
    assert failed_training.of_images(np.maximum(black, 1) - 1, black) == []


def test_images_that_do_not_move():
    starts = np.full((2, 8, 8, 1), 7, np.uint8)
    (found,) = failed_training.of_images(starts.copy(), starts)
    assert "has not changed a pixel" in found
    moved = starts.copy()
    moved[0, 0, 0, 0] = 8
    assert failed_training.of_images(moved, starts) == []


def test_losses():
    good, bad = np.ones(3), np.array([1.0, np.nan, 1.0])
    assert failed_training.of_losses([good, good]) == []
    (found,) = failed_training.of_losses([good, bad, np.array([np.inf])])
    assert "of 2 of 3 batches" in found


def test_labels():
    labels = np.repeat(np.arange(4), 5)
    logits = 10 * np.eye(4)[labels]
    assert failed_training.of_labels(logits, labels, 20.0) == []
    (found,) = failed_training.of_labels(logits, labels, 1e6)
    assert "are the same at temperature 1e+06" in found
    (found,) = failed_training.of_labels(np.roll(logits, 1, 1), labels, 20.0)
    assert "takes 0.0% of the 20 distilled images for their classes" in found
    constant = failed_training.of_labels(np.ones_like(logits), labels, 1.0)
    assert ["same at temperature" in s for s in constant] == [True, False]
    logits[3, 1] = np.nan
    (found,) = failed_training.of_labels(logits, labels, 20.0)
    assert "1 of 20 images are not finite" in found


def test_probabilities():
    assert failed_training.of_probabilities(np.ones(3)) == []
    (found,) = failed_training.of_probabilities(np.array([1, np.nan]))
    assert "1 of 2 training images" in found


def test_every_row_at_chance_is_named():
    rows = [row(0.1), row(0.9), row(0.11, image_set="full", ipc=0), row(0.14)]
    found = failed_training.of_rows(rows, SOURCE)
    assert [s.split(":")[0] for s in found] == ["conv3, hard, random 5", "conv3, hard, full all"]
    assert "10.0 ± 1.0 % of the 539 test images is no better than chance (10.2%)" in found[0]


def test_a_teacher_below_a_student_is_named():
    rows = [
        row(0.6),
        row(0.8, image_set="full", ipc=0),
        row(float("nan"), calibration=float("nan")),
    ]
    found = [s for s in failed_training.of_students([teacher(0.7)], rows, SOURCE) if "holds" in s]
    assert found == [
        "The teacher conv3 gets 70.0% of the 539 test images right, fewer than a student reaches "
        "(conv3, all real images, the ceiling of students: 80.0%), so it holds students back; "
        "train it longer or take a better one."
    ]
    below = failed_training.of_students([teacher(0.5)], rows[:1], SOURCE)
    assert "a student reaches (conv3, random 5 with hard labels: 60.0%)" in below[0]
    for accuracy in (0.78, 0.9, None):  # by the sampling error of 539 images, or not known
        assert not any(
            "holds" in s for s in failed_training.of_students([teacher(accuracy)], rows, SOURCE)
        )


def test_without_a_teacher_only_students_are_named():
    assert failed_training.of_students([], [row(0.9)], SOURCE) == []


def test_students_that_diverged_are_named():
    assert np.isnan(calibration_error(np.full((3, 2), np.nan), np.zeros(3, int)))
    assert np.isnan(calibration_error(np.array([[np.inf, 0.0]]), np.zeros(1, int)))
    (found,) = failed_training.of_rows([row(0.1, calibration=float("nan"))], SOURCE)
    assert "are not finite (10.0 ± 1.0 %), their training diverged" in found


def test_the_log_says_them(capfd):
    assert failed_training.told(["Too little."]) == ["Too little."]
    assert "  warning: Too little.\n" in "".join(capfd.readouterr())
