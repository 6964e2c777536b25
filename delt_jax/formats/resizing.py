"""Images of a set brought to another size."""

from dataclasses import replace

import numpy as np
from PIL import Image

from delt_jax.formats.distilled import DistilledSet

LARGEST = 4096  # pixels along a side, as `data.image_size` allows


def resized(images: np.ndarray, size: int, channels: int = 0) -> np.ndarray:
    """The centred square of every image, scaled bilinearly with antialiasing.

    Args:
      images: uint8 [N, H, W, C], C 1 or 3.
      size: side of the result in pixels.
      channels: 1 takes the luminance, 3 repeats grey; 0 keeps what there is.

    Returns:
      uint8 [N, size, size, channels].
    """
    height, width, native = images.shape[1:]
    side, channels = min(height, width), channels or native
    left, top = (width - side) // 2, (height - side) // 2
    images = images[:, top : top + side, left : left + side]
    made = np.empty((len(images), size, size, channels), np.uint8)
    for pixels, image in zip(made, images, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if native == 1 else image))
        picture = picture.convert("L" if channels == 1 else "RGB")
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        pixels[:] = np.asarray(picture, np.uint8).reshape(size, size, channels)
    return made


def change(images: np.ndarray, size: int, channels: int = 0) -> str:
    """What `resized` does to such images, as "256x256 px to 64x64 px"; empty if nothing."""
    height, width, native = images.shape[1:]
    colours = {1: "grey", 3: "colour"}
    changed = []
    if (height, width) != (size, size):
        changed.append(f"{width}x{height} px to {size}x{size} px")
    if channels not in (0, native):
        changed.append(f"{colours[native]} to {colours[channels]}")
    return ", ".join(changed)


def resized_set(content: DistilledSet, size: int) -> DistilledSet:
    """The set at another size, with what was done as its manifest's entry `resized`.

    Soft labels, the hash and the sizes of the old images do not hold for it and are left out.
    """
    gone = ("hash", "image_size", "report")
    manifest = {name: value for name, value in content.manifest.items() if name not in gone}
    return replace(
        content,
        images=resized(content.images, size),
        manifest=manifest | {"resized": change(content.images, size)},
        soft_labels=None,
    )
