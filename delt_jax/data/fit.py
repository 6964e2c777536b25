"""Decodes image files and fits them to uint8 [S, S, C]."""

import numpy as np
from PIL import Image

from delt_jax.errors import UserError
from delt_jax.runtime import host_memory
from delt_jax.store.pictures import MOST_PIXELS, UnreadableError, as_unreadable, load

_LARGEST_SCALE = 64  # times as wide as the images that a source keeps in memory
_GREY = ("1", "L", "LA", "I", "F")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_DEEPEST = 65535  # the highest value of 16 bits
_TO_EIGHT_BITS = np.rint(np.arange(_DEEPEST + 1) / 257).astype(np.uint8)
_ROWS = 256  # converted at a time, which bounds the memory
_BITS_PER_SAMPLE = 258  # TIFF's tag
# A scaled image of more pixels than this, and than as many squares of the size, is cropped before
# it is scaled. Without that, a picture of 100000x1 px and 60 kB would take gigabytes.
_SCALED_PIXELS, _SCALED_SQUARES = 2**24, 16


def decode(
    content: bytes | UnreadableError, name: str = "", most_pixels: int = MOST_PIXELS
) -> Image.Image:
    """Decodes an image file by its content; see `delt_jax.store.pictures` for formats and limits.

    Takes the first frame of an animation, turns it upright by its EXIF orientation, and scales
    16-bit grey to 8 bits.

    Args:
      content: the file, or why it could not be read.
      name: of the file.
      most_pixels: that it may have.

    Raises:
      TooLargeError: if it has more pixels.
      UnreadableError: if the file is damaged, or has another format.
    """
    if isinstance(content, UnreadableError):
        raise content
    image = load(content, name, most_pixels)
    image.info.pop("transparency", None)  # goes with alpha; Pillow would warn of it in converting
    with as_unreadable():
        if image.format == "TIFF" and _is_unscaled(image):
            raise UnreadableError(
                "whole numbers of unknown range or floating-point values; save 8 or 16 bits"
            )
        if image.mode.startswith("I"):
            return _eight_bits(image)
        if image.mode in ("F", "LAB"):
            raise UnreadableError(f"pixels of the kind {image.mode}; save it as RGB or grey")
        return image if image.mode in (*_GREY, *_COLOUR) else image.convert("RGB")


def _is_unscaled(image: Image.Image) -> bool:
    """Whether the brightest value of a TIFF file cannot be known from its type."""
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
    return image.mode in ("I", "F") or (image.mode.startswith("I;16") and bits[0] != 16)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits, "I;16" and its kin or "I", to 8 bits."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > _DEEPEST:
        raise UnreadableError(f"values from {values.min()} to {values.max()}; save 8 or 16 bits")
    scaled = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):
        scaled[row : row + _ROWS] = _TO_EIGHT_BITS[values[row : row + _ROWS]]
    return Image.fromarray(scaled)


def is_grey(mode: str) -> bool:
    """Whether a Pillow mode has luminance only, perhaps with an alpha channel."""
    return mode in _GREY or mode.startswith("I;")


def fit_image(image: Image.Image, size: int, channels: int, fit: str) -> np.ndarray:
    """Brings a decoded image to uint8 [size, size, channels].

    Args:
      image: any mode of 8 bits per channel; an alpha channel is dropped.
      size: side of the result; 0 keeps a square image's own.
      channels: 1 (luminance) or 3; 0 keeps grey images grey and makes all others RGB.
      fit: "resize" scales the shorter side to `size` (bilinear, antialiased) and takes the
        centre; "centre" scales it to `size` // 7 * 8 first, as 256 is to 224 (from 56 px on);
        "pad" puts zeros around the whole image, whose longer side is scaled to `size` first if it
        is larger.
    """
    channels = channels or (1 if is_grey(image.mode) else 3)
    image = image.convert("L" if channels == 1 else "RGB")
    size = size or min(image.size)
    if fit == "centre":
        wide = _shorter_side(image.size, size // 7 * 8 if size >= 56 else size)
        # Rounded to even at halves, as the usual evaluation of ImageNet does.
        left, top = round((wide[0] - size) / 2), round((wide[1] - size) / 2)
    else:
        wide = image.size
        if fit == "resize" and image.size != (size, size):
            scale = size / min(image.size)
            wide = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        elif fit == "pad" and max(image.size) > size:
            scale = size / max(image.size)
            wide = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        left, top = (wide[0] - size) // 2, (wide[1] - size) // 2
    image = _scaled_part(image, wide, (left, top, left + size, top + size))
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def _shorter_side(sides: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height with this shorter side; the longer is rounded down, as torchvision does."""
    short, long = min(sides), max(sides)
    if short == side:
        return sides
    other = side * long // short
    return (side, other) if sides[0] == short else (other, side)


def _scaled_part(
    image: Image.Image, wide: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image:
    """Scales an image to `wide` and crops the box (left, top, right, bottom); zeros beyond."""
    if wide != image.size:
        side = box[2] - box[0]
        if wide[0] * wide[1] > max(_SCALED_PIXELS, _SCALED_SQUARES * side**2):
            across, down = image.width / wide[0], image.height / wide[1]
            part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
            return image.resize((side, side), Image.Resampling.BILINEAR, part)
        image = image.resize(wide, Image.Resampling.BILINEAR)
    # Pillow fills a crop box that reaches outside the image with zeros, which is the padding.
    return image.crop(box)


def _check_enlarged(pixels: np.ndarray, size: int, channels: int) -> None:
    """Raises a UserError if images that lie in memory would outgrow themselves or the machine."""
    side = min(pixels.shape[1:3])
    if size > _LARGEST_SCALE * side:
        raise UserError(
            f"data.image_size {size} is more than {_LARGEST_SCALE} times the {side} px of the "
            f"images; set it to {_LARGEST_SCALE * side} or less."
        )
    needed, free = 2 * len(pixels) * size**2 * channels, host_memory.available()
    if free is not None and needed > free:
        raise UserError(
            f"data.image_size {size} makes {needed / 2**30:.1f} GiB of the {len(pixels):,} images, "
            f"which are kept in memory, but only {free / 2**30:.1f} GiB are free; set it lower."
        )


def fit_arrays(pixels: np.ndarray, size: int, channels: int, fit: str) -> np.ndarray:
    """`fit_image` for a stack uint8 [N, H, W] or [N, H, W, C]; returns uint8 [N, S, S, C]."""
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    native = 1 if pixels.ndim == 3 else 3
    same = pixels.shape[1:3] == (size or pixels.shape[1],) * 2 and channels in (0, native)
    if same and not (fit == "centre" and pixels.shape[1] >= 56):
        return pixels.reshape(*pixels.shape[:3], native)
    _check_enlarged(pixels, size or pixels.shape[1], channels or native)
    return np.stack([fit_image(Image.fromarray(p), size, channels, fit) for p in pixels])
