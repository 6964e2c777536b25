"""What the students of an inner loop learn from: batches of learned images."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.core import keys
from delt_jax.learned.method import Learned, Setup


class Step(NamedTuple):
    """What one inner step draws.

    Attributes:
      indices: int32 [B], learned images of the batch.
      key: of their augmentation.
    """

    indices: chex.Array
    key: chex.PRNGKey


def batch_size(setup: Setup) -> int:
    """Learned images of a student's step: the option `student_batch`, where 0 is all."""
    learned = setup.num_classes * setup.ipc
    return min(int(setup.option("student_batch")) or learned, learned)


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


def draw_balanced(
    key: chex.PRNGKey, number: chex.Array, classes: int, per_class: int, batch: int
) -> Step:
    """Draws the batch of one step by its number, as equal by class as can be (RaT-BPTT).

    Every class has `batch` // `classes` images, and the rest is one more of classes drawn at
    random; so a batch smaller than `classes` has one image of each of as many classes.

    Args:
      key: of the outer step.
      number: int32 scalar, of the inner step.
      classes: static, of the data; learned images lie class by class.
      per_class: static, learned images of each class.
      batch: static, images of a batch; 0 or too many take all, in their order.
    """
    images = classes * per_class
    batch = min(batch or images, images)
    own = keys.derive(key, "step", number)
    if batch == images:
        return Step(jnp.arange(images, dtype=jnp.int32), own)
    numbered = jnp.arange(images).reshape(classes, per_class)
    shuffled = jax.random.permutation(keys.derive(own, "images"), numbered, 1, independent=True)
    # Round by round one image of every class, the classes in one order.
    turns = jax.random.permutation(keys.derive(own, "classes"), shuffled).T
    return Step(turns.reshape(-1)[:batch].astype(jnp.int32), own)


def batch_of(learned: Learned, step: Step) -> tuple[chex.Array, chex.Array]:
    """Images and labels of a step."""
    return learned.images[step.indices], learned.labels[step.indices]
