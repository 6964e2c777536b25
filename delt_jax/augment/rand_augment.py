"""RandAugment as timm defines it: a few random operations per image (arXiv 1909.13719).

A policy is timm's string, e.g. ``rand-m6-n2-mstd1.0``: sections joined by dashes,

=======  ======================================================================================
``mX``   magnitude X, a whole number (10)
``nX``   operations per image (2), drawn with replacement
``mstdX``  standard deviation of the magnitude (0); above 100: uniform in 0..magnitude
``mmaxX``  magnitudes are cut to 0..X (10)
``incX``  1: every operation grows with the magnitude (0)
``pX``   probability that a drawn operation is applied (0.5)
``w0``   timm's weights for the draw, without replacement (all alike)
=======  ======================================================================================
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.augment import affine, chosen, enhance, tables
from delt_jax.errors import UserError

VERSION = 1  # part of identities; raise it when results change

OPERATIONS = (
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
NOTHING = len(OPERATIONS)  # index of no operation
# timm's weight set 0, in the order of OPERATIONS.
_WEIGHTS = (25, 5, 0, 300, 0, 5, 5, 25, 5, 5, 25, 200, 200, 100, 100)
_LARGEST = 10.0
# Blend factors are multiples of this, so that float32 blends exactly as Pillow does.
_FACTOR_STEP = 2.0**-14

_TABLES = (
    "autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add", "contrast",
    "brightness",
)  # fmt: skip
_MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@dataclass(frozen=True)
class Policy:
    """A policy's string, parsed.

    Attributes:
      magnitude: mX.
      count: nX, operations per image.
      spread: mstdX, standard deviation of the magnitude; infinite for a uniform draw.
      largest: mmaxX, upper limit of magnitudes.
      increasing: incX, whether every operation gets stronger with the magnitude.
      probability: pX, of applying a drawn operation.
      weighted: w0, whether to draw by timm's weights, without replacement.
    """

    magnitude: int = 10
    count: int = 2
    spread: float = 0.0
    largest: float = _LARGEST
    increasing: bool = False
    probability: float = 0.5
    weighted: bool = False


class Operations(NamedTuple):
    """The n operations on an image, in order; leading axes, if any, index images.

    Attributes:
      operation: int32 [..., n], position in OPERATIONS, or NOTHING.
      argument: float32 [..., n]: degrees of rotate; bits kept by posterize; threshold of
        solarize; addend of solarize_add; factor of color, contrast, brightness and sharpness;
        shear; shift as a fraction of the side. The other operations have none.
      bicubic: bool [..., n], cubic instead of linear interpolation, where pixels move.
    """

    operation: chex.Array
    argument: chex.Array
    bicubic: chex.Array


def parse(text: str) -> Policy:
    """Reads a policy's string.

    Raises:
      UserError: if the string is no policy, or has an unknown section or value.
    """
    first, *sections = text.split("-")
    values: dict[str, float] = {}
    for section in sections:
        found = re.fullmatch(r"([a-z]+)(\d+(?:\.\d*)?|inf)", section)
        if not found or not _understood(found[1], float(found[2])):
            raise _not_understood(text, f"the section {section!r}")
        values[found[1]] = float(found[2])
    if first != "rand":
        raise _not_understood(text, f"the beginning {first!r}")
    spread = values.get("mstd", 0.0)
    return Policy(
        magnitude=int(values.get("m", _LARGEST)),
        count=int(values.get("n", 2)),
        spread=float("inf") if spread > 100 else spread,
        largest=values.get("mmax", _LARGEST),
        increasing=bool(values.get("inc", 0)),
        probability=values.get("p", 0.5),
        weighted="w" in values,
    )


def _understood(name: str, value: float) -> bool:
    whole = value % 1 == 0 and value < 2**24  # float32 holds each of these
    drawable = sum(weight > 0 for weight in _WEIGHTS)
    limits = {
        "m": whole,
        "n": whole and 1 <= value <= drawable,
        "mstd": value < 2**24 or value == float("inf"),
        "mmax": whole and value > 0,
        "inc": value in (0, 1),
        "p": value <= 1,
        "w": value == 0,
    }
    return limits.get(name, False)


def _not_understood(text: str, what: str) -> UserError:
    return UserError(
        f"The augmentation {text!r} is not understood because of {what}: write it as timm does, "
        'for example "rand-m6-n2-mstd1.0", with the sections m, n, mstd, mmax, inc, p and w0.'
    )


def draw(key: chex.PRNGKey, policy: Policy) -> Operations:
    """Draws the operations of one image; the arrays have shape [policy.count]."""
    uniform_key, level_key = jax.random.split(key)
    applied, negative, bicubic, choice = jax.random.uniform(uniform_key, (4, policy.count))
    if policy.weighted:
        operation = _weighted(jax.random.fold_in(key, NOTHING), policy.count)
    else:
        operation = jnp.minimum((choice * NOTHING).astype(jnp.int32), NOTHING - 1)
    level = _magnitudes(level_key, policy) / _LARGEST
    sign = jnp.where(negative < 0.5, -1.0, 1.0)
    arguments = jnp.stack([_argument(name, level, sign, policy) for name in OPERATIONS])
    return Operations(
        jnp.where(applied < policy.probability, operation, NOTHING),
        jnp.take_along_axis(arguments, operation[None], 0)[0],
        bicubic < 0.5,
    )


def _weighted(key: chex.PRNGKey, count: int) -> chex.Array:
    """Draws without replacement: the largest log-weights after adding Gumbel noise."""
    noisy = jnp.log(jnp.array(_WEIGHTS, jnp.float32)) + jax.random.gumbel(key, (NOTHING,))
    return jax.lax.top_k(noisy, count)[1].astype(jnp.int32)


def _magnitudes(key: chex.PRNGKey, policy: Policy) -> chex.Array:
    shape = (policy.count,)
    if policy.spread == float("inf"):
        drawn = policy.magnitude * jax.random.uniform(key, shape)
    elif policy.spread > 0:
        drawn = policy.magnitude + policy.spread * jax.random.normal(key, shape)
    else:
        drawn = jnp.full(shape, policy.magnitude, jnp.float32)
    return jnp.clip(drawn, 0.0, policy.largest)


def _argument(name: str, level: chex.Array, sign: chex.Array, policy: Policy) -> chex.Array:
    """Argument of one operation for magnitudes 10 * level; whole numbers cut off the fraction."""

    def whole(scale):
        return jnp.floor(level * scale + 1e-4)  # 0.3 x 110 must not become 32

    if name == "rotate":
        return sign * level * 30.0
    if name in ("shear_x", "shear_y"):
        return sign * level * 0.3
    if name in ("translate_x", "translate_y"):
        return sign * level * 0.45
    if name == "posterize":
        return jnp.clip(4 - whole(4) if policy.increasing else whole(4), 0, 8)
    if name == "solarize":
        return 256 - whole(256) if policy.increasing else whole(256)
    if name == "solarize_add":
        return whole(110)
    if name in ("color", "contrast", "brightness", "sharpness"):
        factor = level * 1.8 + 0.1
        if policy.increasing:
            factor = jnp.maximum(1.0 + sign * level * 0.9, 0.1)
        return jnp.round(factor / _FACTOR_STEP) * _FACTOR_STEP
    return jnp.zeros_like(level)


def augment(pixels: chex.Array, operations: Operations, fill: tuple[int, ...]) -> chex.Array:
    """Applies to each image the operations that were drawn for it.

    Args:
      pixels: uint8 [B, S, S, C], C 1 or 3; the color operation does not change grey images.
      operations: arrays [B, n].
      fill: colour of pixels from outside the image, C values in 0..255; timm's is the mean.

    Returns:
      uint8 [B, S, S, C].
    """
    layers = jax.tree.map(jnp.transpose, operations)
    return jax.lax.scan(lambda p, layer: (_one(p, layer, fill), None), pixels, layers)[0]


def _one(pixels: chex.Array, operations: Operations, fill: tuple[int, ...]) -> chex.Array:
    """Applies one operation [B] per image, kind by kind, and only to the images that want it."""

    def wanted(*names):
        return jnp.isin(operations.operation, jnp.array([OPERATIONS.index(n) for n in names]))

    def moved(images, chosen_operations):
        matrix = _matrix(chosen_operations, images.shape[1])
        return affine.resample(images, matrix, chosen_operations.bicubic, fill)

    def sharpened(images, chosen_operations):
        return enhance.sharpness(images, chosen_operations.argument)

    def coloured(images, chosen_operations):
        return enhance.color(images, chosen_operations.argument)

    pixels = chosen.apply(_mapped, pixels, operations, wanted(*_TABLES))
    pixels = chosen.apply(moved, pixels, operations, wanted(*_MOVES))
    pixels = chosen.apply(sharpened, pixels, operations, wanted("sharpness"))
    if pixels.shape[3] == 3:
        pixels = chosen.apply(coloured, pixels, operations, wanted("color"))
    return pixels


def _mapped(pixels: chex.Array, operations: Operations) -> chex.Array:
    """Applies the operations that map grey levels by a table, whichever each image has."""
    argument = operations.argument
    whole = argument.astype(jnp.int32)
    counts = tables.histogram(pixels)
    made = {
        "autocontrast": tables.autocontrast(counts),
        "equalize": tables.equalize(counts),
        "invert": tables.invert(),
        "posterize": tables.posterize(jnp.clip(whole, 0, 8))[:, None],
        "solarize": tables.solarize(whole)[:, None],
        "solarize_add": tables.solarize_add(whole)[:, None],
        "contrast": tables.blend(enhance.mean_level(pixels), argument)[:, None],
        "brightness": tables.blend(jnp.zeros_like(whole), argument)[:, None],
    }
    table = jnp.broadcast_to(jnp.arange(tables.LEVELS), counts.shape)
    for name, entries in made.items():
        this = operations.operation == OPERATIONS.index(name)
        table = jnp.where(this[:, None, None], entries, table)
    return tables.look_up(pixels, table)


def _matrix(operations: Operations, size: int) -> chex.Array:
    """Affine matrices [B, 6] of the operations that move pixels."""
    argument = operations.argument
    zero = jnp.zeros_like(argument)
    made = {
        "rotate": affine.rotate(argument, size),
        "shear_x": affine.shear_x(argument),
        "shear_y": affine.shear_y(argument),
        "translate_x": affine.translate(argument * size, zero),
        "translate_y": affine.translate(zero, argument * size),
    }
    matrix = affine.translate(zero, zero)
    for name, coefficients in made.items():
        this = operations.operation == OPERATIONS.index(name)
        matrix = jnp.where(this[:, None], coefficients, matrix)
    return matrix
