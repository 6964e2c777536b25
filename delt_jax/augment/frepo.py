"""The augmentation of FRePo's and RCIG's students (arXiv 2206.00719), as the released code has it.

A strategy is a string, e.g. ``frepo-flip_color_crop_rotate_translate_cutout``: a mode, a dash, and
operations that are joined by underscores. Of these each image goes through one, with parameters of
its own. In mode ``frepo`` one operation is drawn for a batch, in mode ``rcig`` one for every image.

Images are normalised. What is cut out is 0, and what moves into view repeats the edge. Functions
have the arguments of `delt_jax.augment.dsa`, and are differentiable in the images, too.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.errors import UserError

VERSION = 1  # part of identities; raise it when results change

OPERATIONS = ("flip", "color", "crop", "rotate", "translate", "cutout")
MODES = ("frepo", "rcig")
JITTER = 0.25  # added to values, and of the logarithms of contrast and saturation
ZOOM, SHIFT, DEGREES = 1.25, 0.125, 15.0
HOLE = 4  # the side of what is cut out is an image's side by this
_DRAWS = 12


class StudentStrategy(NamedTuple):
    """A strategy's string, parsed; hashable.

    Attributes:
      mode: one of MODES.
      operations: some of OPERATIONS, in the order of the string.
    """

    mode: str
    operations: tuple[str, ...]

    @property
    def is_of_each(self) -> bool:
        """Whether every image draws its own operation, instead of one for the batch."""
        return self.mode == "rcig"

    def __str__(self) -> str:
        """The string that `parse` reads."""
        return f"{self.mode}-{'_'.join(self.operations)}"


class Draws(NamedTuple):
    """What the operations do; leading axes, if any, index images.

    Attributes:
      flip: bool [...], mirror left-right.
      brightness: float32 [...], is added.
      contrast: float32 [...], multiplies the distance from the image's mean.
      saturation: float32 [...], multiplies the distance from the mean of the channels.
      zoom: float32 [...], above 1 enlarges.
      centre: float32 [..., 2], pixels down and right of the enlarged image's middle that become
        the middle.
      angle: float32 [...], radians.
      shift: float32 [..., 2], pixels by which the image moves down and right.
      hole: int32 [..., 2], first row and column of the square that is cut out.
    """

    flip: chex.Array
    brightness: chex.Array
    contrast: chex.Array
    saturation: chex.Array
    zoom: chex.Array
    centre: chex.Array
    angle: chex.Array
    shift: chex.Array
    hole: chex.Array


def parse(text: str, flip: bool = True) -> StudentStrategy:
    """Reads a strategy's string.

    Args:
      text: the string.
      flip: whether images may be mirrored; otherwise the operation is left out.

    Raises:
      UserError: if the mode or an operation is unknown, or an operation is there twice.
    """
    mode, _, listed = text.partition("-")
    operations = tuple(listed.split("_"))
    if mode not in MODES or not set(operations) <= set(OPERATIONS):
        raise UserError(
            f"relabel.dsa is {text!r}; write {' or '.join(MODES)}, a dash and some of "
            f"{'_'.join(OPERATIONS)}."
        )
    if len(set(operations)) < len(operations):
        raise UserError(f"relabel.dsa is {text!r}; list each operation only once.")
    return StudentStrategy(mode, tuple(name for name in operations if flip or name != "flip"))


def choose(key: chex.PRNGKey, strategy: StudentStrategy) -> chex.Array:
    """Draws which operation a batch or an image goes through, int32 [1]; empty without any."""
    count = len(strategy.operations)
    return jax.random.randint(key, (min(count, 1),), 0, max(count, 1))


def draw(key: chex.PRNGKey, size: int) -> Draws:
    """Draws the parameters of all operations for one image.

    Args:
      key: PRNG key.
      size: side of the images.
    """
    draws = jax.random.uniform(key, (_DRAWS,))
    around = 2 * draws - 1  # uniform in -1..1
    zoom = jnp.exp(math.log(ZOOM) * around[4])
    places = size - size // HOLE + 1
    return Draws(
        flip=draws[0] < 0.5,
        brightness=JITTER * around[1],
        contrast=jnp.exp(JITTER * around[2]),
        saturation=jnp.exp(JITTER * around[3]),
        zoom=zoom,
        centre=jnp.abs(zoom - 1) * size / 2 * around[5:7],
        angle=jnp.deg2rad(DEGREES * around[7]),
        shift=SHIFT * size * around[8:10],
        hole=jnp.minimum(jnp.floor(draws[10:12] * places).astype(jnp.int32), places - 1),
    )


def augment(
    images: chex.Array, choice: chex.Array, parameters: Draws, strategy: StudentStrategy
) -> chex.Array:
    """Augments images; differentiable in them.

    Args:
      images: normalised float [B, S, S, C].
      choice: int32 [1], or [B, 1] where images go through operations of their own.
      parameters: shared by all images, or with a leading axis [B].
      strategy: static; without operations images stay as they are.

    Returns:
      float [B, S, S, C].
    """
    chex.assert_rank(images, 4)
    if not strategy.operations:
        return images
    branches = [_OPERATIONS[name] for name in strategy.operations]

    def one(image, choice, parameters):
        return jax.lax.switch(choice[0], branches, image, parameters)

    own_choice = 0 if choice.ndim == 2 else None
    own_parameters = 0 if parameters.angle.ndim == 1 else None
    return jax.vmap(one, (0, own_choice, own_parameters))(images, choice, parameters)


def flip(image: chex.Array, parameters: Draws) -> chex.Array:
    """Mirrors the image [S, S, C] left-right, if it is to be."""
    return jnp.where(parameters.flip, image[:, ::-1], image)


def color(image: chex.Array, parameters: Draws) -> chex.Array:
    """Changes brightness, contrast and saturation, in this order; grey has no saturation."""
    image = image + parameters.brightness
    mean = image.mean()
    image = mean + parameters.contrast * (image - mean)
    grey = image.mean(-1, keepdims=True)
    return grey + parameters.saturation * (image - grey)


def crop(image: chex.Array, parameters: Draws) -> chex.Array:
    """Enlarges or shrinks the image and moves it, so that it still covers, or lies within, all."""
    zoom = parameters.zoom
    return _resample(image, jnp.eye(2) / zoom, parameters.centre / zoom)


def rotate(image: chex.Array, parameters: Draws) -> chex.Array:
    """Turns the image about its middle."""
    cosine, sine = jnp.cos(parameters.angle), jnp.sin(parameters.angle)
    return _resample(image, jnp.array([[cosine, sine], [-sine, cosine]]), jnp.zeros(2))


def translate(image: chex.Array, parameters: Draws) -> chex.Array:
    """Moves the image by parts of pixels."""
    return _resample(image, jnp.eye(2), -parameters.shift)


def cutout(image: chex.Array, parameters: Draws) -> chex.Array:
    """Zeroes a square of a quarter of the side that lies within the image."""
    size = image.shape[0]
    distance = jnp.arange(size) - parameters.hole[:, None]
    rows, columns = (distance >= 0) & (distance < size // HOLE)
    return jnp.where((rows[:, None] & columns)[..., None], 0.0, image)


def _resample(image: chex.Array, matrix: chex.Array, offset: chex.Array) -> chex.Array:
    """Reads pixels at `matrix` times their place (down, right) from the middle plus `offset`.

    Bilinear; places beyond the image read its edge.
    """
    size, channels = image.shape[0], image.shape[2]
    middle = (size - 1) / 2
    rows, columns = jnp.meshgrid(*[jnp.arange(size) - middle] * 2, indexing="ij")
    flat, total = image.reshape(-1, channels), jnp.zeros_like(image)
    at = jnp.stack(
        [
            down * rows + right * columns + beyond + middle
            for (down, right), beyond in zip(matrix, offset, strict=True)
        ]
    )
    first = jnp.floor(at)
    weight = at - first
    for down in (0, 1):
        for right in (0, 1):
            row, column = (
                jnp.clip(first[axis].astype(jnp.int32) + step, 0, size - 1)
                for axis, step in enumerate((down, right))
            )
            share = (weight[0] if down else 1 - weight[0]) * (weight[1] if right else 1 - weight[1])
            total = total + share[..., None] * flat[row * size + column]
    return total


_OPERATIONS = {
    "flip": flip,
    "color": color,
    "crop": crop,
    "rotate": rotate,
    "translate": translate,
    "cutout": cutout,
}
