"""Coresets against exhaustive and plain versions; ties, copies and small classes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delt_jax.errors import UserError
from delt_jax.evaluation.coresets import herding, kmeans

BOTH = [herding, kmeans]


def clouds(seed=0, classes=3, count=20, width=4):
    """Features in clouds of different places, labels in no order."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(classes), count)).astype(np.int32)
    features = draw.normal(size=(classes * count, width)) + 5 * labels[:, None]
    return features.astype(np.float32), labels


def plain_herding(features, ipc):
    """As iCaRL writes it."""
    mean, chosen = features.mean(0), []
    for _ in range(ipc):
        distances = [
            np.inf if i in chosen else np.linalg.norm(mean - features[[*chosen, i]].mean(0))
            for i in range(len(features))
        ]
        chosen.append(int(np.argmin(distances)))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_herding_is_the_published_one(seed):
    features, labels = clouds(seed)
    ours = herding(features, labels, 6, 3)
    for c in range(3):
        members = np.flatnonzero(labels == c)
        expected = plain_herding(features[members].astype(np.float64), 6)
        assert ours[c].tolist() == members[expected].tolist()


def test_the_first_of_a_herding_is_a_herding():
    features, labels = clouds()
    np.testing.assert_array_equal(
        herding(features, labels, 12, 3)[:, :5], herding(features, labels, 5, 3)
    )


def test_all_images_of_a_class_can_be_herded():
    features, labels = clouds(count=7)
    for choose in BOTH:
        assert sorted(choose(features, labels, 7, 3).reshape(-1).tolist()) == list(range(21))


def test_kmeans_takes_an_image_of_every_cluster_and_the_largest_first():
    draw = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    sizes = [3, 9, 5]
    features = np.concatenate(
        [c + 0.1 * draw.normal(size=(n, 2)) for c, n in zip(centres, sizes, strict=True)]
    )
    ours = kmeans(features, np.zeros(17, np.int32), 3, 1)[0]
    cluster = np.repeat([0, 1, 2], sizes)
    assert cluster[ours].tolist() == [1, 2, 0]
    for place in ours:
        group = features[cluster == cluster[place]]
        distances = np.linalg.norm(group - group.mean(0), axis=1)
        nearest = np.linalg.norm(features[place] - group.mean(0))
        assert nearest == pytest.approx(distances.min())


def test_kmeans_of_one_cluster_is_the_image_nearest_to_the_mean():
    features, _ = clouds(3, 1, 9, 2)
    ours = features[kmeans(features, np.zeros(9, np.int32), 1, 1)[0]]
    best = np.linalg.norm(features - features.mean(0), axis=1).argmin()
    np.testing.assert_array_equal(ours[0], features[best])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("choose", BOTH)
@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_copies_are_chosen_once_each(choose, distinct):
    points = np.arange(distinct, dtype=np.float32)[:, None] * [1.0, 2.0]
    features = np.tile(points, (4, 1))  # four copies of each
    ours = choose(features, np.zeros(len(features), np.int32), 4, 1)[0]
    assert len(set(ours.tolist())) == 4
    if choose is kmeans:  # a copy only where there is nothing else
        assert len({tuple(features[i]) for i in ours}) == min(distinct, 4)
    if distinct == 1:  # of equals the first
        assert ours.tolist() == [0, 1, 2, 3]


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 1000), st.integers(1, 5), st.booleans())
def test_choices_are_distinct_images_of_the_class(seed, ipc, rounded):
    features, labels = clouds(seed, count=5)
    features = features.round() if rounded else features  # rounding makes ties
    for choose in BOTH:
        ours = choose(features, labels, ipc, 3)
        assert ours.shape == (3, ipc)
        assert len(set(ours.reshape(-1).tolist())) == 3 * ipc
        assert (labels[ours] == np.arange(3)[:, None]).all()
        np.testing.assert_array_equal(ours, choose(features, labels, ipc, 3))


@pytest.mark.parametrize("choose", BOTH)
def test_too_few_images(choose):
    features, labels = clouds(count=4)
    with pytest.raises(UserError, match="class '3' has only 0 training images"):
        choose(features, labels, 2, 4)
    whole, more = (choose(features, labels, ipc, 3) for ipc in (4, 6))
    np.testing.assert_array_equal(more, np.concatenate([whole, whole[:, :2]], axis=1))


def test_herding_is_nearer_to_the_mean_than_most_choices():
    features, _ = clouds(1, 1, 10, 3)
    mean = features.mean(0)

    def gap(chosen):
        return np.linalg.norm(features[list(chosen)].mean(0) - mean)

    ours = gap(herding(features, np.zeros(10, np.int32), 4, 1)[0])
    all_gaps = [gap(c) for c in itertools.combinations(range(10), 4)]
    assert np.mean(np.array(all_gaps) < ours) < 0.1
