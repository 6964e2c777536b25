"""EfficientNet-Lite0, Google's variant of EfficientNet-B0 for phones, as its ports to torch."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.efficientnet import DROPOUT, blocks
from delt_jax.models.layers import conv, stochastic_depth
from delt_jax.models.norm import BatchNorm

# Those of TensorFlow, where its weights come from.
_EPSILON = 1e-3
_MOMENTUM = 0.01
# No network of the family scales these.
_STEM = 32
_HEAD = 1280


def _norm(dtype: jnp.dtype, name: str) -> BatchNorm:
    return BatchNorm(dtype, _EPSILON, _MOMENTUM, name=name)


class LiteBlock(nn.Module):
    """Inverted residual without squeeze-excitation, padded as TensorFlow pads."""

    expansion: int
    kernel: int
    stride: int
    features: int
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
        hidden, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = conv(hidden, 1, dtype=self.dtype, name="expand_conv")(y)
            y = nn.relu6(_norm(self.dtype, "bn0")(y, train))
        y = conv(
            hidden,
            self.kernel,
            self.stride,
            padding="SAME",
            feature_group_count=hidden,
            dtype=self.dtype,
            name="depthwise_conv",
        )(y)
        y = nn.relu6(_norm(self.dtype, "bn1")(y, train))
        y = conv(self.features, 1, dtype=self.dtype, name="project_conv")(y)
        y = _norm(self.dtype, "bn2")(y, train)
        if self.stride == 1 and x.shape == y.shape:
            y = x + stochastic_depth(y, self.drop, train)
        return y


class EfficientNetLite0(nn.Module):
    """Stem, seven stages of LiteBlock, 1x1 convolution, average, dropout, linear head.

    Attributes:
      width: scales the channels of all blocks, which are the paper's at 32; stem and head keep
        theirs, as in all networks of the family.
      num_classes: outputs.
      dtype: of activations; parameters and statistics are float32.
    """

    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        x = conv(_STEM, 3, 2, padding="SAME", dtype=self.dtype, name="conv_stem")(x)
        x = nn.relu6(_norm(self.dtype, "bn0")(x, train))
        for number, (_, _, shape) in enumerate(blocks(self.width / 32)):
            x = LiteBlock(*shape, self.dtype, name=f"blocks_{number}")(x, train)
        x = conv(_HEAD, 1, dtype=self.dtype, name="conv_head")(x)
        x = nn.relu6(_norm(self.dtype, "bn1")(x, train))
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        x = nn.Dropout(DROPOUT, deterministic=not train)(x)
        self.sow("features", "pooled", x)
        init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        return nn.Dense(self.num_classes, kernel_init=init, name="fc")(x)
