"""Pieces that several architectures share, as torch defines them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.nn.initializers import Initializer

# torch's own start of a convolution or linear layer: uniform in +-1 / sqrt(fan_in).
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# "Kaiming": keeps the variance of gradients through ReLUs.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_bias(fan_in: int) -> Initializer:
    """torch's own start of a bias: uniform in +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def torch_linear(features: int, fan_in: int, name: str, dtype=jnp.float32) -> nn.Dense:
    """A linear layer that starts as torch's does."""
    return nn.Dense(
        features, dtype=dtype, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), name=name
    )


def conv(
    features: int,
    size: int,
    stride: int = 1,
    *,
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: Initializer = kaiming_fan_out,
    dtype: jnp.dtype,
    name: str,
) -> nn.Conv:
    """A square convolution padded by size // 2 on every side, whatever the stride."""
    return nn.Conv(
        features,
        (size, size),
        stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


def stochastic_depth(x: chex.Array, rate: float, train: bool) -> chex.Array:
    """Drops the whole branch x [B, ...] of an image with probability `rate`, in train mode."""
    others = tuple(range(1, x.ndim))
    return nn.Dropout(rate, broadcast_dims=others, deterministic=not train)(x)


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
    """Flattens x [B, H, W, C] channel by channel, so that torch's next weights fit."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor` that is not more than a tenth below `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
