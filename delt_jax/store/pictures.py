"""Encodes pixels as PNG or JPEG, and decodes pictures."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from delt_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def encode(pixels: np.ndarray, quality: int = 0) -> bytes:
    """Encodes one image.

    Args:
      pixels: uint8 [H, W, C], C 1 or 3.
      quality: 1 to 100 for JPEG (4:2:0 chroma, lossy), 0 for PNG.
    """
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    if quality:
        picture.save(buffer, "JPEG", quality=quality)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def decode(content: bytes, where: str) -> np.ndarray:
    """Decodes one image to uint8 [H, W, 1] if it is grey, else [H, W, 3].

    Raises:
      UserError: naming `where`, if the picture is damaged or has more than 8 bits per channel.
    """
    try:
        picture = Image.open(io.BytesIO(content))
        if picture.mode[0] in "IF":
            raise UserError(
                f"{where} has more than 8 bits per channel; save it as an 8-bit PNG or JPEG."
            )
        pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except UserError:
        raise
    except Exception as e:  # Pillow's readers raise many types
        raise UserError(f"{where} is no picture, or damaged ({type(e).__name__}: {e}).") from e
    return pixels.reshape(*pixels.shape[:2], -1)


def stack(images: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Stacks images [H, W, 1 or 3] to uint8 [N, H, W, C], C 3 if any of them is coloured.

    Args:
      images: at least one.
      names: of the images, for the sentence.

    Raises:
      UserError: naming two images of different sizes.
    """
    sizes = [image.shape[:2] for image in images]
    odd = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is not None:
        (h, w), (other_h, other_w) = sizes[0], sizes[odd]
        raise UserError(
            f"{names[0]} is {w}x{h} px but {names[odd]} is {other_w}x{other_h} px; the images of "
            f"a distilled set have one size, so resize them first."
        )
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(i, (*i.shape[:2], channels)) for i in images])
