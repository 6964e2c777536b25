"""Named random streams: a key depends on what it is for, never on when it is asked for."""

import zlib

import chex
import jax


def stream(seed: int, *names: str | int) -> chex.PRNGKey:
    """Derives a typed PRNG key from a seed and a path of names.

    Each name is folded in turn: strings by their CRC-32, integers as they are. Two
    different paths give independent keys, and the same path always gives the same key,
    whatever ran before, on however many devices.

    Args:
      seed: the run's seed.
      *names: e.g. ``("recover", batch, step)``; integers in [0, 2**32).

    Returns:
      A scalar typed key (`jax.random.key`).
    """
    return derive(jax.random.key(seed), *names)


def derive(key: chex.PRNGKey, *names: str | int) -> chex.PRNGKey:
    """Folds a path of names into a key, as `stream` does; integers may be traced."""
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()) if isinstance(name, str) else name)
    return key
