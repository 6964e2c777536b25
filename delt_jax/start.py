"""The images that recovery starts from."""

import jax
import numpy as np

from delt_jax import keys
from delt_jax.data import Normalisation, Source
from delt_jax.recipe import Recipe


def start_images(
    recipe: Recipe,
    source: Source,
    normalisation: Normalisation,
    selected: np.ndarray,
    images: tuple[int, ...],
) -> np.ndarray:
    """Start of some images of the set, in the teacher's input space.

    Args:
      recipe: its `select.start` says "real" or "noise".
      source: of the real images.
      normalisation: the teacher's.
      selected: int [classes, ipc], indices of training images.
      images: indices (class * ipc + rank) within the set.

    Returns:
      float32 [len(images), S, S, C]; noise is N(0, 1) clipped to valid pixels, as SRe2L's.
    """
    if recipe.select.start == "real":
        chosen = selected.reshape(-1)[list(images)]
        return np.asarray(normalisation(source.train.images(chosen)))
    shape = (source.image_size, source.image_size, source.channels)
    low, high = normalisation.bounds()

    def noise(i):
        return jax.random.normal(keys.stream(recipe.seed, "start", i), shape)

    return np.stack([np.clip(np.asarray(noise(i)), low, high) for i in images])
