"""Decodes image files and fits them to uint8 [S, S, C]."""

import io

import numpy as np
from PIL import Image, ImageOps

from delt_jax.errors import UserError
from delt_jax.runtime import host_memory

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_LARGEST_SCALE = 64  # times as wide as the images that a source keeps in memory
_GREY = ("1", "L", "LA", "I", "F")


class UnreadableError(Exception):
    """The bytes are no readable image; the message is the reason, without a full stop."""


def decode(content: bytes) -> Image.Image:
    """Decodes a PNG, JPEG, WebP or BMP file by its content, not its name.

    Takes the first frame of an animation, turns it upright by its EXIF orientation, and scales
    16-bit grey to 8 bits.

    Raises:
      UnreadableError: if the file is damaged or has another format.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image))
    except Exception as e:  # Pillow raises a dozen types for damaged files
        reason = "empty file" if not content else str(e).split("<_io")[0].strip(" .") or repr(e)
        raise UnreadableError(reason) from e


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):  # "I;16" and its kin, or "I" with values of 16 bits
        return image
    values = np.clip(np.asarray(image, np.int64), 0, 65535)
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


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
        "pad" puts zeros around an image that is no larger than `size`.
    """
    channels = channels or (1 if is_grey(image.mode) else 3)
    image = image.convert("L" if channels == 1 else "RGB")
    size = size or min(image.size)
    if fit == "pad" and max(image.size) > size:
        raise UserError(
            f'data.fit is "pad", but an image of {image.width}x{image.height} px is larger '
            f'than data.image_size {size}; raise it or use data.fit "resize".'
        )
    if fit == "centre":
        image = _shorter_side(image, size // 7 * 8 if size >= 56 else size)
        # Rounded to even at halves, as the usual evaluation of ImageNet does.
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    else:
        if fit == "resize" and image.size != (size, size):
            scale = size / min(image.size)
            wide = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
            image = image.resize(wide, Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
    # Pillow fills a crop box that reaches outside the image with zeros, which is the padding.
    image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def _shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Bilinear resize of the shorter side; the longer one is rounded down, as torchvision does."""
    short, long = min(image.size), max(image.size)
    if short == side:
        return image
    other = side * long // short
    wide = (side, other) if image.width == short else (other, side)
    return image.resize(wide, Image.Resampling.BILINEAR)


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
