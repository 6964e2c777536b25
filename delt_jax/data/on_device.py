"""Small sets on an accelerator, so that batches need no transfer."""

import functools
from dataclasses import dataclass, replace

import chex
import jax.numpy as jnp
import numpy as np

from delt_jax.data.in_memory import CachedExamples, InMemoryExamples
from delt_jax.data.source import ArrayExamples, Examples, Source
from delt_jax.runtime import devices

_SHARE = 0.1  # of the device's memory for real images; recovery and training need the rest


@dataclass(frozen=True)
class OnDeviceExamples(CachedExamples):
    """Examples whose pixels move to the first local device at first use and stay there."""

    @functools.cached_property
    def pixels(self) -> chex.Array:
        """All of them, uint8 [N, S, S, C], on the device."""
        return jnp.asarray(self.examples.images(np.arange(len(self))))


def device_budget() -> int:
    """Bytes of real images for the first local device; 0 on a CPU, whose memory has them anyway."""
    return int(_SHARE * (devices.memory_limit() or 0))


def put_on_device(source: Source, budget: int) -> Source:
    """Puts on the device every split that is in memory and fits into `budget` bytes."""
    bytes_left = budget

    def on_device(examples: Examples) -> Examples:
        nonlocal bytes_left
        size = len(examples) * source.image_size**2 * source.channels
        if not isinstance(examples, ArrayExamples | InMemoryExamples) or size > bytes_left:
            return examples
        bytes_left -= size
        return OnDeviceExamples(examples)

    test = on_device(source.test)  # first: it is smaller, and read at every evaluation
    return replace(source, test=test, train=on_device(source.train))
