"""A model: an ordinary Flax module."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn


class PlainNet(nn.Module):
    """Two convolutions, each with BatchNorm, and a linear layer."""

    num_classes: int
    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        """Logits float32 [B, classes] of normalised images [B, S, S, C]."""
        x = images
        for _ in range(2):
            x = nn.Conv(self.width, (3, 3), use_bias=False, dtype=self.dtype)(x)
            # Flax's momentum of 0.99 is too slow for short trainings.
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
        return nn.Dense(self.num_classes)(x.mean((1, 2)).astype(jnp.float32))
