"""EfficientNet-B0 (arXiv 1905.11946), as torchvision's."""

from collections.abc import Iterator
from typing import NamedTuple

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.inverted_residual import WidePart, widen
from delt_jax.models.layers import conv, divisible, stochastic_depth
from delt_jax.models.norm import BatchNorm

# Expansion, kernel, stride of the first block, channels, blocks (paper, table 1).
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_BLOCKS = sum(stage[-1] for stage in _STAGES)
_STOCHASTIC_DEPTH = 0.2  # of the last block, growing linearly from zero
DROPOUT = 0.2


class Shape(NamedTuple):
    """What a block's size is, in the order of its attributes; `drop` is of stochastic depth."""

    expansion: int
    kernel: int
    stride: int
    features: int
    drop: float


def blocks(scale: float) -> Iterator[tuple[int, int, Shape]]:
    """Stage, place within the stage, and size of each block, with channels scaled."""
    number = 0
    for stage, (expansion, kernel, stride, channels, count) in enumerate(_STAGES):
        for place in range(count):
            drop = _STOCHASTIC_DEPTH * number / _BLOCKS
            first = stride if place == 0 else 1
            yield stage, place, Shape(expansion, kernel, first, divisible(channels * scale), drop)
            number += 1


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate computed from all channel means."""

    squeezed: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Keeps the shape [B, H, W, C]."""
        gate = x.mean(axis=(1, 2), keepdims=True)
        for name, features, activation in (
            ("fc1", self.squeezed, nn.silu),
            ("fc2", x.shape[-1], nn.sigmoid),
        ):
            layer = conv(features, 1, use_bias=True, dtype=self.dtype, name=name)
            gate = activation(layer(gate))
        return x * gate


class MBConv(nn.Module):
    """Inverted residual with squeeze-excitation and stochastic depth."""

    expansion: int
    kernel: int
    stride: int
    features: int
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        part = WidePart(self.expansion, self.kernel, self.stride, nn.silu, self.dtype)
        y, position = widen(x, part, "block", train)
        squeezed = max(1, x.shape[-1] // 4)
        y = SqueezeExcitation(squeezed, self.dtype, name=f"block_{position}")(y)
        y = conv(self.features, 1, dtype=self.dtype, name=f"block_{position + 1}_0")(y)
        y = BatchNorm(self.dtype, name=f"block_{position + 1}_1")(y, train)
        if self.stride == 1 and x.shape == y.shape:
            y = x + stochastic_depth(y, self.drop, train)
        return y


class EfficientNetB0(nn.Module):
    """Stem, seven stages of MBConv, 1x1 convolution, average, dropout, linear head.

    Attributes:
      width: channels of the stem; 32 is the paper's. All else scales with it.
      num_classes: outputs.
      dtype: of activations; parameters and statistics are float32.
    """

    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        x = conv(divisible(self.width), 3, 2, dtype=self.dtype, name="features_0_0")(x)
        x = nn.silu(BatchNorm(self.dtype, name="features_0_1")(x, train))
        for stage, place, shape in blocks(self.width / 32):
            name = f"features_{stage + 1}_{place}"
            x = MBConv(*shape, self.dtype, name=name)(x, train)
        last = f"features_{len(_STAGES) + 1}"
        x = conv(4 * x.shape[-1], 1, dtype=self.dtype, name=f"{last}_0")(x)
        x = nn.silu(BatchNorm(self.dtype, name=f"{last}_1")(x, train))
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        x = nn.Dropout(DROPOUT, deterministic=not train)(x)
        self.sow("features", "pooled", x)
        init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return nn.Dense(self.num_classes, kernel_init=init, name="classifier_1")(x)
