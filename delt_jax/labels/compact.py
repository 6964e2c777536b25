"""Soft labels in few bytes: float16, and only the classes that matter.

Of logits the k largest are kept and the mean of the others, of probabilities the k largest; what
these leave is spread evenly over the other classes.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.errors import UserError


class Compact(NamedTuple):
    """Soft labels of some images.

    Attributes:
      values: float16 [N, k'], by falling size: k logits and the mean of the others (k' = k + 1), or
        k probabilities; every class in its place (k' = classes) where all are kept.
      classes: uint8 or uint16 [N, k], which classes the first k values are of; None for all.
    """

    values: chex.Array
    classes: chex.Array | None


def keeps_all(top_k: int, num_classes: int) -> bool:
    """Whether every output is kept: top_k is 0, or no less than there are."""
    return top_k == 0 or top_k >= num_classes


def index_dtype(num_classes: int) -> np.dtype:
    """The smallest unsigned type of a class index: uint8 up to 256 classes."""
    return np.min_scalar_type(num_classes - 1)


def columns(top_k: int, num_classes: int, form: str) -> int:
    """Values per image, k'."""
    if keeps_all(top_k, num_classes):
        return num_classes
    return top_k + (form == "logits")


def compress(logits: chex.Array, top_k: int, form: str, temperature: float) -> Compact:
    """Keeps the largest outputs of every image.

    Args:
      logits: float32 [N, classes].
      top_k: how many; 0 keeps all.
      form: "logits", or "probabilities" at the temperature.
      temperature: T.

    Returns:
      Labels that hold infinities where logits are beyond float16 (see `check_finite`).
    """
    logits, num_classes = jnp.asarray(logits), logits.shape[1]
    outputs = logits if form == "logits" else jax.nn.softmax(logits / temperature)
    if keeps_all(top_k, num_classes):
        return Compact(outputs.astype(jnp.float16), None)
    # By logits, as probabilities of classes that are nearly alike may be equal.
    _, classes = jax.lax.top_k(logits, top_k)
    values = jnp.take_along_axis(outputs, classes, axis=1)
    if form == "logits":
        # Summed apart from the large ones, which would swallow them.
        others = _placed(jnp.zeros_like(values), classes, outputs)
        mean = others.sum(axis=1, keepdims=True) / (num_classes - top_k)
        values = jnp.concatenate([values, mean], axis=1)
    return Compact(values.astype(jnp.float16), classes.astype(index_dtype(num_classes)))


def expand(compact: Compact, num_classes: int, form: str, temperature: float) -> chex.Array:
    """The labels as probabilities at the temperature, float32 [N, classes]; rows sum to 1.

    The class of the largest kept value has the largest probability.
    """
    values = jnp.asarray(compact.values, jnp.float32)
    if compact.classes is not None:
        kept = compact.classes.shape[1]
        if form == "logits":
            rest = values[:, kept:]
        else:
            left = 1.0 - values.sum(axis=1, keepdims=True)
            # No other class can have more than the least that is kept; rounding may leave it so.
            rest = jnp.clip(left / (num_classes - kept), 0.0, values[:, -1:])
        full = jnp.broadcast_to(rest, (len(values), num_classes))
        values = _placed(values[:, :kept], jnp.asarray(compact.classes, jnp.int32), full)
    if form == "logits":
        return jax.nn.softmax(values / temperature)
    return values / values.sum(axis=1, keepdims=True)


def check_finite(compact: Compact, form: str) -> None:
    """Makes sure that labels made from a teacher's logits are numbers.

    Raises:
      UserError: if logits were not finite, or too large for float16.
    """
    values = np.asarray(compact.values)
    if np.isnan(values).any():
        raise UserError(
            "The teachers' logits of some views are not numbers; train a teacher with a lower "
            "teacher.learning_rate, or name another."
        )
    if np.isinf(values).any():
        raise UserError(
            f"The teachers' logits of some views are beyond ±{np.finfo(np.float16).max:.0f}, the "
            f'largest float16; set relabel.form to "probabilities" instead of "{form}".'
        )


def _placed(values: chex.Array, classes: chex.Array, full: chex.Array) -> chex.Array:
    """Puts values [N, k] in the places of their classes into [N, classes]."""
    return full.at[jnp.arange(len(full))[:, None], classes].set(values)
