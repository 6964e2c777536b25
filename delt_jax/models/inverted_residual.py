"""The wide part of an inverted residual block, which MobileNet-V2 and EfficientNet share."""

from collections.abc import Callable

import chex
import jax.numpy as jnp

from delt_jax.models.layers import conv
from delt_jax.models.norm import BatchNorm


def expanded(
    x: chex.Array,
    expansion: int,
    size: int,
    stride: int,
    activation: Callable[[chex.Array], chex.Array],
    prefix: str,
    dtype: jnp.dtype,
    train: bool,
) -> tuple[chex.Array, int]:
    """1x1 expansion, unless by 1, and depthwise convolution, each with BatchNorm and activation.

    Args:
      x: [B, H, W, C].
      expansion: how many times C the convolution is wide.
      size, stride: of the depthwise convolution.
      activation: of both.
      prefix: of torch's names.
      dtype: of activations.
      train: whether BatchNorm trains.

    Returns:
      [B, H / stride, W / stride, expansion * C], and the position of torch's next module.
    """
    hidden = expansion * x.shape[-1]
    layers = [(1, 1, 1)] if expansion > 1 else []
    layers.append((size, stride, hidden))
    for position, (kernel, step, groups) in enumerate(layers):
        name = f"{prefix}_{position}"
        x = conv(hidden, kernel, step, groups=groups, dtype=dtype, name=f"{name}_0")(x)
        x = activation(BatchNorm(dtype, name=f"{name}_1")(x, train))
    return x, len(layers)
