"""EarlyLate schedules: the recorded cases exactly, the paper's costs, and their invariants."""

import json
import random
import re

import pytest
from conftest import golden_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from delt_jax.errors import UserError
from delt_jax.recovery.schedule import (
    LAYOUTS,
    chart,
    check_rounds,
    cost,
    draw_class_iterations,
    join_rounds,
    make_schedule,
    plainest_layout,
)

CASES = [
    pytest.param(case, id=f"{path.stem}-{i}")
    for path in sorted(golden_dir().glob("schedule/*.json"))
    for i, case in enumerate(json.loads(path.read_text()))
]


def test_there_are_recorded_cases():
    assert CASES


@pytest.mark.parametrize("case", CASES)
def test_recorded_schedule(case):
    schedule = make_schedule(
        case["num_classes"],
        case["ipc"],
        case["max_iterations"],
        case["round_iterations"],
        case["batch_size"],
        case["class_iterations"],
    )
    assert len(schedule) == len(case["batches"])
    first = 0
    for ours, theirs in zip(schedule, case["batches"], strict=True):
        position = {image: image - first for image in ours.indices}
        assert sorted(position.values()) == list(range(len(theirs["labels"])))
        by_position = dict(zip(position.values(), ours.labels, strict=True))
        assert [by_position[p] for p in range(len(by_position))] == theirs["labels"]
        rounds = [sorted(position[ours.indices[p]] for p in r.active) for r in ours.rounds]
        assert rounds == theirs["rounds"]
        assert ours.iterations == theirs["total_iterations"]
        first += len(ours.indices)
    assert first == case["num_classes"] * case["ipc"]


@pytest.mark.parametrize(
    ("ipc", "active", "fraction"),
    [
        (50, (14, 28, 40, 52, 64, 76, 88, 100), 0.5775),
        (10, (20, 40, 50, 60, 70, 80, 90, 100), 0.6375),
    ],
)
def test_published_costs(ipc, active, fraction):
    schedule = make_schedule(1000, ipc, 4000, 500, 100)
    assert all(tuple(len(r.active) for r in batch.rounds) == active for batch in schedule)
    paid = cost(schedule, 4000)
    assert paid.full_image_iterations == 1000 * ipc * 4000
    assert paid.fraction == fraction


def test_without_rounds_every_image_is_fully_optimised():
    schedule = make_schedule(3, 4, 70, 0, 5)
    assert cost(schedule, 70).fraction == 1
    assert [len(batch.rounds) for batch in schedule] == [1, 1, 1]
    assert [batch.indices for batch in schedule] == [
        tuple(range(5)),
        tuple(range(5, 10)),
        (10, 11),
    ]


def test_rounds_without_an_image_are_dropped():
    # Four groups of one image; the second batch holds those of rounds 2 and 3 alone.
    early, late = make_schedule(1, 4, 40, 10, 2)
    assert (early.iterations, early.start_iterations, len(early.rounds)) == (40, (0, 10), 4)
    assert (late.iterations, late.start_iterations, len(late.rounds)) == (20, (0, 10), 2)
    assert [r.active for r in late.rounds] == [(0,), (0, 1)]


def test_one_per_class_takes_a_rank_of_consecutive_classes():
    # Five classes of two images, three images to a batch; image = class * 2 + rank.
    schedule = make_schedule(5, 2, 40, 20, 3, layout="one_per_class")
    assert [batch.indices for batch in schedule] == [(0, 2, 4), (6, 8), (1, 3, 5), (7, 9)]
    assert [batch.labels for batch in schedule] == [(0, 1, 2), (3, 4), (0, 1, 2), (3, 4)]
    # The second of each class has the second round alone: a schedule of its own over it.
    assert [batch.iterations for batch in schedule] == [40, 40, 20, 20]
    assert [batch.start_iterations for batch in schedule] == [(0, 0, 0), (0, 0), (0, 0, 0), (0, 0)]
    assert [len(batch.rounds) for batch in schedule] == [2, 2, 1, 1]


def test_one_per_class_costs_what_class_major_costs():
    for ipc, fraction in ((50, 0.5775), (10, 0.6375)):
        schedule = make_schedule(1000, ipc, 4000, 500, 100, layout="one_per_class")
        assert len(schedule) == 10 * ipc
        assert {len(batch.indices) for batch in schedule} == {100}
        assert cost(schedule, 4000).fraction == fraction


@given(ipc=st.integers(1, 60), rounds=st.integers(1, 12))
def test_groups_are_even_and_the_larger_come_first(ipc, rounds):
    joins = join_rounds(ipc, rounds)
    sizes = [joins.count(k) for k in range(rounds)]
    assert list(joins) == sorted(joins)
    assert sum(sizes) == ipc
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@st.composite
def layouts(draw, budgets: bool):
    rounds, length, classes = (draw(st.integers(1, n)) for n in (8, 5, 5))
    budget = st.integers(1, rounds).map(lambda r: r * length)
    ipc, layout = draw(st.integers(1, 14)), draw(st.sampled_from(list(LAYOUTS)))
    least = ipc if layout == "whole_classes" else 1
    return {
        "num_classes": classes,
        "ipc": ipc,
        "iterations": rounds * length,
        "round_iterations": length,
        "batch_size": draw(st.integers(least, 30)),
        "class_iterations": tuple(draw(budget) for _ in range(classes)) if budgets else (),
        "layout": layout,
    }


def optimised(batch):
    """Iterations in which each position of a batch is active."""
    at = [[] for _ in batch.indices]
    for r in batch.rounds:
        for p in r.active:
            at[p] += range(r.start, r.start + r.iterations)
    return at


@settings(deadline=None)
@given(layouts(budgets=False))
def test_images_join_once_and_stay_to_the_end(layout):
    schedule = make_schedule(**layout)
    ipc, total, length = (layout[k] for k in ("ipc", "iterations", "round_iterations"))
    joins = join_rounds(ipc, total // length)
    images = [image for batch in schedule for image in batch.indices]
    assert sorted(images) == list(range(layout["num_classes"] * ipc))
    for batch in schedule:
        assert list(batch.labels) == [image // ipc for image in batch.indices]
        assert list(batch.start_iterations) == sorted(batch.start_iterations)
        for r in batch.rounds:
            assert r.active == tuple(range(len(r.active)))
            assert r.active
        for image, join, at in zip(
            batch.indices, batch.start_iterations, optimised(batch), strict=True
        ):
            assert at == list(range(join, batch.iterations))
            assert len(at) == total - joins[image % ipc] * length


@settings(deadline=None)
@given(layouts(budgets=True).map(lambda layout: layout | {"layout": "one_per_class"}))
def test_one_per_class_never_repeats_a_class_in_a_batch(layout):
    schedule = make_schedule(**layout)
    ipc, size = layout["ipc"], layout["batch_size"]
    assert len(schedule) == ipc * -(-layout["num_classes"] // size)
    for batch in schedule:
        assert len(set(batch.labels)) == len(batch.labels) <= size
        assert len({image % ipc for image in batch.indices}) == 1


@settings(deadline=None)
@given(layouts(budgets=True))
def test_class_budgets_freeze_their_images(layout):
    schedule = make_schedule(**layout)
    ipc, total, length = (layout[k] for k in ("ipc", "iterations", "round_iterations"))
    for batch in schedule:
        dropped = total - batch.iterations
        for image, join, at in zip(
            batch.indices, batch.start_iterations, optimised(batch), strict=True
        ):
            budget = layout["class_iterations"][image // ipc]
            joins = join_rounds(ipc, budget // length)[image % ipc] * length
            assert join + dropped == joins
            assert [t + dropped for t in at] == list(range(joins, budget))


@settings(deadline=None)
@given(layouts(budgets=True))
def test_image_iterations_are_the_steps_summed_over_images(layout):
    schedule = make_schedule(**layout)
    for batch in schedule:
        assert batch.image_iterations == sum(len(at) for at in optimised(batch))
        assert [r.start for r in batch.rounds] == [
            k * layout["round_iterations"] for k in range(len(batch.rounds))
        ]
    assert cost(schedule, layout["iterations"]).image_iterations == sum(
        batch.image_iterations for batch in schedule
    )


@given(iterations=st.integers(1, 3000), rounds=st.integers(1, 900))
def test_rounds_must_divide_the_iterations(iterations, rounds):
    if iterations % rounds == 0:
        check_rounds(iterations, rounds)
        return
    with pytest.raises(UserError, match=r"must divide recover\.iterations") as caught:
        check_rounds(iterations, rounds)
    below, above = map(int, re.findall(r"fit are (\d+) and (\d+)", str(caught.value))[0])
    assert below % rounds == above % rounds == 0
    assert above == below + rounds
    assert below > 0
    assert below < iterations < above or iterations < rounds == below


def test_make_schedule_refuses_rounds_that_do_not_divide():
    with pytest.raises(UserError, match="the nearest iterations that fit are 4000 and 4500"):
        make_schedule(10, 10, 4100, 500, 100)


@pytest.mark.parametrize("name", ["num_classes", "ipc", "batch_size"])
def test_make_schedule_refuses_nothing_to_do(name):
    good = {"num_classes": 2, "ipc": 3, "iterations": 4, "round_iterations": 2, "batch_size": 3}
    make_schedule(**good)
    with pytest.raises(UserError, match="at least one class"):
        make_schedule(**(good | {name: 0}))


@pytest.mark.parametrize("round_iterations", [0, 500])
def test_with_no_iterations_every_batch_is_there_but_no_round(round_iterations):
    schedule = make_schedule(3, 2, 0, round_iterations, 2, layout="one_per_class")
    assert [batch.indices for batch in schedule] == [(0, 2), (4,), (1, 3), (5,)]
    assert {
        (b.iterations, b.rounds, len(b.start_iterations) == len(b.indices)) for b in schedule
    } == {(0, (), True)}
    paid = cost(schedule, 0)
    assert (paid.image_iterations, paid.fraction) == (0, 0.0)
    assert chart(2, 0, round_iterations) == [
        "  nothing is optimised: the distilled set is its start"
    ]
    with pytest.raises(UserError, match=r"recover\.iterations -1"):
        make_schedule(3, 2, -1, 0, 2)


def test_make_schedule_refuses_negative_rounds():
    with pytest.raises(UserError, match=r"recover\.round_iterations -2"):
        make_schedule(2, 3, 4, -2, 3)


@pytest.mark.parametrize("budgets", [(20,), (20, 25), (20, 0), (20, 50), (20, -10)])
def test_make_schedule_refuses_bad_budgets(budgets):
    with pytest.raises(UserError, match="multiple of 10 iterations, at most 40"):
        make_schedule(2, 3, 40, 10, 3, budgets)


@given(rounds=st.integers(1, 8), length=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_drawn_budgets_are_in_range_and_reproducible(rounds, length, seed, data):
    lowest = data.draw(st.integers(1, rounds)) * length
    budgets = draw_class_iterations(30, rounds * length, length, lowest, seed)
    assert len(budgets) == 30
    assert all(b % length == 0 and lowest <= b <= rounds * length for b in budgets)
    assert budgets == draw_class_iterations(30, rounds * length, length, lowest, seed)


def test_drawn_budgets_cover_the_range_and_depend_on_the_seed():
    budgets = draw_class_iterations(1000, 40, 10, 20, 0)
    counts = {b: budgets.count(b) for b in set(budgets)}
    assert set(counts) == {20, 30, 40}
    assert all(270 < n < 400 for n in counts.values())
    assert budgets != draw_class_iterations(1000, 40, 10, 20, 1)


def test_chart_draws_one_bar_per_group():
    assert chart(3, 40, 10, width=8) == [
        "  images 0         ████████ 40 iterations",
        "  images 1           ██████ 30 iterations",
        "  images 2             ████ 20 iterations",
    ]
    assert chart(10, 4000, 0) == [f"  images 0-9       {'█' * 40} 4000 iterations"]


@given(ipc=st.integers(1, 40), rounds=st.integers(1, 10), length=st.integers(1, 50))
def test_chart_names_every_image_once(ipc, rounds, length):
    lines = chart(ipc, rounds * length, length)
    named, steps = [], []
    for line in lines:
        first, last, iterations = re.match(
            r"  images (\d+)(?:-(\d+))? .* (\d+) iter", line
        ).groups()
        named += range(int(first), int(last or first) + 1)
        steps += [int(iterations)] * (int(last or first) + 1 - int(first))
    assert named == list(range(ipc))
    assert steps == [(rounds - k) * length for k in join_rounds(ipc, rounds)]


@settings(deadline=None)
@given(layouts(budgets=True), st.data())
def test_image_iterations_left_are_counted_step_by_step(layout, data):
    for batch in make_schedule(**layout):
        step = data.draw(st.integers(0, layout["iterations"] + 3))
        left = sum(t >= step for at in optimised(batch) for t in at)
        assert batch.image_iterations_after(step) == left


def test_image_iterations_left_by_hand():
    """Rounds of ten iterations with 1, 2 and 3 images."""
    (batch,) = make_schedule(1, 3, 30, 10, 3)
    left = [batch.image_iterations_after(step) for step in (0, 4, 10, 19, 20, 29, 30, 31)]
    assert left == [60, 56, 50, 32, 30, 3, 0, 0]


def test_a_batch_of_late_images_counts_from_its_own_start():
    _, late = make_schedule(1, 4, 40, 10, 2)
    assert [(r.start, r.iterations) for r in late.rounds] == [(0, 10), (10, 10)]
    assert [late.image_iterations_after(step) for step in (0, 9, 10, 15, 20)] == [30, 21, 20, 10, 0]


def test_budgets_are_the_draws_of_their_named_stream():
    draw = random.Random("class budgets 5")
    expected = tuple(7 * draw.randint(2, 4) for _ in range(6))
    assert draw_class_iterations(6, 30, 7, 20, 5) == expected


def test_a_chart_rounds_its_bars_and_names_ranges():
    assert chart(5, 30, 10, width=10) == [
        "  images 0-1       ██████████ 30 iterations",
        "  images 2-3          ███████ 20 iterations",
        "  images 4                ███ 10 iterations",
    ]


def test_every_image_is_in_one_batch_whose_last_may_be_smaller():
    assert [tuple(b) for b in LAYOUTS["class_major"](2, 3, 4)] == [(0, 1, 2, 3), (4, 5)]
    assert [tuple(b) for b in LAYOUTS["class_major"](1, 4, 2)] == [(0, 1), (2, 3)]
    assert [tuple(b) for b in LAYOUTS["one_per_class"](3, 2, 2)] == [(0, 2), (4,), (1, 3), (5,)]
    whole = [tuple(b) for b in LAYOUTS["whole_classes"](5, 3, 8)]
    assert whole == [tuple(range(6)), tuple(range(6, 12)), (12, 13, 14)]


def test_whole_classes_are_never_cut():
    """IPC 33 in batches of 100: three classes each, and one alone."""
    schedule = make_schedule(10, 33, 1000, 0, 100, layout="whole_classes")
    labels = [sorted(set(batch.labels)) for batch in schedule]
    assert labels == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert [len(batch.labels) for batch in schedule] == [99, 99, 99, 33]
    with pytest.raises(UserError, match=r"ipc \(101\) is more than recover.batch_size \(100\)"):
        make_schedule(10, 101, 1000, 0, 100, layout="whole_classes")


def test_batches_that_cut_no_class_have_one_name():
    assert plainest_layout("whole_classes", 10, 30, 100) == "whole_classes"
    assert plainest_layout("whole_classes", 10, 10, 100) == "class_major"
    assert plainest_layout("whole_classes", 3, 30, 100) == "class_major"  # all in one batch
    assert plainest_layout("one_per_class", 10, 1, 100) == "one_per_class"


def test_nothing_to_do_is_refused_in_numbers():
    for wrong in ({"ipc": 0}, {"num_classes": 0}, {"batch_size": 0}, {"iterations": -1}):
        numbers = {"num_classes": 1, "ipc": 1, "batch_size": 1, "iterations": 1}
        make_schedule(**numbers, round_iterations=1)
        with pytest.raises(UserError, match="A schedule needs at least one class"):
            make_schedule(**(numbers | wrong), round_iterations=1)


def test_with_no_iterations_images_have_their_class_and_join_at_once():
    (batch,) = make_schedule(2, 2, 0, 0, 4)
    assert batch.indices == (0, 1, 2, 3)
    assert batch.labels == (0, 0, 1, 1)
    assert batch.start_iterations == (0, 0, 0, 0)


def test_one_iteration_of_one_image_costs_one():
    paid = cost(make_schedule(1, 1, 1, 0, 1), 1)
    assert (paid.image_iterations, paid.full_image_iterations, paid.fraction) == (1, 1, 1.0)
