"""Named random streams: a key depends only on the seed and its name, not on earlier draws."""

import zlib

import chex
import jax

from delt_jax.core.random_numbers import IMPLEMENTATION


def stream(seed: int, *names: str | int) -> chex.PRNGKey:
    """Derives a typed PRNG key from a seed and a path of names.

    Folds in one name after another: strings by their CRC-32, integers unchanged. Two different
    paths give independent keys. The same path always gives the same key, whatever ran before and
    on any number of devices.

    Args:
      seed: the run's seed.
      *names: e.g. ``("recover", batch, step)``; integers in [0, 2**32).

    Returns:
      A scalar typed key (`jax.random.key`).
    """
    return derive(jax.random.key(seed, impl=IMPLEMENTATION), *names)


def derive(key: chex.PRNGKey, *names: str | int) -> chex.PRNGKey:
    """Folds a path of names into a key, as `stream` does; integers may be traced."""
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()) if isinstance(name, str) else name)
    return key
