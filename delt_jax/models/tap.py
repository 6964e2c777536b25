"""Taps the forward pass: inputs of BatchNorms, convolutions and the last layer."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
from flax import linen as nn

from delt_jax.core.losses import Moments
from delt_jax.errors import UserError
from delt_jax.models.norm import BatchNorm, input_moments


class Pass(NamedTuple):
    """One forward pass in eval mode; lists are in the order in which the layers run.

    Attributes:
      logits: float32 [B, classes].
      batch: moments of each BatchNorm's input, over the batch.
      running: running statistics of each BatchNorm.
      norm_inputs, conv_inputs: inputs of each BatchNorm and of each convolution, [B, h, w, c] in
        the dtype of the activations.
      features: [B, D], input of the last layer; the logits if the model does not sow it.
      weights: of the images in means over the batch, float32 [B]; None for equal ones.
    """

    logits: chex.Array
    batch: list[Moments]
    running: list[Moments]
    norm_inputs: tuple[chex.Array, ...]
    conv_inputs: tuple[chex.Array, ...]
    features: chex.Array
    weights: chex.Array | None = None


class TappedNetwork(NamedTuple):
    """A network that is called on images and tapped.

    Attributes:
      model: a model of `delt_jax.models`.
      variables: {"params", "batch_stats"}.
      weights: of the images in the moments; see `apply_tapped`.
    """

    model: nn.Module
    variables: Mapping
    weights: chex.Array | None = None

    def __call__(self, images: chex.Array) -> Pass:
        """Applies the network to normalised images [B, S, S, C]."""
        return apply_tapped(self.model, self.variables, images, self.weights)


def apply_tapped(
    model: nn.Module,
    variables: Mapping,
    images: chex.Array,
    weights: chex.Array | None = None,
) -> Pass:
    """Applies a model in eval mode and records on the way; XLA drops what is not used.

    Args:
      model: a model of `delt_jax.models`.
      variables: {"params", "batch_stats"}.
      images: normalised [B, S, S, C].
      weights: of the images in the moments, float32 [B], which sum to 1; None for equal ones.

    Raises:
      UserError: if the layers that ran are not those that have running statistics.
    """
    batch: list[Moments] = []
    running: list[Moments] = []
    norm_inputs: list[chex.Array] = []
    conv_inputs: list[chex.Array] = []
    seen: list[tuple[str, ...]] = []

    def tap(next_fun, args, kwargs, context):
        module = context.module
        if context.method_name == "__call__":
            if isinstance(module, BatchNorm):
                stats = functools.reduce(lambda d, k: d[k], module.path, variables["batch_stats"])
                seen.append(module.path)
                running.append(Moments(stats["mean"], stats["var"]))
                batch.append(input_moments(args[0], stats["mean"], weights))
                norm_inputs.append(args[0])
            elif isinstance(module, nn.Conv):
                conv_inputs.append(args[0])
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(tap):
        logits, sown = model.apply(variables, images, train=False, mutable=["features"])
    leaves = jax.tree_util.tree_leaves(variables.get("batch_stats", {}))
    if not seen:
        raise UserError("This teacher has no BatchNorm layer, so there is nothing to match.")
    if len(set(seen)) != len(seen) or 2 * len(seen) != len(leaves):
        raise UserError(
            f"The teacher ran {len(seen)} BatchNorm layers ({len(set(seen))} different) but "
            f"holds {len(leaves) // 2} pairs of running statistics; they must be one to one."
        )
    features = sown["features"]["pooled"][0] if "features" in sown else logits
    return Pass(logits, batch, running, tuple(norm_inputs), tuple(conv_inputs), features, weights)
