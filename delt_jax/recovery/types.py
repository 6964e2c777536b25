"""What recovery changes, reads and tells of a batch of images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import numpy as np
from flax import struct

# The active images: a count where they are the first ones, else their positions.
Active = int | tuple[int, ...]


class RecoverState(struct.PyTreeNode):
    """What recovery changes, for one batch in joining order.

    Attributes:
      step: int32 scalar, iterations done.
      images: normalised float32 [B, S, S, C].
      mu, nu: Adam's moments of the images, same shape.
      term_state: what further terms carry from one iteration to the next, for each teacher and of
        it for each term; () where there are none.
    """

    step: chex.Array
    images: chex.Array
    mu: chex.Array
    nu: chex.Array
    term_state: Any = ()


class Job(NamedTuple):
    """What recovery reads, for one batch in joining order.

    Attributes:
      labels: int32 [B].
      ranks: int32 [B], position of each image among the synthetic ones of its class.
      joins: int32 [B], iteration at which each image joins.
      iterations: int32 scalar, total of the batch.
      key: typed PRNG key of the batch.
      low, high: float32 [C], the valid pixel range in normalised units.
      starts: float32 [B, S, S, C], the images before any iteration; only where a residual of them
        is asked for.
    """

    labels: chex.Array
    ranks: chex.Array
    joins: chex.Array
    iterations: chex.Array
    key: chex.PRNGKey
    low: chex.Array
    high: chex.Array
    starts: chex.Array | None = None


class TeacherVariables(NamedTuple):
    """What a teacher brings to all batches.

    Attributes:
      variables: {"params", "batch_stats"}.
      constants: of each further term, as its `prepare` gave them.
    """

    variables: Mapping
    constants: tuple[Any, ...] = ()


class TermInputs(NamedTuple):
    """What an iteration's further terms are given besides the teacher's look at the images.

    Attributes:
      ranks: int32 [n], of the active images.
      classes: static, of each active image a number from 0 that its class has in the batch.
      key: typed PRNG key of the batch and the iteration.
      constants, term_state: of each term.
    """

    ranks: chex.Array
    classes: tuple[int, ...]
    key: chex.PRNGKey
    constants: tuple[Any, ...]
    term_state: tuple[Any, ...]


class Losses(NamedTuple):
    """Parts of the objective, float32: total, cross-entropy, BN matching, further terms.

    The further terms are their weighted sum, 0 where there are none.
    """

    loss: chex.Array
    cross_entropy: chex.Array
    bn: chex.Array
    further: chex.Array

    @classmethod
    def stored(cls, arrays: Mapping[str, Any]) -> "Losses":
        """From arrays by name; files of before there were further terms lack those."""
        none = np.zeros_like(arrays["loss"])
        return cls(*(np.asarray(arrays.get(name, none)) for name in cls._fields))
