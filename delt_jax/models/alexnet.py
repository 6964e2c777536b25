"""AlexNet, the one-tower version (arXiv 1404.5997), as torchvision's."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.convolution import convolve
from delt_jax.models.layers import (
    adaptive_average_pool,
    flatten_as_torch,
    torch_bias,
    torch_kernel,
    torch_linear,
)
from delt_jax.models.pool import max_pool

# Position in torch's `features`, channels in units of the first layer's, size, stride, padding.
_CONVOLUTIONS = (
    (0, 1, 11, 4, 2),
    (3, 3, 5, 1, 2),
    (6, 6, 3, 1, 1),
    (8, 4, 3, 1, 1),
    (10, 4, 3, 1, 1),
)
_POOLED = (0, 3, 10)


class AlexNet(nn.Module):
    """Five convolutions, 6x6 average, three linear layers with dropout.

    Attributes:
      width: channels of the first convolution; 64 is the paper's. All else scales with it.
      num_classes: outputs.
      dtype: of activations; parameters are float32.
    """

    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        for position, multiple, size, stride, padding in _CONVOLUTIONS:
            layer = nn.Conv(
                self.width * multiple,
                (size, size),
                stride,
                padding=padding,
                conv_general_dilated=convolve,
                dtype=self.dtype,
                kernel_init=torch_kernel,
                bias_init=torch_bias(size * size * x.shape[-1]),
                name=f"features_{position}",
            )
            x = nn.relu(layer(x))
            if position in _POOLED:
                x = max_pool(x, 3, 2)
        x = flatten_as_torch(adaptive_average_pool(x, 6))
        for position in (1, 4):
            x = nn.Dropout(0.5, deterministic=not train)(x)
            name = f"classifier_{position}"
            x = nn.relu(torch_linear(64 * self.width, x.shape[-1], name, self.dtype)(x))
        x = x.astype(jnp.float32)
        self.sow("features", "pooled", x)
        return torch_linear(self.num_classes, x.shape[-1], "classifier_6")(x)
