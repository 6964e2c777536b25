"""ResNet with basic blocks (arXiv 1512.03385), topology and padding as torchvision's."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.norm import BatchNorm

_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""

        def conv(size, stride, name):
            return nn.Conv(
                self.features,
                (size, size),
                stride,
                padding=size // 2,
                use_bias=False,
                kernel_init=_kernel_init,
                dtype=self.dtype,
                name=name,
            )

        shortcut = x
        y = conv(3, self.stride, "conv1")(x)
        y = nn.relu(BatchNorm(self.dtype, name="bn1")(y, train))
        y = conv(3, 1, "conv2")(y)
        y = BatchNorm(self.dtype, name="bn2")(y, train)
        if shortcut.shape != y.shape:
            shortcut = conv(1, self.stride, "downsample_0")(x)
            shortcut = BatchNorm(self.dtype, name="downsample_1")(shortcut, train)
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """Stem, four stages of basic blocks, global average pooling, linear head.

    Attributes:
      blocks: blocks per stage; (2, 2, 2, 2) is ResNet-18.
      width: channels of the first stage, doubled at each next one; 64 is the paper's.
      num_classes: outputs.
      small_stem: 3x3 stride-1 stem without max-pool, for images of up to about 64 px.
      dtype: of activations; parameters and statistics are float32.
    """

    blocks: Sequence[int]
    width: int
    num_classes: int
    small_stem: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        size, stride = (3, 1) if self.small_stem else (7, 2)
        x = nn.Conv(
            self.width,
            (size, size),
            stride,
            padding=size // 2,
            use_bias=False,
            kernel_init=_kernel_init,
            dtype=self.dtype,
            name="conv1",
        )(x)
        x = nn.relu(BatchNorm(self.dtype, name="bn1")(x, train))
        if not self.small_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = BasicBlock(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        self.sow("features", "pooled", x)
        return nn.Dense(self.num_classes, name="fc")(x)
