"""Selection rules: the recorded cases exactly, and what every rule promises."""

import json
from pathlib import PurePosixPath

import chex
import numpy as np
import pytest
from conftest import golden_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delt_jax.errors import UserError
from delt_jax.recovery.selection import Ranking, check_class_sizes, order, random_images, select

RULES = ("top", "min", "medium", "random")
CASES = [
    pytest.param(case, rule, id=f"{path.stem}-{i}-{rule}")
    for path in sorted(golden_dir().glob("selection/*.json"))
    for i, case in enumerate(json.loads(path.read_text()))
    for rule in case["selected"]
]


def draw(seed=0):
    return np.random.default_rng(seed)


def test_there_are_recorded_cases():
    assert {p.values[1] for p in CASES} == {"top", "min", "medium"}


@pytest.mark.parametrize(("case", "rule"), CASES)
def test_recorded_selection(case, rule):
    by_class = {}
    for path, p in case["scores"]:
        by_class.setdefault(PurePosixPath(path).parent.name, []).append((path, p))
    assert set(by_class) == set(case["selected"][rule])
    for name, members in by_class.items():
        ranked = order(np.array([p for _, p in members]), rule, draw())
        ours = [members[i][0] for i in ranked[: case["ipc"]]]
        assert ours == case["selected"][rule][name]


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32)),
    st.sampled_from(RULES),
)
def test_order_is_a_permutation(probabilities, rule):
    ranked = order(probabilities, rule, draw())
    assert sorted(ranked.tolist()) == list(range(len(probabilities)))


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
def test_ties_keep_their_order(probabilities):
    p = probabilities.tolist()
    indices = range(len(p))
    assert order(probabilities, "top", draw()).tolist() == sorted(indices, key=lambda i: -p[i])
    assert order(probabilities, "min", draw()).tolist() == sorted(indices, key=lambda i: p[i])


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [0]), (2, [1, 0]), (3, [2, 1, 0]), (4, [2, 3, 1, 0]), (5, [3, 4, 2, 1, 0])],
)
def test_medium_walks_outwards_from_the_median(n, expected):
    assert order(np.linspace(0, 1, n), "medium", draw()).tolist() == expected


@pytest.fixture
def ranking():
    rng = draw(7)
    labels = rng.permutation(np.repeat(np.arange(3, dtype=np.int32), [6, 9, 5]))
    return Ranking(labels, rng.random(len(labels)).astype(np.float32))


@pytest.mark.parametrize("rule", RULES)
def test_select_takes_distinct_images_of_each_class(ranking, rule):
    chosen = select(ranking, rule, 5, 3, seed=0)
    chex.assert_shape(chosen, (3, 5))
    for c in range(3):
        assert len(set(chosen[c].tolist())) == 5
        assert (ranking.labels[chosen[c]] == c).all()


@pytest.mark.parametrize(("rule", "sign"), [("top", -1), ("min", 1)])
def test_select_orders_by_probability(ranking, rule, sign):
    chosen = select(ranking, rule, 2, 3, seed=0)
    for c in range(3):
        members = np.flatnonzero(ranking.labels == c)
        best = members[np.argsort(sign * ranking.probabilities[members])][:2]
        chex.assert_trees_all_equal(chosen[c], best)


def test_random_selection_follows_the_seed(ranking):
    chosen = [select(ranking, "random", 4, 3, seed) for seed in (0, 0, 1)]
    chex.assert_trees_all_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()


def test_other_rules_do_not_depend_on_the_seed(ranking):
    chex.assert_trees_all_equal(
        select(ranking, "medium", 4, 3, seed=0), select(ranking, "medium", 4, 3, seed=1)
    )


def test_a_small_class_has_its_images_in_turn(ranking):
    (small,) = select(ranking, "medium", 12, 3, seed=0)[2:]
    chex.assert_trees_all_equal(small[:5], select(ranking, "medium", 5, 3, seed=0)[2])
    chex.assert_trees_all_equal(small[5:], small[:7])
    drawn = random_images(ranking.labels, 12, 3, seed=0)[2]
    assert sorted(drawn[:5]) == np.flatnonzero(ranking.labels == 2).tolist()
    chex.assert_trees_all_equal(drawn[5:], drawn[:7])


def test_select_refuses_a_class_without_images(ranking):
    with pytest.raises(UserError, match="class '3' has only 0"):
        select(ranking, "top", 1, 4, seed=0)


def test_check_class_sizes_names_the_smallest(ranking):
    check_class_sizes(ranking.labels, 5, ("cat", "dog", "owl"))
    with pytest.raises(UserError, match="class 'owl' has only 5"):
        check_class_sizes(ranking.labels, 8, ("cat", "dog", "owl"))


def test_random_images_are_distinct_and_follow_the_seed(ranking):
    sets = [random_images(ranking.labels, 4, 3, seed) for seed in (0, 0, 1)]
    chex.assert_shape(sets, (3, 4))
    chex.assert_trees_all_equal(sets[0], sets[1])
    assert (sets[0] != sets[2]).any()
    for c in range(3):
        assert len(set(sets[0][c].tolist())) == 4
        assert (ranking.labels[sets[0][c]] == c).all()


def test_random_images_are_uniform():
    labels = np.zeros(5, np.int32)
    counts = np.zeros(5)
    for seed in range(600):
        counts[random_images(labels, 2, 1, seed)] += 1
    chex.assert_trees_all_close(counts / 1200, np.full(5, 0.2), atol=0.06, rtol=0)


def test_a_seed_draws_the_same_images_in_every_version():
    """A finished set must be found again: the streams of both draws never change."""
    labels = np.repeat(np.arange(2, dtype=np.int32), 6)
    ranking = Ranking(labels, np.zeros(12, np.float32))
    starts = np.random.default_rng([3, 0x5E1EC7])
    expected = [(6 * c + starts.permutation(6)[:4]).tolist() for c in (0, 1)]
    assert select(ranking, "random", 4, 2, seed=3).tolist() == expected
    baseline = np.random.default_rng([3, 0xBA5E])
    expected = [(6 * c + baseline.choice(6, 4, replace=False)).tolist() for c in (0, 1)]
    assert random_images(labels, 4, 2, seed=3).tolist() == expected
