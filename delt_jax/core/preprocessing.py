"""The space in which learned images live: standardised, of unit length or whitened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from delt_jax.core.normalisation import Normalisation

if TYPE_CHECKING:  # sets are loaded without JAX
    import chex

KINDS = ("standardise", "unit", "zca", "unit_zca", "kornia")
# Of an image that is divided by its own. One grey level in one pixel has more; one of a single
# colour has less, which is what rounding leaves of it.
LEAST_LENGTH = 1e-3


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Maps pixels to the input space of networks that train on learned images, and back.

    Pixels in [0, 1] are standardised per channel. Kinds that begin with "unit" then subtract an
    image's own mean and scale it to unit length. Where there is a matrix, images are flattened,
    centred and multiplied by it. Every image that meets such a network goes through the same map:
    learned images lie in its range from the start, real ones are mapped.

    Attributes:
      kind: "standardise" or "unit" (without a matrix), or how the matrix was made: "zca" (FRePo,
        RCIG), "kornia" (the family of MTT) or "unit_zca" (RaT-BPTT).
      normalisation: mean and std of pixels in [0, 1].
      matrix: float32 [S * S * C, S * S * C], or None.
      centre: float32 [S * S * C], subtracted before the matrix; None where there is none.
    """

    kind: str
    normalisation: Normalisation
    matrix: np.ndarray | None = None
    centre: np.ndarray | None = None

    def __call__(self, pixels: chex.Array) -> chex.Array:
        """Maps uint8 pixels [..., S, S, C] to float32."""
        import jax.numpy as jnp

        images = self.normalisation(pixels)
        if self.has_unit_length:
            axes = (-3, -2, -1)
            for _ in range(2):  # what rounding leaves of the mean is more than some images have
                images = images - images.mean(axes, keepdims=True)
            length = jnp.sqrt((images**2).sum(axes, keepdims=True))
            images = images / jnp.maximum(length, LEAST_LENGTH)
        if self.matrix is None:
            return images
        flat = images.reshape(*images.shape[:-3], -1) - self.centre
        return jnp.matmul(flat, self.matrix, precision="highest").reshape(images.shape)

    def invert(self, images: chex.Array) -> np.ndarray:
        """Maps images of the network's space to float32 in units of white, which are not clipped.

        What an image's own mean and length were is lost where they were taken away; it gets those
        of standardised pixels, zero and the root of its number of values.

        Args:
          images: float32 [..., S, S, C].
        """
        images = np.asarray(images, np.float32)
        if self.matrix is not None:
            flat = images.reshape(*images.shape[:-3], -1).astype(np.float64)
            flat = np.linalg.solve(
                self.matrix.astype(np.float64).T, flat.reshape(-1, flat.shape[-1]).T
            )
            images = (flat.T + self.centre).reshape(images.shape).astype(np.float32)
        if self.has_unit_length:
            images = images * np.float32(np.sqrt(np.prod(images.shape[-3:])))
        mean, std = np.asarray(self.normalisation.mean), np.asarray(self.normalisation.std)
        return (images * std + mean).astype(np.float32)

    @property
    def has_unit_length(self) -> bool:
        """Whether every image is centred and scaled to unit length by itself."""
        return self.kind.startswith("unit")

    @property
    def is_standardising(self) -> bool:
        """Whether channels are standardised and nothing else is done."""
        return self.matrix is None and not self.has_unit_length

    def as_dict(self) -> dict[str, Any]:
        """What manifests say of it; the matrix itself is kept beside the images."""
        said = {"kind": self.kind, "normalisation": self.normalisation.as_dict()}
        return said if self.matrix is None else said | {"sha256": self.sha256}

    @property
    def space(self) -> str:
        """Names the space in identities: equal preprocessings have equal ones, others others."""
        constants = self.normalisation
        mean, std = ([float(v) for v in each] for each in (constants.mean, constants.std))
        said = repr((self.kind, mean, std, self.sha256))
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def sha256(self) -> str:
        """SHA-256 of matrix and centre, float32 in little-endian order; of nothing without them."""
        digest = hashlib.sha256()
        for array in (self.matrix, self.centre):
            if array is not None:
                digest.update(np.ascontiguousarray(array, "<f4").data)
        return digest.hexdigest()
