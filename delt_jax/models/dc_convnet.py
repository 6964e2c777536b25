"""The ConvNet of DC, DSA, DM, IDC and MTT (arXiv 2006.05929): instance norm, torch's own start."""

import chex
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.convolution import convolve
from delt_jax.models.layers import flatten_as_torch, torch_bias, torch_kernel, torch_linear


class InstanceNorm(nn.Module):
    """Normalises every channel of every image by its own moments, then scales and shifts it.

    The released code writes it as torch's GroupNorm with a channel in each group. Moments are
    float32 and those of the image alike in training and evaluation; nothing is averaged.

    Attributes:
      dtype: of the result.
      epsilon: added to the biased variance.
    """

    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Normalises x [B, H, W, C] over H and W."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = x32 - x32.mean((1, 2), keepdims=True)
        variance = (centred**2).mean((1, 2), keepdims=True)
        return (centred * (scale / jnp.sqrt(variance + self.epsilon)) + bias).astype(self.dtype)


class DCConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, instance norm, ReLU and 2x2 average pooling.

    Grey images are padded by 3 pixels before the first convolution, so that 28 px become 32.
    Modules are named by their place in torch's `features`.
    """

    depth: int
    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]; the same in train mode."""
        del train
        for i in range(self.depth):
            layer = nn.Conv(
                self.width,
                (3, 3),
                padding=3 if i == 0 and x.shape[-1] == 1 else 1,
                dtype=self.dtype,
                conv_general_dilated=convolve,
                kernel_init=torch_kernel,
                bias_init=torch_bias(9 * x.shape[-1]),
                name=f"features_{4 * i}",
            )
            x = InstanceNorm(self.dtype, name=f"features_{4 * i + 1}")(layer(x))
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
        x = flatten_as_torch(x).astype(jnp.float32)
        self.sow("features", "pooled", x)
        return torch_linear(self.num_classes, x.shape[-1], "classifier")(x)
