"""The wide part of an inverted residual block, which MobileNet-V2 and EfficientNet share."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from delt_jax.models.layers import conv
from delt_jax.models.norm import BatchNorm


class WidePart(NamedTuple):
    """The layers between the narrow ends of a block.

    Attributes:
      expansion: how many times wider than the block's input.
      size, stride: of the depthwise convolution.
      activation: after either convolution.
      dtype: of activations.
    """

    expansion: int
    size: int
    stride: int
    activation: Callable[[chex.Array], chex.Array]
    dtype: jnp.dtype


def widen(x: chex.Array, part: WidePart, prefix: str, train: bool) -> tuple[chex.Array, int]:
    """1x1 expansion, unless by 1, and depthwise convolution, each with BatchNorm and activation.

    Call it inside a compact method, whose module then owns the layers.

    Args:
      x: [B, H, W, C].
      part: what the layers are like.
      prefix: of the layers' names, which mirror torch's.
      train: whether BatchNorm uses the batch's statistics.

    Returns:
      [B, H / stride, W / stride, expansion * C], and the position of torch's next module.
    """
    hidden = part.expansion * x.shape[-1]
    layers = [(1, 1, 1)] if part.expansion > 1 else []
    layers.append((part.size, part.stride, hidden))
    for position, (size, stride, groups) in enumerate(layers):
        name = f"{prefix}_{position}"
        layer = conv(
            hidden, size, stride, feature_group_count=groups, dtype=part.dtype, name=f"{name}_0"
        )
        x = layer(x)
        x = part.activation(BatchNorm(part.dtype, name=f"{name}_1")(x, train))
    return x, len(layers)
