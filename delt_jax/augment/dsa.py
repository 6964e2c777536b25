"""Differentiable Siamese augmentation (DSA, arXiv 2102.08259), with the released code's values.

A strategy is a string, e.g. ``one-color_crop_cutout_flip_scale_rotate``: a mode, a dash, and
operations that are joined by underscores. The modes are those of the released code:

=======  ======================================================================================
``one``  one of the operations, drawn anew for every batch (DC, DSA, DM)
``all``  all operations in their order
``idc``  flip, color, one of crop, scale and rotate, and cutout; those that are listed (IDC)
=======  ======================================================================================

Images are normalised, and what moves into view or is cut out is 0. Everything is a pure function
of images and draws, and differentiable in the images. Draws that have no axis of images are shared
by all: called with equal draws, real and synthetic batches are augmented alike ("Siamese").
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.errors import UserError

VERSION = 1  # part of identities; raise it when results change

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
MODES = ("one", "all", "idc")
BRIGHTNESS, SATURATION, CONTRAST = 0.5, 2.0, 0.5  # see `draw`
SHIFT, HOLE = 0.125, 0.5  # shares of the side
SCALE, DEGREES = 1.2, 15.0
_MOVES = ("crop", "scale", "rotate")
_DRAWS = 11


class Strategy(NamedTuple):
    """A strategy's string, parsed; hashable.

    Attributes:
      mode: one of MODES.
      operations: some of OPERATIONS, in the order of the string.
    """

    mode: str
    operations: tuple[str, ...]

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The operations that an image goes through: of each stage one, which is drawn."""
        if self.mode == "one":
            stages = [self.operations]
        elif self.mode == "all":
            stages = [(name,) for name in self.operations]
        else:
            order = (("flip",), ("color",), _MOVES, ("cutout",))
            stages = [tuple(o for o in self.operations if o in names) for names in order]
        return tuple(stage for stage in stages if stage)

    def __str__(self) -> str:
        """The string that `parse` reads."""
        return f"{self.mode}-{'_'.join(self.operations)}"


class Parameters(NamedTuple):
    """What the operations do; leading axes, if any, index images.

    Attributes:
      brightness: float32 [...], is added.
      saturation: float32 [...], multiplies the distance from the mean of the channels.
      contrast: float32 [...], multiplies the distance from the image's mean.
      shift: int32 [..., 2], pixels down and right from which a pixel is taken.
      hole: int32 [..., 2], row and column of the middle of the square that is cut out.
      flip: bool [...], mirror left-right.
      scale: float32 [..., 2], down and right; above 1 shrinks.
      angle: float32 [...], radians; positive turns anticlockwise.
    """

    brightness: chex.Array
    saturation: chex.Array
    contrast: chex.Array
    shift: chex.Array
    hole: chex.Array
    flip: chex.Array
    scale: chex.Array
    angle: chex.Array


def parse(text: str, flip: bool = True) -> Strategy:
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
            f"relabel.dsa is {text!r}; write {', '.join(MODES[:-1])} or {MODES[-1]}, a dash and "
            f"some of {'_'.join(OPERATIONS)}."
        )
    if len(set(operations)) < len(operations):
        raise UserError(f"relabel.dsa is {text!r}; list each operation only once.")
    return Strategy(mode, tuple(name for name in operations if flip or name != "flip"))


def choose(key: chex.PRNGKey, strategy: Strategy) -> chex.Array:
    """Draws which operation of each stage a batch goes through, int32 [stages]."""
    counts = jnp.array([len(stage) for stage in strategy.stages], jnp.int32)
    return jax.random.randint(key, counts.shape, 0, counts)


def draw(key: chex.PRNGKey, size: int) -> Parameters:
    """Draws the parameters of all operations, of one image or of all that share them.

    Brightness is uniform in -0.5..0.5, saturation in 0..2, contrast in 0.5..1.5; the shift is at
    most an eighth of the side, and the hole has half of it; images are scaled between 1 / 1.2 and
    1.2 along each axis, turned by up to 15 degrees, and mirrored with probability 1/2.

    Args:
      key: PRNG key.
      size: side of the images.
    """
    draws = jax.random.uniform(key, (_DRAWS,))
    largest = int(size * SHIFT + 0.5)
    places = size + 1 - _hole_size(size) % 2
    return Parameters(
        brightness=draws[0] - BRIGHTNESS,
        saturation=SATURATION * draws[1],
        contrast=CONTRAST + draws[2],
        shift=_below(draws[3:5], 2 * largest + 1) - largest,
        hole=_below(draws[5:7], places),
        flip=draws[7] < 0.5,
        scale=1 / SCALE + (SCALE - 1 / SCALE) * draws[8:10],
        angle=jnp.deg2rad(DEGREES * (2 * draws[10] - 1)),
    )


def _below(draws: chex.Array, count: int) -> chex.Array:
    """Maps draws in [0, 1) to whole numbers in 0..count - 1."""
    return jnp.minimum(jnp.floor(draws * count).astype(jnp.int32), count - 1)


def _hole_size(size: int) -> int:
    return int(size * HOLE + 0.5)


def augment(
    images: chex.Array, choice: chex.Array, parameters: Parameters, strategy: Strategy
) -> chex.Array:
    """Augments images; differentiable in them, also twice.

    Args:
      images: normalised float [B, S, S, C].
      choice: int32 [stages], or [B, stages] where images go through operations of their own.
      parameters: shared by all images, or with a leading axis [B].
      strategy: static.

    Returns:
      float [B, S, S, C].
    """
    chex.assert_rank(images, 4)
    own_choice = 0 if choice.ndim == 2 else None
    own_parameters = 0 if parameters.angle.ndim == 1 else None

    def one(image, choice, parameters):
        for number, stage in enumerate(strategy.stages):
            branches = [_OPERATIONS[name] for name in stage]
            image = jax.lax.switch(choice[number], branches, image, parameters)
        return image

    return jax.vmap(one, (0, own_choice, own_parameters))(images, choice, parameters)


def color(image: chex.Array, parameters: Parameters) -> chex.Array:
    """Changes brightness, saturation and contrast, in this order; a grey image has no saturation.

    Args:
      image: [S, S, C].
      parameters: of one image.
    """
    image = image + parameters.brightness
    grey = image.mean(-1, keepdims=True)
    image = grey + parameters.saturation * (image - grey)
    mean = image.mean()
    return mean + parameters.contrast * (image - mean)


def crop(image: chex.Array, parameters: Parameters) -> chex.Array:
    """Takes every pixel from `shift` further down and right; beyond the image are zeros."""
    margin = int(image.shape[0] * SHIFT + 0.5)
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    down, right = parameters.shift + margin
    return jax.lax.dynamic_slice(padded, (down, right, 0), image.shape)


def cutout(image: chex.Array, parameters: Parameters) -> chex.Array:
    """Zeroes a square of half the side, which may end at the edge of the image."""
    hole = _hole_size(image.shape[0])
    distance = jnp.arange(image.shape[0]) - (parameters.hole[:, None] - hole // 2)
    rows, columns = (distance >= 0) & (distance < hole)
    return jnp.where((rows[:, None] & columns)[..., None], 0.0, image)


def flip(image: chex.Array, parameters: Parameters) -> chex.Array:
    """Mirrors the image left-right, if it is to be."""
    return jnp.where(parameters.flip, image[:, ::-1], image)


def scale(image: chex.Array, parameters: Parameters) -> chex.Array:
    """Stretches or shrinks the image about its centre."""
    return _resample(image, jnp.diag(parameters.scale))


def rotate(image: chex.Array, parameters: Parameters) -> chex.Array:
    """Turns the image about its centre."""
    cosine, sine = jnp.cos(parameters.angle), jnp.sin(parameters.angle)
    return _resample(image, jnp.array([[cosine, sine], [-sine, cosine]]))


def _resample(image: chex.Array, matrix: chex.Array) -> chex.Array:
    """Reads pixels at `matrix` times their place (down, right) from the centre, bilinearly.

    As torch's affine_grid and grid_sample with align_corners=False, their default, which pixels
    beyond the image enter as zeros.
    """
    size, channels = image.shape[0], image.shape[2]
    middle = (size - 1) / 2
    rows, columns = jnp.meshgrid(*[jnp.arange(size) - middle] * 2, indexing="ij")
    at = jnp.stack([down * rows + right * columns + middle for down, right in matrix])
    first = jnp.floor(at)
    weight = at - first
    flat = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    total = jnp.zeros_like(image)
    for down in (0, 1):
        for right in (0, 1):
            row, column = (
                jnp.clip(first[axis].astype(jnp.int32) + step + 1, 0, size + 1)
                for axis, step in enumerate((down, right))
            )
            share = (weight[0] if down else 1 - weight[0]) * (weight[1] if right else 1 - weight[1])
            total = total + share[..., None] * flat[row * (size + 2) + column]
    return total


_OPERATIONS = {
    "color": color,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "scale": scale,
    "rotate": rotate,
}
