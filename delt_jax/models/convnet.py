"""ConvNet-D, the small network of the dataset-distillation literature (arXiv 2006.05929)."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.layers import flatten_as_torch
from delt_jax.models.norm import BatchNorm


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 average pooling."""

    depth: int
    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        for i in range(self.depth):
            x = nn.Conv(self.width, (3, 3), padding=1, dtype=self.dtype, name=f"conv_{i}")(x)
            x = BatchNorm(dtype=self.dtype, name=f"norm_{i}")(x, train)
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
        x = flatten_as_torch(x).astype(jnp.float32)
        self.sow("features", "pooled", x)
        return nn.Dense(self.num_classes, name="classifier")(x)
