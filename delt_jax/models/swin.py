"""Swin transformer V2 (arXiv 2111.09883), as torchvision's Swin-V2-T."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax.models.convolution import convolve
from delt_jax.models.layers import stochastic_depth, torch_bias, torch_kernel

WINDOW = 8
HEAD_WIDTH = 32
_PATCH = 4
_BLOCKS = (2, 2, 6, 2)
_STOCHASTIC_DEPTH = 0.2  # of the last block, growing linearly from zero
_init = nn.initializers.normal(0.02)
_MASKED = -100.0


def relative_coordinates() -> np.ndarray:
    """Log-spaced offsets between two tokens of a window, float32 [1, 2W - 1, 2W - 1, 2]."""
    offsets = np.arange(1 - WINDOW, WINDOW, dtype=np.float32) / np.float32(WINDOW - 1) * 8
    offsets = np.sign(offsets) * np.log2(np.abs(offsets) + 1) / np.float32(3)
    return np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1)[None]


def relative_index() -> np.ndarray:
    """For every pair of tokens the row of its offset in the table, int64 [W^4]."""
    rows, columns = (c.reshape(-1) for c in np.mgrid[:WINDOW, :WINDOW])
    rows, columns = (c[:, None] - c[None, :] + WINDOW - 1 for c in (rows, columns))
    return (rows * (2 * WINDOW - 1) + columns).reshape(-1).astype(np.int64)


@functools.cache
def _shift_mask(size: tuple[int, int], shift: tuple[int, int]) -> np.ndarray:
    """Additive mask float32 [windows, 1, W^2, W^2]: rolled-in tokens do not see the others."""

    def regions(length: int, s: int) -> np.ndarray:
        return np.repeat([0, 1, 2], [length - WINDOW, WINDOW - s, s])

    region = 3 * regions(size[0], shift[0])[:, None] + regions(size[1], shift[1])[None, :]
    tokens = _windows(region[None, :, :, None])[..., 0]
    differ = tokens[:, :, None] != tokens[:, None, :]
    return np.where(differ, np.float32(_MASKED), np.float32(0))[:, None]


def _windows(x):
    """Cuts [B, H, W, C] into windows [B * windows, WINDOW^2, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, channels)


def _unite(x: chex.Array, height: int, width: int) -> chex.Array:
    """Undoes `_windows`."""
    channels = x.shape[-1]
    x = x.reshape(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def _unit(x: chex.Array) -> chex.Array:
    """x [..., D] in float32 divided by its norm; zero stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


class WindowAttention(nn.Module):
    """Scaled cosine attention within windows, every other time shifted by half a window."""

    heads: int
    shifted: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Keeps the shape [B, H, W, C]."""
        _, height, width, channels = x.shape
        bottom, right = -height % WINDOW, -width % WINDOW
        x = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
        padded = (height + bottom, width + right)
        # A map of one window has nothing to shift into.
        shift = tuple(WINDOW // 2 if self.shifted and s > WINDOW else 0 for s in padded)
        if any(shift):
            x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
        x = self._attend(_windows(x), _shift_mask(padded, shift) if any(shift) else None)
        x = nn.Dense(channels, dtype=self.dtype, kernel_init=_init, name="proj")(x)
        x = _unite(x, *padded)
        if any(shift):
            x = jnp.roll(x, shift, axis=(1, 2))
        return x[:, :height, :width]

    def _attend(self, x: chex.Array, mask: np.ndarray | None) -> chex.Array:
        """Mixes the tokens of windows [N, W^2, C]; mask [windows, 1, W^2, W^2]."""
        number, tokens, channels = x.shape
        q, k, v = jnp.split(self._qkv(x), 3, axis=-1)
        q, k, v = (a.reshape(number, tokens, self.heads, -1) for a in (q, k, v))
        limit = math.log(100.0)
        log_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(10.0)), (self.heads, 1, 1)
        )
        scores = jnp.einsum("nqhd,nkhd->nhqk", _unit(q), _unit(k))
        scores = scores * jnp.exp(jnp.minimum(log_scale, limit)) + self._position_bias()
        if mask is not None:
            scores = scores.reshape(-1, len(mask), *scores.shape[1:]) + mask
            scores = scores.reshape(number, *scores.shape[2:])
        weights = jax.nn.softmax(scores).astype(self.dtype)
        return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(number, tokens, channels)

    def _qkv(self, x: chex.Array) -> chex.Array:
        """Queries, keys and values [N, W^2, 3C]; the keys take no bias."""
        channels = x.shape[-1]
        layer = _BiasMasked(3 * channels, (channels, 2 * channels), self.dtype, name="qkv")
        return layer(x)

    def _position_bias(self) -> chex.Array:
        """Bias float32 [heads, W^2, W^2], a small network's function of the offset."""
        table = jnp.asarray(relative_coordinates().reshape(-1, 2))
        hidden = nn.relu(nn.Dense(512, kernel_init=_init, name="cpb_mlp_0")(table))
        table = nn.Dense(self.heads, use_bias=False, kernel_init=_init, name="cpb_mlp_2")(hidden)
        tokens = WINDOW * WINDOW
        bias = table[relative_index()].reshape(tokens, tokens, self.heads)
        return 16 * nn.sigmoid(bias).transpose(2, 0, 1)


class _BiasMasked(nn.Module):
    """A linear layer whose bias is held, but not used, between two outputs."""

    features: int
    unused: tuple[int, int]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps [..., C] to [..., features]."""
        kernel = self.param("kernel", _init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        used = np.ones(self.features, np.float32)
        used[slice(*self.unused)] = 0
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + (bias * used).astype(self.dtype)


class SwinBlock(nn.Module):
    """Window attention and MLP, each normalised before it joins its shortcut (V2)."""

    heads: int
    shifted: bool
    drop: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Keeps the shape [B, H, W, C]."""
        channels = x.shape[-1]

        def linear(features, name):
            return nn.Dense(features, dtype=self.dtype, kernel_init=_init, name=name)

        y = WindowAttention(self.heads, self.shifted, self.dtype, name="attn")(x)
        y = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm1")(y)
        x = x + stochastic_depth(y, self.drop, train)
        y = linear(channels, "mlp_3")(nn.gelu(linear(4 * channels, "mlp_0")(x), approximate=False))
        y = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm2")(y)
        return x + stochastic_depth(y, self.drop, train)


class PatchMerging(nn.Module):
    """Joins 2x2 tokens into one of twice the channels."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Maps [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), 2C]."""
        _, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        x = nn.Dense(
            2 * channels, use_bias=False, dtype=self.dtype, kernel_init=_init, name="reduction"
        )(x)
        return nn.LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)


class SwinV2(nn.Module):
    """Patches, four stages of window attention, average, linear head.

    Attributes:
      width: channels of the first stage, a multiple of 32; 96 is Swin-T's.
      num_classes: outputs.
      dtype: of activations; parameters are float32.
    """

    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C]."""
        x = nn.Conv(
            self.width,
            (_PATCH, _PATCH),
            _PATCH,
            padding=0,
            conv_general_dilated=convolve,
            dtype=self.dtype,
            kernel_init=torch_kernel,
            bias_init=torch_bias(_PATCH * _PATCH * x.shape[-1]),
            name="features_0_0",
        )(x)
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="features_0_2")(x)
        number = 0
        for stage, blocks in enumerate(_BLOCKS):
            if stage:
                x = PatchMerging(self.dtype, name=f"features_{2 * stage}")(x)
            for block in range(blocks):
                x = SwinBlock(
                    x.shape[-1] // HEAD_WIDTH,
                    block % 2 == 1,
                    _STOCHASTIC_DEPTH * number / (sum(_BLOCKS) - 1),
                    self.dtype,
                    name=f"features_{2 * stage + 1}_{block}",
                )(x, train)
                number += 1
        x = nn.LayerNorm(1e-5, dtype=self.dtype, name="norm")(x)
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        self.sow("features", "pooled", x)
        return nn.Dense(self.num_classes, kernel_init=_init, name="head")(x)
