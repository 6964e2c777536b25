"""BatchNorm as torch defines it, and the moments of its input."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.core.losses import Moments

# Mapped axis of the devices that share a batch; set while a training step is traced.
_devices: ContextVar[str | None] = ContextVar("devices", default=None)


@contextlib.contextmanager
def shared_over(axis: str | None) -> Iterator[None]:
    """A context in which BatchNorm averages its moments over the devices of a mapped axis."""
    token = _devices.set(axis)
    try:
        yield
    finally:
        _devices.reset(token)


def _batch_moments(x: chex.Array) -> tuple[Moments, int]:
    """Moments of x [..., C] over all but the last axis, and the number of values behind each."""
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, variance = x32.mean(axes), x32.var(axes)
    axis = _devices.get()
    if axis is None:
        return Moments(mean, variance), count
    centre = jax.lax.pmean(mean, axis)
    variance = jax.lax.pmean(variance + (mean - centre) ** 2, axis)
    return Moments(centre, variance), count * jax.lax.axis_size(axis)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis; statistics always float32.

    Differs from `flax.linen.BatchNorm` where torch does: the running variance takes the
    unbiased batch variance, and momentum counts the new batch.

    Attributes:
      dtype: of the result.
      epsilon: added to the variance.
      momentum: weight of the new batch in the running statistics.
    """

    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Normalises x [..., C] by its own (train) or the running statistics."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if train:
            (mean, var), count = _batch_moments(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                # `+=` would write into the caller's arrays if these are numpy's.
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    running.value = running.value + self.momentum * (new - running.value)
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * (1.0 / jnp.sqrt(var + self.epsilon))
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


def input_moments(x: chex.Array, centre: chex.Array, weights: chex.Array | None = None) -> Moments:
    """Moments of x [B, ..., C] in one pass.

    Args:
      x: input of a layer.
      centre: [C], should be near the mean: E[x^2] - E[x]^2 loses digits in float32 otherwise.
      weights: of the images in the moments, float32 [B], which sum to 1; None for equal ones.
    """
    shifted = x.astype(jnp.promote_types(x.dtype, jnp.float32)) - centre
    if weights is None:
        axes = tuple(range(x.ndim - 1))
        mean, square = shifted.mean(axes), (shifted**2).mean(axes)
    else:
        chex.assert_equal(len(x), len(weights))
        axes = tuple(range(1, x.ndim - 1))
        mean, square = (
            (weights[:, None] * own).sum(0) for own in (shifted.mean(axes), (shifted**2).mean(axes))
        )
    return Moments(mean + centre, jnp.maximum(square - mean**2, 0.0))
