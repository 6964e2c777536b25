"""MobileNet-V2 (arXiv 1801.04381) as torchvision's, and DELT's variant for small images."""

from typing import Any

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.inverted_residual import WidePart, widen
from delt_jax.models.layers import conv, divisible, torch_bias, torch_kernel
from delt_jax.models.norm import BatchNorm

# Expansion, channels, blocks, stride of the first block (paper, table 2).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The variant for small images halves the map three times instead of five.
_SMALL_STRIDES = (1, 2, 2, 2, 1, 1, 1)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where shapes allow."""

    expansion: int
    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        part = WidePart(self.expansion, 3, self.stride, nn.relu6, self.dtype)
        y, position = widen(x, part, "conv", train)
        y = conv(self.features, 1, dtype=self.dtype, name=f"conv_{position}")(y)
        y = BatchNorm(self.dtype, name=f"conv_{position + 1}")(y, train)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, 1x1 convolution, average, dropout, head.

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
        scale = self.width / 32
        x = conv(divisible(self.width), 3, 2, dtype=self.dtype, name="features_0_0")(x)
        x = nn.relu6(BatchNorm(self.dtype, name="features_0_1")(x, train))
        position = 1
        for expansion, channels, blocks, stride in _STAGES:
            for block in range(blocks):
                x = InvertedResidual(
                    expansion,
                    divisible(channels * scale),
                    stride if block == 0 else 1,
                    self.dtype,
                    name=f"features_{position}",
                )(x, train)
                position += 1
        last = divisible(1280 * max(1.0, scale))
        x = conv(last, 1, dtype=self.dtype, name=f"features_{position}_0")(x)
        x = nn.relu6(BatchNorm(self.dtype, name=f"features_{position}_1")(x, train))
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        x = nn.Dropout(0.2, deterministic=not train)(x)
        self.sow("features", "pooled", x)
        init = nn.initializers.normal(0.01)
        return nn.Dense(self.num_classes, kernel_init=init, name="classifier_1")(x)


def _conv_with_bias(
    x: chex.Array, features: int, size: int = 1, stride: int = 1, groups: int = 1, **options: Any
) -> chex.Array:
    """A convolution of x [B, H, W, C] with bias and torch's default initialisation."""
    layer = conv(
        features,
        size,
        stride,
        feature_group_count=groups,
        use_bias=True,
        kernel_init=torch_kernel,
        bias_init=torch_bias(size * size * x.shape[-1] // groups),
        **options,
    )
    return layer(x)


class SmallInvertedResidual(nn.Module):
    """The same block with biases, and an expansion even where it keeps the channels."""

    expansion: int
    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        hidden = self.expansion * x.shape[-1]
        y = _conv_with_bias(x, hidden, dtype=self.dtype, name="residual_0")
        y = nn.relu6(BatchNorm(self.dtype, name="residual_1")(y, train))
        y = _conv_with_bias(
            y, hidden, 3, self.stride, groups=hidden, dtype=self.dtype, name="residual_3"
        )
        y = nn.relu6(BatchNorm(self.dtype, name="residual_4")(y, train))
        y = _conv_with_bias(y, self.features, dtype=self.dtype, name="residual_6")
        y = BatchNorm(self.dtype, name="residual_7")(y, train)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class SmallMobileNetV2(nn.Module):
    """MobileNet-V2 for 32 to 64 px as DELT's evaluation defines it (`mobilenet_v2_modified`).

    Its stem is a 1x1 convolution padded by one pixel, so 32 px become 34.

    Attributes:
      width: channels of the stem; 32 is DELT's. All else scales with it.
      num_classes: outputs.
      dtype: of activations; parameters and statistics are float32.
    """

    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        scale = self.width / 32
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = _conv_with_bias(x, divisible(self.width), dtype=self.dtype, name="pre_0")
        x = nn.relu6(BatchNorm(self.dtype, name="pre_1")(x, train))
        for i, (expansion, channels, blocks, _) in enumerate(_STAGES):
            for block in range(blocks):
                x = SmallInvertedResidual(
                    expansion,
                    divisible(channels * scale),
                    _SMALL_STRIDES[i] if block == 0 else 1,
                    self.dtype,
                    name=f"stage{i + 1}" + (f"_{block}" if blocks > 1 else ""),
                )(x, train)
        last = divisible(1280 * max(1.0, scale))
        x = _conv_with_bias(x, last, dtype=self.dtype, name="conv1_0")
        x = nn.relu6(BatchNorm(self.dtype, name="conv1_1")(x, train))
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        self.sow("features", "pooled", x)
        # DELT's head is a 1x1 convolution; as a linear layer its weight would have two axes.
        x = x[:, None, None]  # [B, 1, 1, C]
        x = _conv_with_bias(x, self.num_classes, dtype=jnp.float32, name="conv2")
        return x[:, 0, 0]
