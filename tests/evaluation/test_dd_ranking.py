"""DD-Ranking's scores by hand and by their invariances; which rows they take; order of students."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delt_jax.evaluation import dd_ranking
from delt_jax.evaluation.metrics import ScoreRow

shares = st.floats(0, 1)


def row(image_set, regime, last, student="conv3", ipc=10, best=None) -> ScoreRow:
    """A row of one training, whose id says what it is."""
    best = last if best is None else best
    ipc = 0 if image_set == "full" else ipc
    ids = [f"{student}-{image_set}-{regime}-{ipc}"]
    return ScoreRow(
        student,
        regime,
        image_set,
        ipc,
        1e-3,
        "delt: as ever",
        1,
        last,
        0.0,
        best,
        0.0,
        [],
        0.1,
        ids,
    )


def test_published_examples():
    # Real 84.8 %, hard 30.0 %, soft 52.0 %, random 40.0 %.
    hlr = dd_ranking.hard_label_recovery(0.848, 0.300)
    ior = dd_ranking.improvement_over_random(0.520, 0.400)
    assert (hlr, ior) == (pytest.approx(0.548), pytest.approx(0.12))
    assert dd_ranking.label_robust_score(ior, hlr) == pytest.approx(0.1870, abs=5e-5)
    assert dd_ranking.label_robust_score(0, 0) == pytest.approx(0.2689, abs=5e-5)
    assert dd_ranking.label_robust_score(1, 0) == pytest.approx(0.545, abs=5e-4)
    assert dd_ranking.augmentation_robust_score(0.5, 0.5, 0.4, 0.4) == pytest.approx(
        0.2689, abs=5e-5
    )


@given(shares, shares)
def test_the_ends_of_the_label_robust_score(ior, hlr):
    ours = dd_ranking.label_robust_score(ior, hlr)
    assert 0 <= ours <= 1
    assert dd_ranking.label_robust_score(1, -1) == pytest.approx(1)
    assert dd_ranking.label_robust_score(-1, 1) == pytest.approx(0)
    # An equal gain of both changes nothing at equal weights; one weight alone counts alone.
    assert dd_ranking.label_robust_score(ior / 2 + 0.1, hlr / 2 + 0.1) == pytest.approx(
        dd_ranking.label_robust_score(ior / 2, hlr / 2)
    )
    assert dd_ranking.label_robust_score(ior, hlr, 1.0) == dd_ranking.label_robust_score(
        ior, 0.3, 1.0
    )


@given(shares, shares, st.floats(0.01, 1))
def test_more_improvement_and_less_loss_are_better(ior, hlr, step):
    here = dd_ranking.label_robust_score(ior, hlr)
    assert dd_ranking.label_robust_score(ior + step, hlr) > here
    assert dd_ranking.label_robust_score(ior, hlr + step) < here


@given(shares, shares, shares, shares, st.floats(-0.5, 0.5))
def test_augmentation_score_depends_on_gains_only(a, b, c, d, shift):
    here = dd_ranking.augmentation_robust_score(a, b, c, d)
    assert dd_ranking.augmentation_robust_score(a + shift, b + shift, c, d) == pytest.approx(here)
    assert dd_ranking.augmentation_robust_score(c, d, a, b) == pytest.approx(here)
    swapped = dd_ranking.augmentation_robust_score(b, a, d, c)
    # (y + k)(y' + k) = k^2 ... of e^b and e^-b, so the product of both with their constant is one.
    constant, span = math.exp(-1), math.e - math.exp(-1)
    assert (here * span + constant) * (swapped * span + constant) == pytest.approx(1)


COMPLETE = [
    row("recovered", "fixed", 0.50),
    row("recovered", "online", 0.60, best=0.64),
    row("random", "online", 0.55, best=0.56),
    row("random", "fixed", 0.10),
    row("recovered", "hard", 0.40, best=0.41),
    row("random", "hard", 0.45),
    row("recovered", "plain", 0.30),
    row("random", "plain", 0.20),
    row("full", "hard", 0.90, best=0.92),
    row("recovered", "online", 0.20, ipc=1),
    row("recovered", "hard", 0.10, ipc=1),
]


def test_scores_of_a_student():
    last, best = dd_ranking.robustness_scores(COMPLETE)
    assert (last.student, last.epoch, best.epoch) == ("conv3", "last", "best")
    assert last.hlr == pytest.approx(0.5)
    assert last.ior == pytest.approx(0.05)
    assert last.regime == "online"  # before "fixed"
    assert last.lrs == pytest.approx(dd_ranking.label_robust_score(0.05, 0.5))
    assert last.ars == pytest.approx(dd_ranking.augmentation_robust_score(0.40, 0.45, 0.30, 0.20))
    assert best.hlr == pytest.approx(0.51)
    assert best.ior == pytest.approx(0.08)
    assert last.missing == {}
    assert sorted(last.scores) == sorted(
        f"conv3-{name}"
        for name in (
            *("full-hard-0", "recovered-hard-10", "random-hard-10"),
            *("recovered-plain-10", "random-plain-10", "recovered-online-10", "random-online-10"),
        )
    )


def without(*gone: tuple[str, str]) -> dd_ranking.Robustness:
    return dd_ranking.robustness_scores(
        [r for r in COMPLETE if (r.image_set, r.regime) not in gone]
    )[0]


def test_missing_rows_are_named():
    no_full = without(("full", "hard"))
    assert (no_full.hlr, no_full.lrs) == (None, None)
    assert no_full.ior == pytest.approx(0.05)
    assert no_full.missing == {"HLR": "not trained on full images (hard)", "LRS": "it needs HLR"}
    no_plain = without(("random", "plain"), ("recovered", "plain"))
    assert no_plain.ars is None
    assert no_plain.missing == {
        "ARS": "not trained on distilled images (plain), random images (plain)"
    }
    assert "full-hard-0" not in " ".join(no_full.scores)
    assert no_full.is_ranked  # by its ARS
    assert no_plain.is_ranked  # by its LRS
    assert not without(("full", "hard"), ("random", "plain")).is_ranked


def test_the_own_regime_is_one_that_both_have():
    one = without(("random", "online"))
    assert (one.regime, one.ior) == ("fixed", pytest.approx(0.4))
    none = without(("random", "online"), ("random", "fixed"))
    assert (none.regime, none.ior, none.lrs) == ("", None, None)
    assert none.missing["LRS"] == "it needs IOR"
    assert "same soft labels" in none.missing["IOR"]


def test_only_students_of_recovered_images_have_scores():
    assert dd_ranking.robustness_scores([row("random", "hard", 0.5)]) == []
    assert dd_ranking.robustness_scores([]) == []
    two = dd_ranking.robustness_scores([*COMPLETE, row("recovered", "hard", 0.5, student="vgg11")])
    assert [(r.student, r.epoch) for r in two] == [
        (student, epoch) for student in ("conv3", "vgg11") for epoch in ("last", "best")
    ]


def order_of(distilled, real, regime="online"):
    names = [f"net{i}" for i in range(len(real))]
    rows = [
        r
        for name, ours, theirs in zip(names, distilled, real, strict=True)
        for r in (row("recovered", regime, ours, name), row("full", "hard", theirs, name))
    ]
    return dd_ranking.rank_correlations(rows)


def test_rank_correlation_of_students():
    last, best = order_of([0.1, 0.2, 0.4, 0.3], [0.5, 0.6, 0.7, 0.8])
    assert (last.regime, last.epoch, best.epoch) == ("online", "last", "best")
    assert last.students == ["net0", "net1", "net2", "net3"]
    assert last.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert last.kendall == pytest.approx((5 - 1) / 6)
    assert len(last.scores) == 8
    reverse = order_of([0.3, 0.2, 0.1], [0.1, 0.2, 0.3])[0]
    assert (reverse.spearman, reverse.kendall) == (pytest.approx(-1), pytest.approx(-1))


def test_rank_correlation_needs_three_students_and_an_order():
    assert order_of([0.1, 0.2], [0.1, 0.2]) == []
    equal = order_of([0.1, 0.1, 0.1], [0.1, 0.2, 0.3])[0]
    assert (equal.spearman, equal.kendall) == (None, None)
    alone = [row("recovered", "online", i / 5, f"net{i}") for i in range(4)]
    assert dd_ranking.rank_correlations(alone) == []


def test_smaller_sets_do_not_count():
    rows = [replace(r, ipc=3) for r in COMPLETE if r.image_set == "recovered" and r.ipc == 10]
    ours = dd_ranking.robustness_scores(rows + [r for r in COMPLETE if r.image_set != "recovered"])
    assert ours[0].ior is None  # random images are of ten a class, not three


def test_rank_correlation_is_unknown_where_either_side_is_all_equal():
    (found, _) = order_of([0.1, 0.2, 0.3], [0.4, 0.4, 0.4])
    assert (found.spearman, found.kendall) == (None, None)
    (two_values, _) = order_of([0.1, 0.2, 0.2], [0.5, 0.6, 0.5])
    assert two_values.spearman == pytest.approx(0.5)  # ranks 1, 2.5, 2.5 against 1.5, 3, 1.5
    assert two_values.kendall == pytest.approx(0.5)  # one of three pairs, two tied on each side
    (few_ours, _) = order_of([0.1, 0.2, 0.2], [0.5, 0.6, 0.7])
    assert few_ours.spearman == pytest.approx(math.sqrt(3) / 2)
    (few_theirs, _) = order_of([0.1, 0.2, 0.3], [0.5, 0.6, 0.6])
    assert few_theirs.spearman == pytest.approx(math.sqrt(3) / 2)


def test_only_students_of_both_sides_are_ranked():
    rows = [
        *(row("recovered", "online", i / 10, f"net{i}") for i in range(3)),
        *(row("full", "hard", i / 5, f"net{i}") for i in range(1, 5)),
    ]
    assert dd_ranking.rank_correlations(rows) == []  # net1 and net2 alone
    (found, _) = dd_ranking.rank_correlations([*rows, row("full", "hard", 0.9, "net0")])
    assert found.students == ["net0", "net1", "net2"]


def test_the_best_epochs_have_their_own_order():
    rows = [
        *(row("recovered", "online", i / 10, f"net{i}", best=(3 - i) / 10) for i in range(3)),
        *(row("full", "hard", i / 5, f"net{i}") for i in range(3)),
    ]
    last, best = dd_ranking.rank_correlations(rows)
    assert (last.spearman, best.spearman) == (pytest.approx(1), pytest.approx(-1))


def test_the_whole_set_is_the_largest():
    assert dd_ranking.whole_ipc(COMPLETE) == 10
    assert dd_ranking.whole_ipc([]) == 0
    assert dd_ranking.whole_ipc([row("random", "hard", 0.5)]) == 0


def test_scores_by_hand():
    """(e^a - e^-1) / (e - e^-1) of a = -0.225 and of b = 0.025, in numbers."""
    assert dd_ranking.label_robust_score(0.05, 0.5) == pytest.approx(0.18322, abs=5e-6)
    ars = dd_ranking.augmentation_robust_score(0.40, 0.45, 0.30, 0.20)
    assert ars == pytest.approx(0.27971, abs=5e-6)
    assert dd_ranking.augmentation_robust_score(0.6, 0.2, 0.1, 0.4, 1.0) == pytest.approx(
        0.47819, abs=5e-6
    )
