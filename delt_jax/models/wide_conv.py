"""The wide ConvNet of FRePo and RCIG (arXiv 2206.00719): channels double from block to block."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.convolution import convolve
from delt_jax.models.layers import flatten_as_torch

_SHARPNESS = 60.0  # of RCIG's softplus


def sharp_softplus(x: chex.Array) -> chex.Array:
    """softplus(60 x) / 60, a ReLU without a kink (RCIG)."""
    return nn.softplus(_SHARPNESS * x) / _SHARPNESS


ACTIVATIONS: dict[str, Callable[[chex.Array], chex.Array]] = {
    "relu": jax.nn.relu,
    "softplus": sharp_softplus,
}


class WideConv(nn.Module):
    """`depth` blocks of 3x3 convolution, activation and 2x2 average pooling.

    Grey images are padded by 3 pixels before the first convolution, so that 28 px become 32.
    Weights start as Flax has them (LeCun's normal, biases at zero).

    Attributes:
      depth: blocks; block i has width * 2^i channels.
      width: channels of the first block.
      num_classes: outputs.
      dtype: of activations.
      batch_norm: whether every convolution but the first comes after a BatchNorm, whose running
        statistics are Flax's at momentum 0.1: they keep a tenth of what they were (FRePo, while
        it learns images).
      activation: a name of `ACTIVATIONS`.
    """

    depth: int
    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32
    batch_norm: bool = False
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        activate = ACTIVATIONS[self.activation]
        for i in range(self.depth):
            if self.batch_norm and i:
                x = nn.BatchNorm(not train, momentum=0.1, dtype=self.dtype, name=f"norm_{i}")(x)
            x = nn.Conv(
                self.width * 2**i,
                (3, 3),
                padding=3 if i == 0 and x.shape[-1] == 1 else 1,
                dtype=self.dtype,
                conv_general_dilated=convolve,
                name=f"conv_{i}",
            )(x)
            x = nn.avg_pool(activate(x), (2, 2), (2, 2))
        x = flatten_as_torch(x).astype(jnp.float32)
        self.sow("features", "pooled", x)
        return nn.Dense(self.num_classes, name="classifier")(x)
