"""Confusion, accuracy of classes and calibration."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from delt_jax.evaluation import metrics
from delt_jax.evaluation.rows import EvalRow
from delt_jax.evaluation.score_store import PlannedScore, make_score
from delt_jax.training.student_loop import Trained


def test_confusion_counts_answers_by_class():
    labels, answers = np.array([0, 0, 0, 2, 2, 1], np.int32), np.array([0, 2, 2, 2, 0, 1])
    ours = metrics.confusion_matrix(answers, labels, 4)
    expected = np.zeros((4, 4), int)
    for label, answer in zip(labels, answers, strict=True):
        expected[label, answer] += 1
    np.testing.assert_array_equal(ours, expected)
    assert ours.dtype == np.int64
    np.testing.assert_allclose(metrics.class_accuracy(ours), [1 / 3, 1, 1 / 2, np.nan])


def score(seed, per_class):
    """A score as it is in a file."""
    fields = {f.name: 0 for f in dataclasses.fields(metrics.Score)}
    images = {"images": fields.pop("image_set")}
    one = fields | images | {"history": [[1, 0.5]], "last": 0.5, "best": 0.5}
    return one | {"id": str(seed), "seed": seed, "per_class": per_class}


def test_a_class_without_test_images_has_no_accuracy():
    scores = [metrics.Score.from_dict(score(seed, [float(seed), None, 1.0])) for seed in (0, 1)]
    assert scores[1].per_class == [1.0, None, 1.0]
    (row,) = metrics.aggregate(scores)
    assert row.per_class == [0.5, None, 1.0]
    json.dumps([row.as_dict(), *(s.as_dict() for s in scores)], allow_nan=False)


def test_files_call_the_name_of_the_set_images():
    stored = score(0, [1.0])
    assert metrics.Score.from_dict(stored).as_dict() == stored
    (row,) = metrics.aggregate([metrics.Score.from_dict(stored | {"images": "random"})])
    assert row.image_set == row.as_dict()["images"] == "random"
    assert metrics.ScoreRow.from_dict(row.as_dict()) == row


def test_a_student_that_saw_no_test_image_of_a_class():
    labels, answers = np.array([0, 0, 2], np.int32), np.array([0, 1, 2])
    trained = Trained([(1, 2 / 3)], {}, np.eye(3, dtype=np.float32)[answers], 1.0)
    test = SimpleNamespace(labels=labels)
    source = SimpleNamespace(test=test, class_names=("a", "b", "c"))
    planned = PlannedScore("id", EvalRow("conv3", "hard", "random", 1), 0, 0.1, "delt")
    made = make_score(planned, trained, source)
    assert made.per_class == [0.5, None, 1.0]
    json.dumps(made.as_dict(), allow_nan=False)


@given(st.integers(1, 6), st.integers(1, 50), st.integers(0, 1000))
def test_confusion_holds_the_accuracy(classes, count, seed):
    labels, answers = np.random.default_rng(seed).integers(0, classes, (2, count))
    ours = metrics.confusion_matrix(answers, labels, classes)
    assert ours.shape == (classes, classes)
    assert ours.sum() == count
    assert np.trace(ours) / count == (labels == answers).mean()
    np.testing.assert_array_equal(ours.T, metrics.confusion_matrix(labels, answers, classes))
    accuracy = metrics.class_accuracy(ours)
    there = np.bincount(labels, minlength=classes) > 0
    assert (np.isfinite(accuracy) == there).all()


def plain_calibration_error(logits, labels, bins):
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, answers = probabilities.max(1), probabilities.argmax(1)
    error = 0.0
    for b in range(bins):
        there = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if there.any():
            gap = (answers == labels)[there].mean() - confidence[there].mean()
            error += there.mean() * abs(gap)
    return error


@pytest.mark.parametrize("bins", [1, 15, 40])
def test_calibration_error_is_the_published_one(bins):
    draw = np.random.default_rng(bins)
    logits = 3 * draw.normal(size=(500, 5)).astype(np.float32)
    labels = draw.integers(0, 5, 500)
    ours = metrics.calibration_error(logits, labels, bins)
    assert ours == pytest.approx(plain_calibration_error(logits, labels, bins))
    assert 0.1 < ours < 1


def test_calibration_error_of_known_models():
    labels = np.array([0, 1, 0, 1])
    sure = 100 * np.eye(2)[labels]
    assert metrics.calibration_error(sure, labels) == pytest.approx(0)
    assert metrics.calibration_error(-sure, labels) == pytest.approx(1)
    # Two in four right at a confidence of one half.
    assert metrics.calibration_error(np.zeros((4, 2)), labels) == pytest.approx(0)
    three_quarters = np.tile([np.log(3.0), 0.0], (4, 1))
    assert metrics.calibration_error(three_quarters, np.array([0, 0, 0, 1])) == pytest.approx(0)
    assert metrics.calibration_error(three_quarters, labels) == pytest.approx(0.25)
