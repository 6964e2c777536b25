"""Taps the forward pass: inputs of BatchNorms, convolutions and the last layer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.core.losses import Moments
from delt_jax.errors import UserError
from delt_jax.models.norm import BatchNorm, input_moments

_NORMS = (BatchNorm, nn.BatchNorm)  # ours, and that of models from outside


class Pass(NamedTuple):
    """One forward pass in eval mode; lists are in the order in which the layers run.

    Attributes:
      logits: float32 [B, classes].
      batch: moments of each BatchNorm's input, over the batch.
      running: running statistics of each BatchNorm.
      norm_inputs, conv_inputs: inputs of each BatchNorm and of each convolution, [B, h, w, c] in
        the dtype of the activations.
      features: [B, D], input of the last layer: what the model sows as such, or else the input of
        its last Dense; the logits where there is neither.
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

    def tap(module: nn.Module, x: chex.Array) -> None:
        if isinstance(module, _NORMS):
            _check_axis(module, x)
            stats = functools.reduce(lambda d, k: d[k], module.path, variables["batch_stats"])
            seen.append(module.path)
            running.append(Moments(stats["mean"], stats["var"]))
            batch.append(input_moments(x, stats["mean"], weights))
            norm_inputs.append(x)
        elif isinstance(module, nn.Conv):
            conv_inputs.append(x)

    logits, features = logits_and_features(model, variables, images, tap)
    features = logits if features is None else features
    leaves = jax.tree_util.tree_leaves(variables.get("batch_stats", {}))
    if not seen:
        raise UserError("This teacher has no BatchNorm layer, so there is nothing to match.")
    if len(set(seen)) != len(seen) or 2 * len(seen) != len(leaves):
        raise UserError(
            f"The teacher ran {len(seen)} BatchNorm layers ({len(set(seen))} different) but "
            f"holds {len(leaves) // 2} pairs of running statistics; they must be one to one."
        )
    return Pass(logits, batch, running, tuple(norm_inputs), tuple(conv_inputs), features, weights)


def logits_and_features(
    model: nn.Module,
    variables: Mapping,
    images: chex.Array,
    tap: Callable[[nn.Module, chex.Array], None] = lambda module, x: None,
) -> tuple[chex.Array, chex.Array | None]:
    """Logits and features of a model in eval mode.

    Args:
      model: a model of `delt_jax.models`.
      variables: {"params", "batch_stats"}.
      images: normalised [B, S, S, C].
      tap: called with every module that runs, and its input.

    Returns:
      Logits [B, classes], and the features [B, D] that the model sows, or else the input of the
      last Dense if that makes the logits; None where there is neither.
    """
    last: list[tuple[chex.Array, Any]] = []  # input and output of the last Dense so far

    def intercept(next_fun, args, kwargs, context):
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()), None)
        tap(context.module, x)
        y = next_fun(*args, **kwargs)
        if isinstance(context.module, nn.Dense):
            last[:] = [(x, y)]
        return y

    with nn.intercept_methods(intercept):
        logits, sown = model.apply(variables, images, train=False, mutable=["features"])
    if "features" in sown:
        return logits, sown["features"]["pooled"][0]
    makes_logits = bool(last) and last[0][0].ndim == 2 and last[0][1].shape == logits.shape
    return logits, last[0][0] if makes_logits else None


def _check_axis(module: nn.Module, x: chex.Array) -> None:
    """Raises a UserError for a BatchNorm over another axis than the last."""
    axis = getattr(module, "axis", -1)
    if axis not in (-1, x.ndim - 1):
        raise UserError(
            f"The BatchNorm {'/'.join(module.path)} normalises axis {axis}, but recovery reads the "
            f"moments of the last axis; give it axis=-1."
        )


def dtype_of(model: nn.Module) -> jnp.dtype:
    """Type of a model's activations; float32 where it does not say."""
    return jnp.dtype(getattr(model, "dtype", None) or jnp.float32)
