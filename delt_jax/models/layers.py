"""Layers and initialisers that several architectures share, as torch defines them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer

from delt_jax.models.convolution import convolve

# torch's default for kernels of convolutions and linear layers: uniform in +-1 / sqrt(fan_in).
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# "Kaiming" or "He": keeps the variance of gradients through ReLUs.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_bias(fan_in: int) -> Initializer:
    """torch's default for biases: uniform in +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_linear(features: int, fan_in: int, name: str, dtype=jnp.float32) -> nn.Dense:
    """A linear layer with torch's default initialisation."""
    return nn.Dense(
        features, dtype=dtype, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), name=name
    )


def conv(features: int, size: int, stride: int = 1, **options: Any) -> nn.Conv:
    """A square convolution padded by size // 2 on every side, whatever the stride.

    "SAME", TensorFlow's padding, may pad the end more when the stride is above 1; torch does not.

    Args:
      features: channels of the result.
      size: side of the kernel.
      stride: in both directions.
      **options: of `nn.Conv`, `padding` too; without them there is no bias and the kernel starts
        as `kaiming_fan_out`.
    """
    options.setdefault("use_bias", False)
    options.setdefault("kernel_init", kaiming_fan_out)
    options.setdefault("padding", size // 2)
    return nn.Conv(
        features,
        (size, size),
        stride,
        conv_general_dilated=convolve,
        **options,
    )


def stochastic_depth(x: chex.Array, rate: float, train: bool) -> chex.Array:
    """Zeroes the whole branch x [B, ...] of an image with probability `rate`, if `train`."""
    within_image = tuple(range(1, x.ndim))
    return nn.Dropout(rate, broadcast_dims=within_image, deterministic=not train)(x)


def adaptive_average_pool(x: chex.Array, size: int) -> chex.Array:
    """Averages x [B, H, W, C] down, or repeats it up, to [B, size, size, C].

    Bin i covers the rows floor(i H / size) to ceil((i + 1) H / size), as in torch: bins
    overlap where H is no multiple of size.
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (jnp.asarray(_bins(n, size)) for n in x.shape[1:3])
    pooled = jnp.einsum(
        "ih,jw,bhwc->bijc",
        rows,
        columns,
        x.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def _bins(length: int, size: int) -> np.ndarray:
    """Averaging matrix float32 [size, length]."""
    matrix = np.zeros((size, length), np.float32)
    for i in range(size):
        start, end = i * length // size, -(-(i + 1) * length // size)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def flatten_as_torch(x: chex.Array) -> chex.Array:
    """Flattens x [B, H, W, C] channel by channel, as torch does, so that its weights fit."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, but at most a tenth below `value` (as in MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
