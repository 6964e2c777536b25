"""VGG-11, with or without BatchNorm (arXiv 1409.1556), as torchvision's."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.layers import adaptive_average_pool, conv, flatten_as_torch
from delt_jax.models.norm import BatchNorm
from delt_jax.models.pool import max_pool

# Channels in units of the first stage's; 0 is a 2x2 max-pool.
_VGG11 = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0)
_linear_init = nn.initializers.normal(0.01)


class VGG11(nn.Module):
    """Eight 3x3 convolutions, five max-pools, 7x7 average, three linear layers with dropout.

    Attributes:
      width: channels of the first convolution; 64 is the paper's. All else scales with it.
      num_classes: outputs.
      batch_norm: a BatchNorm after every convolution.
      dtype: of activations; parameters and statistics are float32.
    """

    width: int
    num_classes: int
    batch_norm: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        position = 0  # of the layer within torch's `features`
        for multiple in _VGG11:
            if not multiple:
                x = max_pool(x, 2, 2)
                position += 1
                continue
            layer = conv(
                self.width * multiple,
                3,
                use_bias=True,
                dtype=self.dtype,
                name=f"features_{position}",
            )
            x = layer(x)
            if self.batch_norm:
                x = BatchNorm(self.dtype, name=f"features_{position + 1}")(x, train)
            x = nn.relu(x)
            position += 3 if self.batch_norm else 2
        x = flatten_as_torch(adaptive_average_pool(x, 7))
        for position in (0, 3):
            x = nn.Dense(
                64 * self.width,
                dtype=self.dtype,
                kernel_init=_linear_init,
                name=f"classifier_{position}",
            )(x)
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        x = x.astype(jnp.float32)
        self.sow("features", "pooled", x)
        return nn.Dense(self.num_classes, kernel_init=_linear_init, name="classifier_6")(x)
