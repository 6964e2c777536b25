"""Confusion, accuracy of classes and calibration."""

import dataclasses
import json
from types import SimpleNamespace

import chex
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


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def a_score(student="conv3", regime="online", seed=0, last=0.5, best=0.6, ipc=10, rate=1e-3):
    return metrics.Score(
        id=f"{student}{regime}{seed}{ipc}{rate}",
        student=student,
        regime=regime,
        image_set="recovered",
        ipc=ipc,
        seed=seed,
        learning_rate=rate,
        protocol=f"delt: AdamW {rate}",
        last=last,
        best=best,
        best_epoch=3,
        history=[[3, best]],
        per_class=[last, 0.0],
        confusion=[[1, 1], [2, 0]],
        calibration=0.1,
        seconds=1.0,
    )


def test_aggregate_groups_in_order_of_appearance():
    rows = metrics.aggregate(
        [
            a_score("b", last=0.2, best=0.3),
            a_score("a", last=0.5, best=0.5),
            a_score("b", seed=1, last=0.4, best=0.9),
            a_score("b", "hard", last=0.1, best=0.1),
        ]
    )
    assert [(r.student, r.regime, r.image_set, r.seeds) for r in rows] == [
        ("b", "online", "recovered", 2),
        ("a", "online", "recovered", 1),
        ("b", "hard", "recovered", 1),
    ]
    figures = [(r.last_mean, r.last_std, r.best_mean, r.best_std) for r in rows]
    chex.assert_trees_all_close(
        np.array(figures),
        np.array([(0.3, np.sqrt(0.02), 0.6, np.sqrt(0.18)), (0.5, 0, 0.5, 0), (0.1, 0, 0.1, 0)]),
        atol=1e-12,
    )


def test_aggregate_takes_the_best_learning_rate_at_last_and_says_so():
    (row,) = metrics.aggregate(
        [a_score(rate=r, seed=s, last=v) for r, s, v in ((1, 0, 0.6), (1, 1, 0.2), (2, 0, 0.5))]
    )
    assert (row.learning_rate, row.seeds, row.protocol) == (2, 1, "delt: AdamW 2")
    assert row.scores == ["conv3online0102"]
    assert row.last_mean == 0.5


def test_aggregate_keeps_sizes_apart_and_means_classes():
    smaller = [a_score(ipc=5, last=0.2), a_score(ipc=5, seed=1, last=0.4)]
    rows = metrics.aggregate([smaller[0], a_score(ipc=10), smaller[1]])
    assert [(r.ipc, r.seeds) for r in rows] == [(5, 2), (10, 1)]
    chex.assert_trees_all_close(rows[0].per_class, [0.3, 0.0], rtol=1e-6)


def test_aggregate_takes_the_sample_deviation():
    last = [0.81, 0.84, 0.9]
    (row,) = metrics.aggregate([a_score(seed=i, last=v, best=v) for i, v in enumerate(last)])
    chex.assert_trees_all_close(row.last_std, np.std(last, ddof=1), rtol=1e-12)
    assert row.text() == "last 85.0 ± 4.6 %, best 85.0 ± 4.6 %"


def test_aggregate_of_nothing_is_nothing():
    assert metrics.aggregate([]) == []


def test_within_class_similarity_is_the_mean_over_pairs():
    features, labels = normal(12, 6) + 0.5, np.array([0, 2, 1, 0, 2, 1, 1, 0, 2, 2, 2, 5])
    expected = []
    for c in (0, 1, 2, 5):
        rows = features[labels == c].astype(np.float64)
        pairs = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for i, a in enumerate(rows)
            for j, b in enumerate(rows)
            if i != j
        ]
        expected.append(np.mean(pairs) if pairs else np.nan)
    ours = metrics.within_class_similarity(features, labels)
    assert np.isnan(ours[3])
    assert not np.isnan(ours[:3]).any()
    chex.assert_trees_all_close(ours[:3], np.array(expected[:3]), atol=1e-6)


def test_within_class_similarity_of_copies_and_opposites():
    x = normal(1, 9)
    features = np.concatenate([x, 2 * x, 3 * x, x, -x])
    ours = metrics.within_class_similarity(features, np.array([0, 0, 0, 1, 1]))
    chex.assert_trees_all_close(ours, np.array([1.0, -1.0]), atol=1e-6)


def test_narrow_answers_and_labels_are_counted_in_wide_numbers():
    """Class 19 of 20 is number 399 of the counts, which no uint8 holds."""
    labels, answers = np.array([19, 19, 3], np.uint8), np.array([19, 0, 19], np.uint8)
    ours = metrics.confusion_matrix(answers, labels, 20)
    assert {(int(i), int(j)): int(ours[i, j]) for i, j in np.argwhere(ours)} == {
        (19, 19): 1,
        (19, 0): 1,
        (3, 19): 1,
    }


def test_classes_without_images_cost_no_division():
    with np.errstate(all="raise"):
        accuracy = metrics.class_accuracy(np.array([[0, 0], [1, 3]]))
    np.testing.assert_array_equal(accuracy, [np.nan, 0.75])


def of_confidence(*confidences):
    """Logits of two classes that answer 0 with these probabilities."""
    p = np.array(confidences)
    return np.stack([np.log(p / (1 - p)), np.zeros(len(p))], axis=1)


def test_calibration_error_by_hand():
    """Four bins; gaps of opposite signs add up, those within a bin cancel out."""
    logits = of_confidence(0.6, 0.7, 0.7, 0.9)
    labels = np.array([0, 0, 1, 1])
    # Bin 0.5-0.75: two of three right at a mean of 2/3, so nothing; bin 0.75-1: none right at 0.9.
    assert metrics.calibration_error(logits, labels, 4) == pytest.approx(0.9 / 4)
    # Ten bins: 0.4 too modest, then 0.5 against 0.7 twice, then 0.9 too sure.
    assert metrics.calibration_error(logits, labels, 10) == pytest.approx((0.4 + 0.4 + 0.9) / 4)
    assert metrics.calibration_error(logits, labels, 1) == pytest.approx((2.9 - 2) / 4)


def test_calibration_errors_of_modest_and_of_sure_models_bin_by_bin():
    draw = np.random.default_rng(5)
    logits = 2 * draw.normal(size=(400, 4))
    is_sure = softmax(logits, axis=1).max(1) > 0.6
    labels = np.where(is_sure, draw.integers(0, 4, 400), logits.argmax(1))
    for bins in (3, 7, 15):
        expected = plain_calibration_error(logits, labels, bins)
        assert metrics.calibration_error(logits, labels, bins) == pytest.approx(expected)
        assert expected > 1.05 * plain_calibration_error(logits, labels, 1)
    assert metrics.calibration_error(logits, labels) == pytest.approx(
        plain_calibration_error(logits, labels, 15)
    )


def test_bins_are_closed_above():
    """A confidence of exactly 1/2 belongs to the lower of two bins, with those below it."""
    logits = np.concatenate([of_confidence(0.5, 0.75), np.zeros((1, 2))])
    three = np.concatenate([logits, np.full((3, 1), -1000.0)], axis=1)
    three[1] = np.log([0.4, 0.3, 0.3])
    labels = np.array([1, 0, 1])
    # Lower bin: 0.5, 0.4 and 0.5 with one hit in three.
    assert metrics.calibration_error(three, labels, 2) == pytest.approx((1.4 - 1) / 3)


def test_calibration_error_of_half_precision_is_computed_in_double():
    logits = normal(300, 10, seed=3).astype(np.float16)
    labels = np.random.default_rng(1).integers(0, 10, 300)
    exact = plain_calibration_error(logits, labels, 15)
    assert metrics.calibration_error(logits, labels) == pytest.approx(exact, rel=1e-9)


def test_similarity_is_over_ordered_pairs_of_different_images():
    """Unit vectors at 0, 60 and 90 degrees: cosines 1/2, 0 and sqrt(3)/2."""
    angles = np.radians([0, 60, 90])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    with np.errstate(all="raise"):  # nor is 0 divided by 0 for the single one
        four, labels = np.concatenate([features, features[:1]]), np.array([7, 7, 7, 9])
        ours = metrics.within_class_similarity(four, labels)
    assert ours[0] == pytest.approx((0.5 + 0 + np.sqrt(3) / 2) / 3, rel=1e-12)
    assert np.isnan(ours[1])


def test_features_nearer_to_zero_than_the_smallest_norm_have_no_direction():
    similar = [
        metrics.within_class_similarity(np.array([[size, 0.0], [1.0, 0.0]]), np.zeros(2))[0]
        for size in (0.0, 2.5e-13, 1e-12, 1e-6)
    ]
    np.testing.assert_allclose(similar, [0, 0.25, 1, 1], rtol=1e-9)


def test_a_row_says_last_and_best_with_their_own_spreads():
    (row,) = metrics.aggregate([a_score(last=0.0, best=0.25), a_score(seed=1, last=1.0, best=0.75)])
    assert row.text() == "last 50.0 ± 70.7 %, best 50.0 ± 35.4 %"
    (single,) = metrics.aggregate([a_score(last=0.12345, best=0.23456)])
    assert single.text() == "last 12.3 %, best 23.5 % (1 seed)"


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_one_output_that_is_no_number_leaves_no_calibration(odd):
    assert np.isnan(metrics.calibration_error(np.array([[odd, 0.0], [1.0, 0.0]]), np.array([0, 0])))


def test_a_confidence_of_one_shares_the_last_bin():
    """Of fifteen: 1 and 0.95 are in it together, and one of two is right."""
    logits = np.array([[1000.0, 0.0], [np.log(19.0), 0.0]])
    ours = metrics.calibration_error(logits, np.array([1, 0]))
    assert ours == pytest.approx((1.95 - 1) / 2)
