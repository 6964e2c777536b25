"""Arrays that recovery changes, reads and reports, for a batch of images.

Shapes: B images of a batch, n of them active, S pixels a side, C channels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
from flax import struct

# Which images of a batch are optimised: a count n for the first n, else their positions. Static.
Active = int | tuple[int, ...]


class RecoverState(struct.PyTreeNode):
    """What an iteration changes, for one batch in joining order.

    Attributes:
      step: int32 scalar, iterations done.
      images: normalised float32 [B, S, S, C].
      mu, nu: Adam's first and second moments of the images' gradients, float32 [B, S, S, C]; ()
        with another optimiser.
      term_state: what the extra loss terms hand from one iteration to the next, as a tuple over
        teachers of tuples over terms; () without extra terms.
      plugged: state of an optimiser from outside, a pytree of arrays [B, ...]; () with Adam.
    """

    step: chex.Array
    images: chex.Array
    mu: Any
    nu: Any
    term_state: Any = ()
    plugged: Any = ()


class BatchInputs(NamedTuple):
    """What iterations read and never change, for one batch in joining order.

    Attributes:
      labels: int32 [B].
      ranks: int32 [B], position of each image among the synthetic images of its class.
      start_iterations: int32 [B], iteration at which each image joins.
      end_iterations: int32 [B], iteration from which on each image is frozen.
      iterations: int32 scalar, iterations of the batch in all.
      key: typed PRNG key of the batch.
      low, high: float32 [C], the valid pixel range in normalised units.
      starts: float32 [B, S, S, C], the start images; None unless residuals are mixed in.
      params: the batch's own parameters of each teacher (DWA); None where all batches share the
        teachers' parameters.
    """

    labels: chex.Array
    ranks: chex.Array
    start_iterations: chex.Array
    end_iterations: chex.Array
    iterations: chex.Array
    key: chex.PRNGKey
    low: chex.Array
    high: chex.Array
    starts: chex.Array | None = None
    params: tuple[Mapping, ...] | None = None


class TeacherVariables(NamedTuple):
    """What a teacher brings to all batches.

    Attributes:
      variables: {"params", "batch_stats"}.
      constants: of each extra loss term, as its `prepare` returned them for this teacher.
    """

    variables: Mapping
    constants: tuple[Any, ...] = ()


class Clock(NamedTuple):
    """Time as each image counts it, int32 [n] each.

    Attributes:
      done: iterations before this one.
      total: iterations in all.
    """

    done: chex.Array
    total: chex.Array


class TermInputs(NamedTuple):
    """What the extra terms of an iteration are given besides the teacher's outputs.

    Attributes:
      ranks: int32 [n], of the active images.
      classes: static, numbers the classes of the active images from 0.
      key: typed PRNG key of the batch and the iteration.
      constants, term_state: of each term.
    """

    ranks: chex.Array
    classes: tuple[int, ...]
    key: chex.PRNGKey
    constants: tuple[Any, ...]
    term_state: tuple[Any, ...]


class Losses(NamedTuple):
    """The objective and its parts, float32.

    Attributes:
      loss: the whole objective.
      cross_entropy: with the images' labels.
      bn: BN matching, before its weight.
      further: weighted sum of the extra terms; 0 without any.
      terms: each extra term by its name, before its weight.
    """

    loss: chex.Array
    cross_entropy: chex.Array
    bn: chex.Array
    further: chex.Array
    terms: Mapping[str, chex.Array] = {}
