"""Measured peaks of the device: a large matrix product, and moving a large array."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

_TRIES = 5


class Peaks(NamedTuple):
    """Best of several tries, in operations and in bytes per second."""

    flops: float
    bytes: float

    def best(self, other: "Peaks") -> "Peaks":
        """The larger value of each."""
        return Peaks(max(self.flops, other.flops), max(self.bytes, other.bytes))


def measure(dtype: str) -> Peaks:
    """Times both on the default device, in a second or two.

    The matrix product is in `dtype` at JAX's default precision, which is TF32 for float32 on
    an NVIDIA GPU. The array is read once and written once.
    """
    small = jax.default_backend() == "cpu"
    side, numbers = (2048, 1 << 26) if small else (8192, 1 << 29)
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
    array = jnp.zeros(numbers, jnp.float32)
    return Peaks(
        2 * side**3 / _shortest(jax.jit(jnp.matmul), matrix, matrix),
        2 * array.nbytes / _shortest(jax.jit(lambda x: x + 1), array),
    )


def _shortest(fn, *arguments) -> float:
    jax.block_until_ready(fn(*arguments))
    seconds = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        jax.block_until_ready(fn(*arguments))
        seconds.append(time.perf_counter() - started)
    return min(seconds)
