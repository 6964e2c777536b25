"""Decodes pictures of many formats within limits, and encodes pixels as PNG or JPEG.

All pictures of strangers come through `load`, so the formats and limits stand here alone.
"""

import contextlib
import importlib.util
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from delt_jax.core import stopping
from delt_jax.errors import UserError

MOST_PIXELS = 178_956_970  # of one picture; beyond, Pillow speaks of a decompression bomb
MOST_BYTES = 2**30  # of one file

# Pillow's name of a format, and the endings of its files. Left out are formats whose readers need
# another program or library (EPS, WMF, PDF, HDF5, FITS, ...), videos, and text (XPM, XBM).
_BY_CONTENT = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "AVIF": (".avif", ".avifs"),
    "QOI": (".qoi",),
    "PSD": (".psd",),
    "ICO": (".ico",),
    "DDS": (".dds",),
    "SUN": (".ras",),
}
# Their first bytes prove too little, so these are tried only on files that are named so.
_BY_ENDING = {
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "PCX": (".pcx",),
    "DIB": (".dib",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
}
if importlib.util.find_spec("PIL._avif") is None:  # an older Pillow, or one built without it
    del _BY_CONTENT["AVIF"]
ENDINGS = {
    ending: name for name, endings in (_BY_CONTENT | _BY_ENDING).items() for ending in endings
}
_CLEAR = 128  # alpha below which more of the background shows than of the picture
_DEEP = ("I", "F")  # first letters of the modes with more than 8 bits per channel


class UnreadableError(Exception):
    """The bytes are no readable picture; the message is the reason, without a full stop."""


class TooLargeError(UnreadableError):
    """A picture has more pixels than are allowed."""


@contextlib.contextmanager
def as_unreadable() -> Iterator[None]:
    """Turns whatever Pillow raises inside into an `UnreadableError`; silences its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnreadableError:
            raise
        except Image.DecompressionBombError as e:
            raise TooLargeError(_large(str(e))) from e
        except Exception as e:  # Pillow raises a dozen types for damaged files
            reason = " ".join(str(e).split("<_io")[0].split()).strip(" .") or repr(e)
            raise UnreadableError(reason[:200]) from e


def _large(sentence: str) -> str:
    """The number of pixels in Pillow's sentence on a decompression bomb, and the limit."""
    found = re.search(r"\(([0-9]+) pixels\)", sentence)
    return f"{int(found[1]):,} px" if found else "too many pixels"


def open_picture(content: IO[bytes], name: str = "", most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Opens a picture by its content and reads its header; decodes no pixels.

    Args:
      content: the file, open.
      name: of the file; formats without a signature are tried only for their own endings.
      most_pixels: that it may have.

    Raises:
      TooLargeError: if it has more pixels.
      UnreadableError: if it has no format of `ENDINGS`, or no pixels.
    """
    # Pillow refuses twice its own limit, which all threads share: so it is raised, never lowered.
    if Image.MAX_IMAGE_PIXELS is not None and most_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-most_pixels // 2)
    weak = ENDINGS.get(os.path.splitext(name)[1].lower(), "")
    formats = (*_BY_CONTENT, *((weak,) if weak in _BY_ENDING else ()))
    with as_unreadable():
        image = Image.open(content, formats=formats)
        if image.width * image.height > most_pixels:
            raise TooLargeError(f"{image.width * image.height:,} px")
        if not image.width or not image.height:
            raise UnreadableError(f"{image.width}x{image.height} px")
    return image


def load(content: bytes, name: str = "", most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decodes the first frame of a picture, within the limits of `open_picture`.

    It is turned upright by its EXIF orientation.

    Raises:
      TooLargeError: if it has more pixels than `most_pixels`.
      UnreadableError: if it is damaged, or has another format.
    """
    if not content:
        raise UnreadableError("empty file")
    image = open_picture(io.BytesIO(content), name, most_pixels)
    with as_unreadable():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    return image


def encode(pixels: np.ndarray, quality: int = 0) -> bytes:
    """Encodes one image.

    Args:
      pixels: uint8 [H, W, C], C 1 or 3.
      quality: 1 to 100 for JPEG (4:2:0 chroma, lossy), 0 for PNG.

    Raises:
      Stopped: if a signal has come: sets of pictures appear as a whole or not at all.
    """
    stopping.check()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    if quality:
        picture.save(buffer, "JPEG", quality=quality)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


class Decoded(NamedTuple):
    """A picture of a set.

    Attributes:
      pixels: uint8 [H, W, 1] if it is grey, else [H, W, 3].
      alpha: the lowest value of its alpha channel, which is dropped; None where it has none.
    """

    pixels: np.ndarray
    alpha: int | None


def decode(content: bytes, where: str) -> Decoded:
    """Decodes one picture of a set, upright.

    Raises:
      UserError: naming `where`, if the picture is damaged, has more than `MOST_PIXELS`, or more
        than 8 bits per channel.
    """
    try:
        picture = load(content, where)
        if picture.mode.startswith(_DEEP):
            raise UserError(
                f"{where} has more than 8 bits per channel; save it as an 8-bit PNG or JPEG."
            )
        with as_unreadable():
            grey = picture.mode in ("1", "L", "LA")
            alpha = least_alpha(picture)
            picture.info.pop("transparency", None)  # goes with alpha
            pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    except TooLargeError as e:
        raise UserError(f"{where} has {e}, more than {MOST_PIXELS:,}; make it smaller.") from e
    except UnreadableError as e:
        raise UserError(f"{where} is no picture, or damaged ({e}).") from e
    return Decoded(pixels.reshape(*pixels.shape[:2], -1), alpha)


def least_alpha(picture: Image.Image) -> int | None:
    """The lowest value of a picture's alpha channel, from 0 to 255; None where it has none."""
    if not picture.has_transparency_data:
        return None
    return int(np.asarray(picture.convert("RGBA"))[..., 3].min())


def see_through(alphas: Iterable[int | None]) -> tuple[int, int]:
    """How many pictures are see-through in parts, and how many have an alpha channel.

    Args:
      alphas: as `least_alpha` gives them.
    """
    known = [alpha for alpha in alphas if alpha is not None]
    return sum(alpha < _CLEAR for alpha in known), len(known)


def transparency_notes(clear: int, with_alpha: int) -> tuple[str, ...]:
    """A sentence where transparency is lost, of what `see_through` counted."""
    if not clear:
        return ()
    return (
        f"transparency is dropped: {clear} of {with_alpha} pictures with an alpha channel that "
        f"were looked at are see-through in parts, which show whatever colour is stored there, "
        f"often black; put them on a background first",
    )


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
