"""Which network an outer step asks, and after which steps one is made anew: known in advance."""

import zlib
from typing import NamedTuple

import numpy as np

from delt_jax.learned.method import Pool

_DRAWS = zlib.crc32(b"learn pool")


class Turns(NamedTuple):
    """What some outer steps do with the pool.

    Attributes:
      drawn: int32 [steps], the network that each asks.
      renews: bool [steps], whether that network is made anew after it, instead of trained.
      ages: int32 [size], of the networks after these steps.
    """

    drawn: np.ndarray
    renews: np.ndarray
    ages: np.ndarray


def first_ages(pool: Pool, lifetime: int) -> np.ndarray:
    """Ages of fresh networks, int32 [size]; apart where the pool is staggered."""
    count = np.arange(pool.size) if pool.is_staggered else np.zeros(pool.size, int)
    return (count * lifetime // pool.size).astype(np.int32)


def turns(ages: np.ndarray, lifetime: int, seed: int, steps: range) -> Turns:
    """Draws a network for each of some outer steps, which depends on the step's number alone.

    Args:
      ages: int32 [size], before these steps.
      lifetime: steps after which a network is made anew; with 1 every step asks a fresh one.
      seed: of the run.
      steps: their numbers, from 0.
    """
    ages = ages.copy()
    asked, renews = np.zeros(len(steps), np.int32), np.zeros(len(steps), bool)
    for place, step in enumerate(steps):
        drawn = 0
        if len(ages) > 1:
            drawn = int(np.random.default_rng([seed, _DRAWS, step]).integers(len(ages)))
        asked[place], renews[place] = drawn, ages[drawn] + 1 >= lifetime
        ages[drawn] = 0 if renews[place] else ages[drawn] + 1
    return Turns(asked, renews, ages)
