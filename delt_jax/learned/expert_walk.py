"""Which piece of which expert's training an outer step asks: drawn by the step's number alone."""

import zlib
from collections import OrderedDict
from typing import Any

import numpy as np

from delt_jax.learned import limits
from delt_jax.learned.expert_store import ExpertStore
from delt_jax.learned.matching_trajectories import latest_start
from delt_jax.learned.method import Setup

_DRAWS = zlib.crc32(b"learn experts")
_KEPT = 64  # weights that stay in memory

# Numbers that every method has that walks on experts, as options of a `Method`.
OPTIONS = (
    ("experts", 100.0),
    ("epochs", 50.0),  # of each expert
    ("expert_rate", 0.01),
    ("expert_batch", 256.0),
    ("radius", 0.0),  # of GSAM; 0 trains plainly
    ("surrogate", 0.3),  # GSAM's alpha
    ("float16", 0.0),  # 1 keeps what an epoch changed as float16
    ("expert_epochs", 2.0),  # M, from start to target
    ("first_start", 0.0),
    ("last_start", 2.0),  # T+
    ("grown_last_start", 0.0),  # DATM; 0 leaves the last start as it is
    ("grown_at", 0.0),
)


def refuse(setup: Setup) -> str:
    """What is wrong with `OPTIONS`: a piece must end where its expert does, or before."""
    wrong = (
        limits.whole(setup, 1, "experts", "epochs", "expert_batch", "expert_epochs")
        or limits.whole(setup, 0, "first_start", "last_start", "grown_last_start", "grown_at")
        or limits.not_negative(setup, "expert_rate", "radius", "surrogate")
        or limits.one_of(setup, "float16", 0, 1)
    )
    if wrong:
        return wrong
    first, last = int(setup.option("first_start")), int(setup.option("last_start"))
    grown = int(setup.option("grown_last_start")) or last
    if not first < last <= grown:
        return (
            f"first_start={first}, last_start={last} and grown_last_start={grown} must grow, "
            f"and starts lie below the latter two"
        )
    length, epochs = int(setup.option("expert_epochs")), int(setup.option("epochs"))
    if grown + length - 1 > epochs:
        return (
            f"a piece of expert_epochs={length} from the latest start, {grown - 1}, ends after the "
            f"expert's epochs={epochs}"
        )
    return ""


class ExpertWalk:
    """Draws pieces of experts' trainings, and reads them."""

    def __init__(self, store: ExpertStore, setup: Setup, seed: int):
        """Takes experts that are all there."""
        self._store, self._setup, self._seed = store, setup, seed
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def draw(self, step: int) -> tuple[int, int]:
        """Expert and first epoch of a step; starts are uniform below the latest one."""
        setup, draw = self._setup, np.random.default_rng([self._seed, _DRAWS, step])
        first, last = int(setup.option("first_start")), int(setup.option("last_start"))
        grown = int(setup.option("grown_last_start")) or last
        latest = int(latest_start(step, last, grown, int(setup.option("grown_at"))))
        return int(draw.integers(int(setup.option("experts")))), int(draw.integers(first, latest))

    def segment(self, step: int) -> dict[str, Any]:
        """Weights at the start of a step's piece ("params") and at its end ("target")."""
        expert, start = self.draw(step)
        end = start + int(self._setup.option("expert_epochs"))
        return {"params": self._read(expert, start), "target": self._read(expert, end)}

    def _read(self, expert: int, epoch: int) -> Any:
        place = expert, epoch
        if place not in self._kept:
            self._kept[place] = self._store.read(*place)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]
