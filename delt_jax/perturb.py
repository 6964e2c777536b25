"""Directed weight adjustment: a teacher moved a little uphill on the images that start (DWA).

DWA (arXiv 2409.17612) recovers each batch with weights of its own, found by a few steps of ascent
on the cross-entropy of the batch's start images. The released code also leaves the gradients of
these steps in the images' first update, which is no part of the method; here they are not.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from delt_jax import objective

_TINY = 1e-12


def ascend(
    params: Mapping,
    batch_stats: Mapping,
    images: chex.Array,
    labels: chex.Array,
    *,
    model: nn.Module,
    length: float,
) -> Mapping:
    """One step of a fixed length up the gradient of the mean cross-entropy.

    params + length * g / (|g| + 1e-12), with the norm over all leaves.

    Args:
      params: of the teacher, which runs in eval mode.
      batch_stats: its running statistics, which stay as they are.
      images: normalised float32 [n, S, S, C], as viewed.
      labels: int32 [n].
      model: the teacher's module.
      length: rho / K for K steps that go rho far at the most.
    """

    def cross_entropy(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits = model.apply(variables, images, train=False)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return objective.cross_entropy(logits.astype(wide), labels)

    gradient = jax.grad(cross_entropy)(params)
    scale = length / (optax.tree.norm(gradient) + _TINY)
    return jax.tree.map(lambda p, g: p + scale * g, params, gradient)
