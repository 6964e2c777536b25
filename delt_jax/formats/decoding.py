"""Several images in one stored one, and mirrored copies: what students see of a learned set."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Decoding:
    """How stored images become those that students train on.

    Attributes:
      factor: images along a side of a stored one (IDC): it is cut into factor x factor parts, each
        of which is enlarged to the full size. 1 where it is one image.
      mirrored: whether each also comes mirrored left-right, behind all others.
    """

    factor: int = 1
    mirrored: bool = False

    @property
    def copies(self) -> int:
        """Images that one stored image becomes."""
        return self.factor**2 * (1 + self.mirrored)

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that manifests and identities have."""
        return {"factor": self.factor, "mirrored": self.mirrored}

    def expand(
        self, images: np.ndarray, labels: np.ndarray, grey: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images to train on, and the label of each.

        Args:
          images: float32 [N, S, S, C], stored ones.
          labels: [N, ...].
          grey: value of the pixel 0.5, of each channel or of all. Sides that the factor does not
            divide are padded with it on the right and below, as IDC does.

        Returns:
          float32 [N * copies, S, S, C] and the labels of the stored images they come from. The
          parts of a stored image follow each other, row by row.
        """
        images = np.asarray(images, np.float32)
        if self.factor > 1:
            images, labels = _parts(images, self.factor, grey), np.repeat(labels, self.factor**2, 0)
        if self.mirrored:
            images = np.concatenate([images, images[:, :, ::-1]])
            labels = np.concatenate([labels, labels])
        return images, labels


def _parts(images: np.ndarray, factor: int, grey: np.ndarray | float) -> np.ndarray:
    """Parts of each image, row by row, enlarged to its size; [N * factor^2, S, S, C]."""
    count, size, _, channels = images.shape
    part = -(-size // factor)
    pad = part * factor - size
    padded = np.broadcast_to(
        np.asarray(grey, np.float32), (count, size + pad, size + pad, channels)
    ).copy()
    padded[:, :size, :size] = images
    cut = padded.reshape(count, factor, part, factor, part, channels).swapaxes(2, 3)
    weights = enlarging(part, size)
    flat = cut.reshape(-1, part, part, channels)
    return np.einsum("ij,njkc,lk->nilc", weights, flat, weights, optimize=True).astype(np.float32)


def enlarging(part: int, size: int) -> np.ndarray:
    """Weights of bilinear interpolation from `part` pixels to `size`, float32 [size, part].

    As torch's `interpolate` does it without align_corners: a pixel has its place in the middle, and
    those beyond the edge are as the edge.
    """
    at = np.clip((np.arange(size) + 0.5) * part / size - 0.5, 0, part - 1)
    first = np.minimum(np.floor(at).astype(int), max(part - 2, 0))
    weights = np.zeros((size, part), np.float32)
    rows = np.arange(size)
    weights[rows, first] = 1 - (at - first)
    weights[rows, np.minimum(first + 1, part - 1)] += (at - first).astype(np.float32)
    return weights
