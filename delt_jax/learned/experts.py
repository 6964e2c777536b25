"""Experts: trainings on all real images whose weights are kept after every epoch.

SGD without momentum and decay on augmented images, as MTT's buffers are made; with a radius above 0
the gradient is GSAM's, which leads to flat minima (FTD, arXiv 2211.11004).
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from delt_jax import models
from delt_jax.core import keys
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import Examples
from delt_jax.learned import augmentation, networks
from delt_jax.models import ModelSpec

VERSION = 1  # part of identities; raise it when results change


@dataclass(frozen=True)
class ExpertPlan:
    """How experts are trained; hashable.

    Attributes:
      spec: architecture.
      epochs: of each; weights are kept at the start and after every one.
      batch: images of a step; the rest of an epoch is left out.
      rate: learning rate.
      augment: strategy of `delt_jax.augment.dsa`, or empty.
      radius: of GSAM's ascent, in weights' norm; 0 takes the plain gradient.
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


class ExpertImages(NamedTuple):
    """What experts learn from.

    Attributes:
      examples: real images.
      preprocessing: from their pixels to the network's inputs.
    """

    examples: Examples
    preprocessing: Preprocessing


def epoch(
    plan: ExpertPlan,
    real: ExpertImages,
    expert: int,
    number: int,
    params: Any,
    on_step: Callable[[], None] = lambda: None,
) -> Any:
    """Weights of an expert after one more epoch.

    The order of the images and their augmentation depend on (seed, expert, epoch, step) alone.

    Args:
      plan: of all experts.
      real: images to learn from.
      expert: its number.
      number: of the epoch, from 0 on.
      params: weights before it.
      on_step: called after every gradient step.
    """
    key = keys.stream(plan.seed, "expert", expert, "epoch", number)
    for step, indices in enumerate(_batches(plan, key, len(real.examples))):
        images = real.preprocessing(real.examples.images(indices))
        labels = real.examples.labels[indices]
        params = gradient_step(plan, params, images, labels, jax.random.fold_in(key, step))
        on_step()
    return params


def _batches(plan: ExpertPlan, key: chex.PRNGKey, count: int) -> Iterator[np.ndarray]:
    order = np.asarray(jax.random.permutation(keys.derive(key, "order"), count))
    for at in range(0, count - plan.batch + 1, plan.batch):
        yield order[at : at + plan.batch]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def gradient_step(
    plan: ExpertPlan, params: Any, images: chex.Array, labels: chex.Array, key: chex.PRNGKey
) -> Any:
    """An expert after a step on a batch, float32 [B, S, S, C] with classes int32 [B]."""
    images = augmentation.each(key, plan.augment, images)
    targets = jax.nn.one_hot(labels, plan.spec.num_classes)

    def loss(params):
        return networks.cross_entropy(params, images, targets, plan.spec)

    grads = flat_gradient(loss, params, plan.radius, plan.surrogate)
    return jax.tree.map(lambda p, g: p - plan.rate * g, params, grads)


def flat_gradient(
    loss: Callable[[Any], chex.Array], params: Any, radius: float, surrogate: float
) -> Any:
    """The gradient of GSAM (arXiv 2203.08065); the plain one where the radius is 0.

    It is the gradient at the end of an ascent of length `radius`, less `surrogate` times the part
    of the gradient here that is at right angles to it.
    """
    here = jax.grad(loss)(params)
    if not radius:
        return here
    length = jnp.sqrt(optax.tree.vdot(here, here))
    ahead = jax.tree.map(lambda p, g: p + radius * g / (length + 1e-12), params, here)
    there = jax.grad(loss)(ahead)
    share = optax.tree.vdot(here, there) / (optax.tree.vdot(there, there) + 1e-12)
    return jax.tree.map(lambda h, t: t - surrogate * (h - share * t), here, there)
