"""Small sets on an accelerator, so that batches need no transfer."""

import functools
from dataclasses import dataclass, replace

import chex
import jax.numpy as jnp
import numpy as np

from delt_jax.data.held import HeldExamples, Kept
from delt_jax.data.source import ArrayExamples, Examples, Source
from delt_jax.runtime import devices as parallel

_SHARE = 0.1  # of the device's memory that real images may take; recovery and training need it


@dataclass(frozen=True)
class PlacedExamples(Kept):
    """Examples whose pixels lie on the first local device from their first use on."""

    @functools.cached_property
    def pixels(self) -> chex.Array:
        """All of them, uint8 [N, S, S, C], on the device."""
        return jnp.asarray(self.examples.images(np.arange(len(self))))


def device_budget() -> int:
    """Bytes of real images that the first local device takes; 0 on CPU, which has them anyway."""
    return int(_SHARE * (parallel.memory_limit() or 0))


def place(source: Source, budget: int) -> Source:
    """The source with every split that is in memory and fits into `budget` bytes on the device."""

    def placed(examples: Examples) -> Examples:
        nonlocal budget
        size = len(examples) * source.image_size**2 * source.channels
        if not isinstance(examples, ArrayExamples | HeldExamples) or size > budget:
            return examples
        budget -= size
        return PlacedExamples(examples)

    test = placed(source.test)  # first: it is smaller, and looked at again and again
    return replace(source, test=test, train=placed(source.train))
