"""Experts: trainings on all real images whose weights are kept after every epoch.

SGD without momentum and decay on augmented images, as MTT's buffers are made; with a radius above 0
the gradient is GSAM's, which leads to flat minima (FTD, arXiv 2211.11004).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from delt_jax import models
from delt_jax.core import keys
from delt_jax.learned import augmentation, networks
from delt_jax.models import ModelSpec

VERSION = 3  # part of identities; raise it when results change


@dataclass(frozen=True)
class ExpertPlan:
    """How experts are trained; hashable.

    Attributes:
      spec: architecture.
      epochs: of each; weights are kept at the start and after every one.
      batch: images of a step; the rest of an epoch is left out.
      rate: learning rate.
      augment: strategy of `delt_jax.augment.dsa`, or empty.
      radius: of GSAM's ascent, relative to each weight; 0 takes the plain gradient.
      surrogate: GSAM's alpha, the weight of the part of the gradient that the ascent's lacks.
      seed: of the run.
    """

    spec: ModelSpec
    epochs: int
    batch: int
    rate: float
    augment: str
    radius: float
    surrogate: float
    seed: int


def start(plan: ExpertPlan, expert: int) -> Any:
    """Weights of an expert before its first epoch."""
    spec = plan.spec
    images = jnp.zeros((1, spec.image_size, spec.image_size, spec.channels))
    key = keys.stream(plan.seed, "expert", expert, "start")
    return models.create(spec).init(key, images, train=False)["params"]


def epoch_key(plan: ExpertPlan, expert: int, number: int) -> chex.PRNGKey:
    """Key of an epoch, which a step folds its number into; that of no other expert or epoch."""
    return keys.stream(plan.seed, "expert", expert, "epoch", number)


def batches(plan: ExpertPlan, key: chex.PRNGKey, count: int) -> np.ndarray:
    """Places of an epoch's images among `count`, int [steps, batch]; the rest is left out.

    Args:
      plan: of all experts.
      key: of the epoch.
      count: of images.
    """
    order = np.asarray(jax.random.permutation(keys.derive(key, "order"), count))
    steps = count // plan.batch
    return order[: steps * plan.batch].reshape(steps, plan.batch)


def gradient_step(
    plan: ExpertPlan, params: Any, images: chex.Array, labels: chex.Array, key: chex.PRNGKey
) -> tuple[Any, chex.Array]:
    """An expert after a step on a batch, float32 [B, S, S, C] with classes int32 [B].

    Returns:
      Its weights, and the loss before.
    """
    images = augmentation.each(key, plan.augment, images)
    targets = jax.nn.one_hot(labels, plan.spec.num_classes)

    def loss(params):
        return networks.cross_entropy(params, images, targets, plan.spec)

    before, grads = flat_gradient(loss, params, plan.radius, plan.surrogate)
    return jax.tree.map(lambda p, g: p - plan.rate * g, params, grads), before


def flat_gradient(
    loss: Callable[[Any], chex.Array], params: Any, radius: float, surrogate: float
) -> tuple[chex.Array, Any]:
    """The loss, and the gradient of GSAM (arXiv 2203.08065); the plain one where the radius is 0.

    It is the gradient at the end of an ascent, less `surrogate` times the part of the gradient here
    that is at right angles to it. As in FTD's code the ascent is adaptive (ASAM, arXiv 2102.11600):
    of length `radius` where a weight w counts 1 / |w|, so weights near 0 hardly move.
    """
    before, here = jax.value_and_grad(loss)(params)
    if not radius:
        return before, here
    scaled = jax.tree.map(lambda p, g: jnp.abs(p) * g, params, here)
    length = jnp.sqrt(optax.tree.vdot(scaled, scaled))
    ahead = jax.tree.map(lambda p, g: p + radius * p**2 * g / (length + 1e-12), params, here)
    there = jax.grad(loss)(ahead)
    share = optax.tree.vdot(here, there) / (optax.tree.vdot(there, there) + 1e-12)
    return before, jax.tree.map(lambda h, t: t - surrogate * (h - share * t), here, there)
