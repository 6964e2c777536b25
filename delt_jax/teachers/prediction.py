"""What a model answers to many images: batches go round the local devices."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax.core.normalisation import AlreadyMapped
from delt_jax.data import Normalisation
from delt_jax.models.tap import logits_and_features
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program

BATCH = 500  # images read at a time for inference
_CPU_PIXELS = 500 * 28**2  # per forward pass; more cost a CPU memory and save it no time
_DEVICE_PIXELS = 500 * 128**2


def batch_size(image_size: int) -> int:
    """Images per forward pass of `predict`: `BATCH`, or fewer of large images."""
    pixels = _CPU_PIXELS if jax.default_backend() == "cpu" else _DEVICE_PIXELS
    return min(BATCH, max(8, pixels // image_size**2))


@functools.lru_cache(maxsize=64)
def _forward(
    model: nn.Module,
    normalisation: Normalisation | AlreadyMapped,
    num_devices: int,
    shape: tuple[int, ...],
) -> Program:
    """A forward pass of a batch of pixels of a shape on each of some devices."""

    def forward(_, job, __):
        pixels, variables = job
        return logits_and_features(model, variables, normalisation(pixels))

    return Program(devices.map_jobs(forward, num_devices))


def predict(
    model: nn.Module,
    variables: dict[str, Any],
    normalisation: Normalisation | AlreadyMapped,
    images: Iterable[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a model in eval mode over batches of pixels.

    Args:
      model: a module of `delt_jax.models`.
      variables: those of the model.
      normalisation: of its inputs.
      images: uint8 arrays [b, S, S, C] of any b, or what the normalisation takes.

    Returns:
      float32 logits [N, classes] and pooled features [N, D].
    """
    parts = list(predictions(model, variables, normalisation, images))
    return np.concatenate([z for z, _ in parts]), np.concatenate([f for _, f in parts])


def predictions(
    model: nn.Module,
    variables: dict[str, Any],
    normalisation: Normalisation | AlreadyMapped,
    images: Iterable[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields what `predict` returns, part by part, in order; for more images than memory holds.

    Each local device takes a batch, where there are enough of them; the numbers are those of one.
    """
    pieces: Iterator[Any] = (piece for stack in images for piece in in_batches(stack))
    # Of what else `init` returns nothing is read.
    variables = {k: variables[k] for k in ("params", "batch_stats") if k in variables}
    num_devices, placed = devices.device_count(), None
    waiting: tuple[Any, list[int]] | None = None  # answers of the group before, still on devices
    while group := list(itertools.islice(pieces, num_devices)):
        if placed is None:  # now it shows whether there are enough
            num_devices = num_devices if len(group) == num_devices else 1
            placed = devices.copies_for_jobs(variables, num_devices)
            pieces = itertools.chain(group[num_devices:], pieces)
            group = group[:num_devices]
        # All batches are padded to one size, so that one program fits all.
        stacked = devices.stack_jobs([_padded(piece) for piece in group], num_devices)
        forward = _forward(model, normalisation, num_devices, stacked.shape[2:])
        answers = forward((), (stacked, placed), ())
        if waiting is not None:
            yield from _on_host(*waiting)
        waiting = answers, [len(piece) for piece in group]
    if waiting is not None:
        yield from _on_host(*waiting)


def _on_host(answers: Any, counts: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Answers [devices, 1, batch, ...] without those of padding, device by device."""
    for i, count in enumerate(counts):
        logits, features = devices.job(answers, i)
        yield logits[:count], features[:count]


def _padded(pixels: chex.Array) -> chex.Array:
    """Pixels [b, S, S, C] with zeros up to the size of a batch."""
    short = batch_size(pixels.shape[1]) - len(pixels)
    if short <= 0:
        return pixels
    pad = np.pad if isinstance(pixels, np.ndarray) else jnp.pad
    return pad(pixels, ((0, short), (0, 0), (0, 0), (0, 0)))


def in_batches(pixels: np.ndarray) -> Iterable[np.ndarray]:
    """Cuts pixels [N, S, S, C] into batches of a forward pass."""
    size = batch_size(pixels.shape[1])
    return (pixels[i : i + size] for i in range(0, len(pixels), size))
