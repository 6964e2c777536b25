"""EarlyLate as plain data: which images of a batch are optimised in which iterations.

DELT (arXiv 2411.19946) splits the IPC images of a class into M = T / R groups,
one of which joins the optimisation every R iterations; all finish together. Nothing here
depends on JAX: the schedule is made of Python integers, computed before anything runs.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delt_jax.errors import UserError


@dataclass(frozen=True)
class Round:
    """A stretch of iterations with one set of active images.

    Attributes:
      start: first iteration, counted within the batch.
      iterations: number of iterations.
      active: positions (in the batch's joining order) that are optimised, ascending.
    """

    start: int
    iterations: int
    active: tuple[int, ...]


@dataclass(frozen=True)
class BatchSchedule:
    """The schedule of one batch.

    Attributes:
      indices: index in the whole set (class * IPC + rank) of each image, in joining order:
        earliest round first, ascending within a round. Without class budgets the active images of
        every round are therefore the first ones.
      labels: class of each image, in the same order.
      start_iterations: iteration at which each image joins, in the same order.
      end_iterations: iteration from which on each image is frozen, in the same order.
      iterations: number that the learning rate and the crop curriculum run over.
      rounds: the rounds that optimise at least one image, in order.
    """

    indices: tuple[int, ...]
    labels: tuple[int, ...]
    start_iterations: tuple[int, ...]
    end_iterations: tuple[int, ...]
    iterations: int
    rounds: tuple[Round, ...]

    @property
    def image_iterations(self) -> int:
        """Gradient steps summed over images: the cost of the batch."""
        return sum(r.iterations * len(r.active) for r in self.rounds)

    def image_iterations_after(self, step: int) -> int:
        """Gradient steps left after `step` iterations, summed over images."""
        return sum(
            len(r.active) * (r.iterations - min(max(step - r.start, 0), r.iterations))
            for r in self.rounds
        )


def relabel_from_zero(labels: Sequence[int]) -> tuple[int, ...]:
    """Numbers classes from 0 in the order of their first appearance.

    >>> relabel_from_zero((7, 7, 3, 7, 5))
    (0, 0, 1, 0, 2)
    """
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


def join_rounds(ipc: int, rounds: int) -> tuple[int, ...]:
    """Round in which each of a class's images joins, in order of rank.

    IPC // rounds images join per round, and one more in each of the first IPC mod rounds.

    >>> join_rounds(10, 8)
    (0, 0, 1, 1, 2, 3, 4, 5, 6, 7)
    """
    sizes = [ipc // rounds + (k < ipc % rounds) for k in range(rounds)]
    return tuple(itertools.chain.from_iterable([k] * n for k, n in enumerate(sizes)))


def check_rounds(iterations: int, round_iterations: int) -> None:
    """Raises a UserError unless R divides T (or is 0, for no EarlyLate)."""
    if round_iterations and iterations % round_iterations:
        below = max(iterations // round_iterations, 1) * round_iterations
        raise UserError(
            f"recover.round_iterations ({round_iterations}) must divide recover.iterations "
            f"({iterations}); the nearest iterations that fit are {below} and "
            f"{below + round_iterations}."
        )


def draw_class_iterations(
    num_classes: int, iterations: int, round_iterations: int, min_iterations: int, seed: int
) -> tuple[int, ...]:
    """Class budgets: per class a uniform number of rounds in [min_iterations // R, T // R].

    The released option ``--min-iterations``; returns iterations per class, multiples of R.
    """
    draw = random.Random(f"class budgets {seed}")
    low, high = min_iterations // round_iterations, iterations // round_iterations
    return tuple(draw.randint(low, high) * round_iterations for _ in range(num_classes))


def _class_major(num_classes: int, ipc: int, batch_size: int) -> list[range]:
    """All images of a class adjacent, cut wherever a batch is full."""
    count = num_classes * ipc
    return [range(i, min(i + batch_size, count)) for i in range(0, count, batch_size)]


def _whole_classes(num_classes: int, ipc: int, batch_size: int) -> list[range]:
    """The same with as many classes to a batch as fit as a whole."""
    classes = batch_size // ipc
    if not classes:
        raise UserError(
            f'recover.layout "whole_classes" never cuts a class, but ipc ({ipc}) is more than '
            f"recover.batch_size ({batch_size}); raise recover.batch_size to {ipc} or more."
        )
    return _class_major(num_classes, ipc, classes * ipc)


def _one_per_class(num_classes: int, ipc: int, batch_size: int) -> list[range]:
    """For each rank the classes in consecutive chunks, one image of each."""
    return [
        range(first * ipc + rank, min(first + batch_size, num_classes) * ipc, ipc)
        for rank in range(ipc)
        for first in range(0, num_classes, batch_size)
    ]


# Each maps (num_classes, ipc, batch_size) to the indices (class * IPC + rank) of every batch.
LAYOUTS: dict[str, Callable[[int, int, int], Sequence[Sequence[int]]]] = {
    "class_major": _class_major,
    "whole_classes": _whole_classes,
    "one_per_class": _one_per_class,
}


def plainest_layout(layout: str, num_classes: int, ipc: int, batch_size: int) -> str:
    """The layout by which identities name these batches.

    That is "class_major" where it cuts no class, so that a set is found again whichever of the two
    it was made by.
    """
    if layout != "whole_classes":
        return layout
    plain, whole = (LAYOUTS[name](num_classes, ipc, batch_size) for name in ("class_major", layout))
    return "class_major" if plain == whole else layout


def make_schedule(  # noqa: PLR0913 (the plain numbers that describe a set; callers name them)
    num_classes: int,
    ipc: int,
    iterations: int,
    round_iterations: int,
    batch_size: int,
    class_iterations: Sequence[int] = (),
    layout: str = "class_major",
) -> tuple[BatchSchedule, ...]:
    """Lays out the EarlyLate optimisation of a whole distilled set.

    In "class_major" all IPC images of a class are adjacent, `batch_size` images to a batch, the
    last batch possibly smaller. In "whole_classes" (WMDD) no class is cut. In "one_per_class"
    (SRe2L, CDA) a batch holds one rank of up to `batch_size` consecutive classes. The round in
    which an image joins follows from its rank in each.

    Rounds in which a batch has no active image yet are dropped and its iterations shrink by
    `round_iterations` each; so a batch whose images all have one late rank runs through learning
    rate and curriculum in fewer iterations. A class with a budget of r rounds spreads its images
    over r rounds and is frozen after them.

    Args:
      num_classes: number of classes.
      ipc: images per class.
      iterations: T, iterations of the first images; with 0 no batch has a round.
      round_iterations: R, iterations per round; 0 means one round, i.e. full optimisation.
      batch_size: images per batch.
      class_iterations: budget of each class; empty means T for all.
      layout: a key of `LAYOUTS`.

    Returns:
      One `BatchSchedule` per batch.

    Raises:
      UserError: if a number is out of range or R does not divide T or a budget.
    """
    if min(num_classes, ipc, batch_size) < 1 or min(iterations, round_iterations) < 0:
        raise UserError(
            f"A schedule needs at least one class, image and image per batch, but got "
            f"{num_classes} classes, ipc {ipc}, recover.iterations {iterations}, "
            f"recover.round_iterations {round_iterations}, recover.batch_size {batch_size}."
        )
    check_rounds(iterations, round_iterations)
    batches = LAYOUTS[layout](num_classes, ipc, batch_size)
    if not iterations:
        never = [(0,) * len(b) for b in batches]
        return tuple(
            BatchSchedule(tuple(b), tuple(i // ipc for i in b), zeros, zeros, 0, rounds=())
            for b, zeros in zip(batches, never, strict=True)
        )
    round_iterations = round_iterations or iterations
    budgets = tuple(class_iterations) or (iterations,) * num_classes
    _check_budgets(budgets, num_classes, iterations, round_iterations)
    class_rounds = [budget // round_iterations for budget in budgets]
    joins = [join_rounds(ipc, rounds) for rounds in class_rounds]  # by class and rank
    total_rounds = iterations // round_iterations
    return tuple(
        _batch_schedule(members, joins, class_rounds, total_rounds, round_iterations)
        for members in batches
    )


def _check_budgets(
    budgets: Sequence[int], num_classes: int, iterations: int, round_iterations: int
) -> None:
    if len(budgets) != num_classes or any(
        b % round_iterations or not round_iterations <= b <= iterations for b in budgets
    ):
        raise UserError(
            f"Class budgets must be one multiple of {round_iterations} iterations, at most "
            f"{iterations}, for each of the {num_classes} classes; got {budgets}."
        )


def _batch_schedule(
    members: Sequence[int],
    joins: Sequence[Sequence[int]],
    class_rounds: Sequence[int],
    total_rounds: int,
    round_iterations: int,
) -> BatchSchedule:
    """Schedule of one batch.

    Args:
      members: images of the batch, class * IPC + rank each.
      joins: round in which an image joins, by class and rank.
      class_rounds: rounds of each class, after which its images are frozen.
      total_rounds: rounds of the first images.
      round_iterations: R.
    """
    ipc = len(joins[0])
    indices = tuple(sorted(members, key=lambda i: joins[i // ipc][i % ipc]))
    join = [joins[i // ipc][i % ipc] for i in indices]
    leave = [class_rounds[i // ipc] for i in indices]
    empty = min(join)  # leading rounds without an image are dropped
    rounds = []
    for k in range(empty, max(leave)):
        active = tuple(p for p in range(len(indices)) if join[p] <= k and k < leave[p])
        rounds.append(Round((k - empty) * round_iterations, round_iterations, active))
    return BatchSchedule(
        indices=indices,
        labels=tuple(i // ipc for i in indices),
        start_iterations=tuple((k - empty) * round_iterations for k in join),
        end_iterations=tuple((k - empty) * round_iterations for k in leave),
        iterations=(total_rounds - empty) * round_iterations,
        rounds=tuple(rounds),
    )


@dataclass(frozen=True)
class Cost:
    """Image-iterations of a schedule against those of optimising every image for T."""

    image_iterations: int
    full_image_iterations: int

    @property
    def fraction(self) -> float:
        """Share of full optimisation that is paid, in [0, 1]; 0 where nothing is optimised."""
        return self.image_iterations / max(self.full_image_iterations, 1)


def cost(schedule: Sequence[BatchSchedule], iterations: int) -> Cost:
    """Sums the image-iterations of all batches; `iterations` is T."""
    num_images = sum(len(batch.indices) for batch in schedule)
    return Cost(sum(batch.image_iterations for batch in schedule), num_images * iterations)


def chart(ipc: int, iterations: int, round_iterations: int, width: int = 40) -> list[str]:
    """Draws one class's EarlyLate groups as text bars, one line per group.

    Images that join together share a line; the bar spans the iterations they are optimised.
    """
    if not iterations:
        return ["  nothing is optimised: the distilled set is its start"]
    round_iterations = round_iterations or iterations
    rounds = iterations // round_iterations
    joins = join_rounds(ipc, rounds)
    lines = []
    for k in sorted(set(joins)):
        members = [i for i, j in enumerate(joins) if j == k]
        blank = round(width * k / rounds)
        names = f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}"
        lines.append(
            f"  images {names:<9} {' ' * blank}{'█' * (width - blank)} "
            f"{(rounds - k) * round_iterations} iterations"
        )
    return lines
