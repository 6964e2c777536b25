"""What the students of an inner loop learn from: batches of learned images."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.core import keys
from delt_jax.learned.method import Learned


class Step(NamedTuple):
    """What one inner step draws.

    Attributes:
      indices: int32 [B], learned images of the batch.
      key: of their augmentation.
    """

    indices: chex.Array
    key: chex.PRNGKey


def draw_steps(key: chex.PRNGKey, count: int, images: int, batch: int) -> Step:
    """Draws batches without replacement: a new order after each pass, whose rest is left out.

    Args:
      key: of the outer step.
      count: static, number of inner steps.
      images: static, number of learned images.
      batch: static, images of a batch; 0 or too many take all.

    Returns:
      Steps with a leading axis [count].
    """
    batch = min(batch or images, images)
    per_pass = images // batch
    passes = -(-count // per_pass)

    def one_pass(key):
        order = jax.random.permutation(key, images)[: per_pass * batch]
        return order.reshape(per_pass, batch).astype(jnp.int32)

    orders = jax.vmap(one_pass)(jax.random.split(keys.derive(key, "order"), passes))
    indices = orders.reshape(-1, batch)[:count]
    return Step(indices, jax.random.split(keys.derive(key, "augment"), count))


def draw_step(key: chex.PRNGKey, number: chex.Array, images: int, batch: int) -> Step:
    """Draws the batch of one step of any number, by itself; all images where `batch` is 0."""
    own = keys.derive(key, "free", number)
    order = jax.random.permutation(keys.derive(own, "order"), images)
    return Step(order[: min(batch or images, images)].astype(jnp.int32), own)


def batch_of(learned: Learned, step: Step) -> tuple[chex.Array, chex.Array]:
    """Images and labels of a step."""
    return learned.images[step.indices], learned.labels[step.indices]
