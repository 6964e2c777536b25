"""Calls of the pool's networks: features, logits, and gradients of weights."""

from typing import Any

import chex
import jax
import optax

from delt_jax import models
from delt_jax.errors import UserError
from delt_jax.learned import sharing
from delt_jax.models import ModelSpec, norm
from delt_jax.models.tap import logits_and_features

_CHUNK = 32  # images


def features(spec: ModelSpec, variables: Any, images: chex.Array) -> chex.Array:
    """Flattened input of the last layer, float [B, D], of a network in eval mode.

    Raises:
      UserError: if the network, a plug-in, does not tell its features.
    """
    found = logits_and_features(models.create(spec), variables, images)[1]
    if found is None:
        raise UserError(
            f"The model {spec.name!r} does not tell its features, which this method compares; let "
            f'it `self.sow("features", "pooled", x)` before its last layer.'
        )
    return found


def frozen_features(spec: ModelSpec, variables: Any, images: chex.Array) -> chex.Array:
    """`features` without gradients; on CPUs of few images at a time, which stay in its caches."""
    if jax.default_backend() != "cpu":
        return jax.lax.stop_gradient(features(spec, variables, images))
    each = jax.lax.map(lambda x: features(spec, variables, x[None])[0], images, batch_size=_CHUNK)
    return jax.lax.stop_gradient(each)


def trained_features(spec: ModelSpec, variables: Any, images: chex.Array) -> chex.Array:
    """The same of a network in train mode, whose BatchNorm takes the moments of these images.

    Where devices share the images, the moments are those of all.
    """
    if "batch_stats" not in variables:
        return features(spec, variables, images)
    with norm.shared_over(sharing.axis()):
        _, sown = models.create(spec).apply(
            variables, images, train=True, mutable=["batch_stats", "features"]
        )
    return sown["features"]["pooled"][0]


def logits(spec: ModelSpec, params: Any, images: chex.Array) -> chex.Array:
    """Logits float32 [B, classes] of a network without BatchNorm."""
    return models.create(spec).apply({"params": params}, images, train=False)


def without_batch_norm(variables: Any, method: str) -> Any:
    """The parameters of a network whose gradients are matched.

    Raises:
      UserError: if it has running statistics, which would have to be frozen.
    """
    if "batch_stats" in variables:
        raise UserError(
            f"{method} compares gradients of networks without BatchNorm; set learn.model to one "
            f"such as dc_conv3 or conv3_wide."
        )
    return variables["params"]


def cross_entropy(
    params: Any, images: chex.Array, labels: chex.Array, spec: ModelSpec
) -> chex.Array:
    """Mean cross-entropy of a network without BatchNorm, in the order that `jax.grad` likes.

    Args:
      params: of the network.
      images: float [B, S, S, C].
      labels: probabilities [B, classes].
      spec: of the network.
    """
    return optax.softmax_cross_entropy(logits(spec, params, images), labels).mean()


def descend(
    optimiser: optax.GradientTransformation, gradients: Any, params: Any, opt_state: Any
) -> tuple[Any, Any]:
    """One step of an optimiser: parameters and its state afterwards."""
    updates, opt_state = optimiser.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


gradients = jax.grad(cross_entropy)
