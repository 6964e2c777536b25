"""ResNet (arXiv 1512.03385), topology and padding as torchvision's."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.layers import conv
from delt_jax.models.norm import BatchNorm
from delt_jax.models.pool import max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        y = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(self.dtype, name="bn1")(y, train))
        y = conv(self.features, 3, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(self.dtype, name="bn2")(y, train)
        return nn.relu(y + _shortcut(x, y, self.stride, self.dtype, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions to four times the features."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, 4 features]."""
        y = conv(self.features, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(self.dtype, name="bn1")(y, train))
        y = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(BatchNorm(self.dtype, name="bn2")(y, train))
        y = conv(4 * self.features, 1, dtype=self.dtype, name="conv3")(y)
        y = BatchNorm(self.dtype, name="bn3")(y, train)
        return nn.relu(y + _shortcut(x, y, self.stride, self.dtype, train))


def _shortcut(x: chex.Array, y: chex.Array, stride: int, dtype, train: bool) -> chex.Array:
    """x itself, or x projected to the shape of y; after y, as torch runs it."""
    if x.shape == y.shape:
        return x
    x = conv(y.shape[-1], 1, stride, dtype=dtype, name="downsample_0")(x)
    return BatchNorm(dtype, name="downsample_1")(x, train)


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global average pooling, linear head.

    Attributes:
      blocks: blocks per stage; (2, 2, 2, 2) is ResNet-18.
      width: channels of the first stage, doubled at each next one; 64 is the paper's.
      num_classes: outputs.
      small_stem: 3x3 stride-1 stem without max-pool, for images of up to about 64 px.
      dtype: of activations; parameters and statistics are float32.
      bottleneck: the blocks of ResNet-50 and deeper.
    """

    blocks: Sequence[int]
    width: int
    num_classes: int
    small_stem: bool
    dtype: jnp.dtype = jnp.float32
    bottleneck: bool = False

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        size, stride = (3, 1) if self.small_stem else (7, 2)
        x = conv(self.width, size, stride, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(self.dtype, name="bn1")(x, train))
        if not self.small_stem:
            x = max_pool(x, 3, 2, padding=1)
        block_type = Bottleneck if self.bottleneck else BasicBlock
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = block_type(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        x = x.mean(axis=(1, 2)).astype(jnp.promote_types(x.dtype, jnp.float32))
        self.sow("features", "pooled", x)
        return nn.Dense(self.num_classes, name="fc")(x)
