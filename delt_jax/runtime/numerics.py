"""Random numbers and types as runs have them, whatever JAX's environment variables say.

Two settings of JAX change every random number: the implementation of keys, and whether threefry
is partitionable. Labels stored under one and students trained under another would see different
views. So both are fixed here, and manifests record them.
"""

import contextlib
from collections.abc import Iterator

import jax

from delt_jax.core.random_numbers import IMPLEMENTATION


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """A context in which this thread computes in 32 bits, with our keys and JAX's own promotion."""
    offset = jax.config.values["jax_random_seed_offset"]  # has no context of its own
    jax.config.update("jax_random_seed_offset", 0)
    try:
        with (
            jax.default_prng_impl(IMPLEMENTATION),
            jax.threefry_partitionable(True),
            jax.enable_x64(False),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            yield
    finally:
        jax.config.update("jax_random_seed_offset", offset)
