"""Which programs a recovery compiles: the cheapest of all choices, and the same everywhere."""

import itertools

import pytest

from delt_jax.models import ModelSpec
from delt_jax.recovery.program import active_of
from delt_jax.recovery.run import sizes
from delt_jax.recovery.run.sizes import Price
from delt_jax.recovery.schedule import Round, make_schedule

BATCHES = make_schedule(3, 5, 12, 3, 10)  # the last batch is smaller
BUDGETS = make_schedule(3, 4, 12, 3, 12, class_iterations=(3, 9, 12))


def paid(schedule, chosen, price, chunk_steps=2):
    """Seconds for programs and wasted images, counted round by round."""
    programs, wasted = set(), 0
    for batch in schedule:
        for rnd in batch.rounds:
            computed = active_of(rnd.active)
            if chosen:
                computed = sizes.padded_size(rnd, len(batch.indices), chosen)
                wasted += rnd.iterations * (computed - len(rnd.active))
            programs |= {
                (len(batch.indices), computed, c) for c in sizes.calls(rnd, chunk_steps, 1)
            }
    return price.program * len(programs) + price.image * wasted


@pytest.mark.parametrize("schedule", [BATCHES, BUDGETS])
@pytest.mark.parametrize("image", [0.0, 0.01, 0.1, 1.0])
def test_the_choice_is_the_cheapest_of_all_subsets(schedule, image):
    price = Price(program=1.0, image=image)
    needs = sorted({sizes.needed_size(r) for batch in schedule for r in batch.rounds})
    options = [
        (*some, needs[-1])
        for n in range(len(needs))
        for some in itertools.combinations(needs[:-1], n)
    ]
    cheapest = min(paid(schedule, option, price) for option in options)
    chosen, exact = sizes.choose(schedule, 2, 1, price), paid(schedule, (), price)
    if chosen:
        assert paid(schedule, chosen, price) == pytest.approx(cheapest)
        assert cheapest < exact
    else:
        assert cheapest >= 0.9 * exact
    if image == 0:
        assert chosen == (needs[-1],)


def test_one_program_is_left_alone():
    assert sizes.choose(make_schedule(3, 4, 12, 0, 12), 1, 1, Price(1.0, 1.0)) == ()


def test_calls_of_a_round():
    assert sizes.calls(Round(4, 10, (0,)), 4, 1) == [(4, 0), (2, 0)]
    assert sizes.calls(Round(4, 10, (0,)), 4, 1, step=10) == [(4, 0)]
    assert sizes.calls(Round(4, 10, (0,)), 4, 1, step=14) == []
    assert sizes.calls(Round(1, 7, (0,)), 1, 3) == [(1, 1), (1, 2), (1, 0)]


@pytest.mark.parametrize(
    ("spec", "schedule", "cpu", "gpu"),
    [
        (ModelSpec("conv3", 10, 8, 1, width=32), (10, 5, 400, 50, 100), 1, 1),  # digits
        (ModelSpec("conv3", 10, 28, 1), (10, 10, 400, 50, 100), 3, 1),  # Fashion-MNIST
        (ModelSpec("resnet18", 1000, 224, 3), (1000, 10, 4000, 500, 100), 0, 0),  # ImageNet
    ],
)
def test_recipes(spec, schedule, cpu, gpu):
    """The number of masked programs; 0 where every round has its own."""
    for backend, steps, expected in (("cpu", 1, cpu), ("gpu", 50, gpu), ("tpu", 50, gpu)):
        price = sizes.price([spec], steps, backend)
        assert len(sizes.choose(make_schedule(*schedule), steps, 1, price)) == expected
