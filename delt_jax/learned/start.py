"""What is learned, before the first step: real images of each class or noise, and its labels."""

import numpy as np

from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import Examples, read
from delt_jax.learned import images
from delt_jax.learned.method import Learned, Method, Setup
from delt_jax.recovery.selection import random_images

_NOISE = 0x1EA5  # names the stream of noise


def of(
    kind: str, method: Method, examples: Examples, setup: Setup, space: Preprocessing, seed: int
) -> Learned:
    """Draws the start, which depends on the seed alone.

    Args:
      kind: "random" real images of each class, of a small class all in turn, or Gaussian "noise",
        of unit length where the space has it.
      method: says how labels start, and what else is learned.
      examples: the real images.
      setup: of the run.
      space: that images are learned in.
      seed: of the run.

    Returns:
      Host arrays, float32.
    """
    classes, size, channels = setup.num_classes, setup.spec.image_size, setup.spec.channels
    one_hot = np.repeat(np.eye(classes, dtype=np.float32), setup.ipc, 0)
    started = one_hot
    if method.labels in ("centred", "shifted"):
        scale = np.sqrt(classes / 10) if method.labels == "centred" else 1.0
        started = ((one_hot - 1 / classes) / scale).astype(np.float32)
    extra = {name: np.float32(setup.option(option)) for name, option in method.extra}
    if kind == "noise":
        draw = np.random.default_rng([seed, _NOISE])
        noise = draw.normal(size=(len(one_hot), size, size, channels))
        if space.has_unit_length:
            noise /= np.sqrt((noise**2).sum((1, 2, 3), keepdims=True))
        return Learned(noise.astype(np.float32), started, extra)
    # Those of a class that share a stored image follow each other.
    count = setup.ipc * setup.factor**2
    chosen = random_images(np.asarray(examples.labels), count, classes, seed)
    real = space(read(examples, chosen.reshape(-1)))
    return Learned(np.asarray(images.encode(real, setup.factor), np.float32), started, extra)
