"""ShuffleNet-V2 (arXiv 1807.11164), as torchvision's."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.layers import conv, torch_kernel, torch_linear
from delt_jax.models.norm import BatchNorm
from delt_jax.models.pool import max_pool

_BLOCKS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Two branches whose channels interleave; at stride 1 the first half passes unchanged."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, features]."""
        half = self.features // 2

        def layer(y, features, size, stride, name, position):
            groups = features if size > 1 else 1
            y = conv(
                features,
                size,
                stride,
                feature_group_count=groups,
                kernel_init=torch_kernel,
                dtype=self.dtype,
                name=f"{name}_{position}",
            )(y)
            return BatchNorm(self.dtype, name=f"{name}_{position + 1}")(y, train)

        if self.stride == 1:
            first, second = jnp.split(x, 2, axis=-1)
        else:
            first, second = x, x
            first = layer(first, x.shape[-1], 3, self.stride, "branch1", 0)
            first = nn.relu(layer(first, half, 1, 1, "branch1", 2))
        second = nn.relu(layer(second, half, 1, 1, "branch2", 0))
        second = layer(second, half, 3, self.stride, "branch2", 3)
        second = nn.relu(layer(second, half, 1, 1, "branch2", 5))
        # Channel i of both branches become neighbours: the shuffle of the paper.
        return jnp.stack([first, second], axis=-1).reshape(*second.shape[:-1], 2 * half)


class ShuffleNetV2(nn.Module):
    """Stem with max-pool, three stages of shuffle units, 1x1 convolution, average, head.

    Attributes:
      channels: of the stem, the three stages and the last convolution.
      num_classes: outputs.
      dtype: of activations; parameters and statistics are float32.
    """

    channels: tuple[int, int, int, int, int]
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        stem, *stages, last = self.channels
        x = conv(stem, 3, 2, kernel_init=torch_kernel, dtype=self.dtype, name="conv1_0")(x)
        x = nn.relu(BatchNorm(self.dtype, name="conv1_1")(x, train))
        x = max_pool(x, 3, 2, padding=1)
        for stage, (features, blocks) in enumerate(zip(stages, _BLOCKS, strict=True), start=2):
            for block in range(blocks):
                x = ShuffleUnit(
                    features, 1 if block else 2, self.dtype, name=f"stage{stage}_{block}"
                )(x, train)
        x = conv(last, 1, kernel_init=torch_kernel, dtype=self.dtype, name="conv5_0")(x)
        x = nn.relu(BatchNorm(self.dtype, name="conv5_1")(x, train))
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        self.sow("features", "pooled", x)
        return torch_linear(self.num_classes, last, "fc")(x)
