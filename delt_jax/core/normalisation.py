"""From stored pixels to the input space of the teacher, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # sets are loaded without JAX
    import chex


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels in [0, 1].

    Every model of a run sees images normalised with these; a distilled set records them.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_dict(self) -> dict[str, tuple[float, ...]]:
        """The values under the names that manifests and identities have."""
        return {"mean": self.mean, "std": self.std}

    def __call__(self, pixels: chex.Array) -> chex.Array:
        """Normalises uint8 [..., C] to float32."""
        import jax.numpy as jnp

        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
        return (jnp.asarray(pixels, jnp.float32) / 255.0 - mean) / std

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Normalised values of black and white, float32 [C] each."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return -mean / std, (1 - mean) / std

    def to_pixels(self, images: chex.Array, truncate: bool = False) -> np.ndarray:
        """Brings normalised float images [..., C] to uint8; rounds, or cuts off the fraction."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        unit = np.asarray(images, np.float32) * std + mean
        whole = np.floor(unit * 255.0) if truncate else np.rint(unit * 255.0)
        return np.clip(whole, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class AlreadyMapped:
    """Stands where a `Normalisation` does, for float images in the networks' space already."""

    def __call__(self, images: chex.Array) -> chex.Array:
        """The images as they are, float32 [..., C]."""
        import jax.numpy as jnp

        return jnp.asarray(images, jnp.float32)
