"""Soft labels in few bytes: float16, and only the classes that matter.

Of logits the k largest are kept, and the mean of the others, which all of these get back. Of
probabilities the k largest are kept; the other classes share evenly what is missing to 1.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.errors import UserError

VERSION = 1  # part of identities; raise it when results change


class Compact(NamedTuple):
    """Soft labels of N images.

    Attributes:
      values: float16 [N, k']. In descending order k logits and then the mean of the others
        (k' = k + 1), or k probabilities (k' = k). Where all classes are kept, every class at its
        own place (k' = number of classes).
      classes: uint8 or uint16 [N, k], the classes of the first k values; None where all are kept.
    """

    values: chex.Array
    classes: chex.Array | None


def keeps_all(top_k: int, num_classes: int) -> bool:
    """Whether every class is kept: `top_k` is 0, or at least the number of classes."""
    return top_k == 0 or top_k >= num_classes


def index_dtype(num_classes: int) -> np.dtype:
    """The smallest unsigned type that holds a class index: uint8 up to 256 classes."""
    return np.min_scalar_type(num_classes - 1)


def columns(top_k: int, num_classes: int, form: str) -> int:
    """Number of values per image, k'."""
    if keeps_all(top_k, num_classes):
        return num_classes
    return top_k + (form == "logits")


def compress(logits: chex.Array, top_k: int, form: str, temperature: float) -> Compact:
    """Keeps the largest outputs of every image.

    Args:
      logits: float32 [N, classes].
      top_k: number of classes to keep; 0 keeps all.
      form: "logits", or "probabilities" at the temperature.
      temperature: T, by which logits are divided before the softmax.

    Returns:
      Labels, which hold infinities where logits are beyond float16 (see `check_finite`).
    """
    logits, num_classes = jnp.asarray(logits), logits.shape[1]
    outputs = logits if form == "logits" else jax.nn.softmax(logits / temperature)
    if keeps_all(top_k, num_classes):
        return Compact(outputs.astype(jnp.float16), None)
    # Of logits, in either form: probabilities of classes that are nearly alike may round to equal.
    _, classes = jax.lax.top_k(logits, top_k)
    values = jnp.take_along_axis(outputs, classes, axis=1)
    if form == "logits":
        # The kept ones are zeroed, not subtracted: next to them the small ones would lose all bits.
        others = _scatter(jnp.zeros_like(values), classes, outputs)
        mean = others.sum(axis=1, keepdims=True) / (num_classes - top_k)
        values = jnp.concatenate([values, mean], axis=1)
    return Compact(values.astype(jnp.float16), classes.astype(index_dtype(num_classes)))


def expand(compact: Compact, num_classes: int, form: str, temperature: float) -> chex.Array:
    """Expands labels to probabilities at the temperature, float32 [N, classes]; rows sum to 1.

    The class of the largest kept value keeps the largest probability.
    """
    values = jnp.asarray(compact.values, jnp.float32)
    if compact.classes is not None:
        kept = compact.classes.shape[1]
        if form == "logits":
            rest = values[:, kept:]
        else:
            left = 1.0 - values.sum(axis=1, keepdims=True)
            # No other class has more than the smallest kept one, but rounding could make it so.
            rest = jnp.clip(left / (num_classes - kept), 0.0, values[:, -1:])
        full = jnp.broadcast_to(rest, (len(values), num_classes))
        values = _scatter(values[:, :kept], jnp.asarray(compact.classes, jnp.int32), full)
    if form == "logits":
        return jax.nn.softmax(values / temperature)
    return values / values.sum(axis=1, keepdims=True)


def check_finite(compact: Compact, form: str) -> None:
    """Checks that all values are finite.

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


def _scatter(values: chex.Array, classes: chex.Array, full: chex.Array) -> chex.Array:
    """Writes values [N, k] into `full` [N, classes], each at the place of its class."""
    return full.at[jnp.arange(len(full))[:, None], classes].set(values)
