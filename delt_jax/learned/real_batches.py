"""Real images of outer steps: drawn by the step's number alone, and shared out over devices."""

import zlib
from typing import Any, NamedTuple

import numpy as np

from delt_jax.data import Examples
from delt_jax.errors import UserError
from delt_jax.learned.method import Setup
from delt_jax.runtime import devices

_DRAWS = zlib.crc32(b"learn real images")


class DrawnImages(NamedTuple):
    """Training images of an outer step.

    Attributes:
      chosen: int [classes, B] where they come by class, else [B].
      more: int [M], further ones, mixed.
    """

    chosen: np.ndarray
    more: np.ndarray


class Pixels(NamedTuple):
    """Real images of some outer steps on the devices, uint8, before preprocessing.

    Attributes:
      images: uint8 [devices, 1, steps, (classes,) B / devices, S, S, C].
      labels: int32 with the same axes but for the last three.
      more: uint8 [devices, 1, steps, M, S, S, C] and int32 [devices, 1, steps, M], the same on
        every device; None where there are none.
    """

    images: Any
    labels: Any
    more: tuple[Any, Any] | None


class RealBatches:
    """Draws and reads real images, of which every step has as many."""

    def __init__(self, examples: Examples, setup: Setup, seed: int, by_class: bool):
        """Takes the training images.

        Raises:
          UserError: if a step would need more of them than there are.
        """
        self._examples, self._setup, self._seed = examples, setup, seed
        labels = np.asarray(examples.labels)
        self._pools = [np.arange(len(labels))]
        if by_class:
            self._pools = [np.flatnonzero(labels == c) for c in range(setup.num_classes)]
        self._by_class = by_class
        least = min(map(len, self._pools))
        if setup.real_batch > least or setup.more_real > len(labels):
            raise UserError(
                f"A step takes {setup.real_batch} real images"
                f"{' of each class' * by_class} and {setup.more_real} more, but there are "
                f"{least}{' of the smallest class' * by_class}; lower learn.real_batch."
            )

    def draw(self, step: int) -> DrawnImages:
        """Draws the images of a step without replacement."""
        draw = np.random.default_rng([self._seed, _DRAWS, step])
        size, count = self._setup.real_batch, len(self._examples)
        chosen = [pool[draw.choice(len(pool), size, replace=False)] for pool in self._pools]
        more = draw.choice(count, self._setup.more_real, replace=False)
        return DrawnImages(np.stack(chosen) if self._by_class else chosen[0], more)

    def read(self, steps: range, num_devices: int) -> Pixels:
        """Reads the images of some steps, and brings each device its share.

        Args:
          steps: numbers of outer steps.
          num_devices: divides the images of a step, or of each of its classes.
        """
        drawn = [self.draw(step) for step in steps]
        chosen = np.stack([one.chosen for one in drawn])
        shares = np.split(chosen, num_devices, axis=-1)
        images = devices.stack_jobs([self._pixels(share) for share in shares], num_devices)
        labels = devices.stack_jobs([self._labels(share) for share in shares], num_devices)
        if not self._setup.more_real:
            return Pixels(images, labels, None)
        more = np.stack([one.more for one in drawn])
        both = (self._pixels(more), self._labels(more))
        return Pixels(images, labels, devices.stack_jobs([both] * num_devices, num_devices))

    def _pixels(self, indices: np.ndarray) -> Any:
        pixels = self._examples.images(indices.reshape(-1))
        return pixels.reshape(*indices.shape, *pixels.shape[1:])

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._examples.labels, np.int32)[indices]


def devices_for(real_batch: int, available: int) -> int:
    """The most devices, of so many, that share a batch evenly."""
    return max(n for n in range(1, available + 1) if real_batch % n == 0)
