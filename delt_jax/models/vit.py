"""Vision transformer (arXiv 2010.11929), as torchvision's ViT-B/16."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.models.convolution import convolve
from delt_jax.models.layers import torch_kernel

PATCH = 16
HEAD_WIDTH = 64
_xavier = nn.initializers.xavier_uniform()
_tiny = nn.initializers.normal(1e-6)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection to queries, keys and values."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Keeps the shape [B, tokens, D]."""
        batch, tokens, width = x.shape
        x = nn.Dense(3 * width, dtype=self.dtype, kernel_init=_xavier, name="in_proj")(x)
        x = x.reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (x[:, :, i] for i in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, tokens, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=torch_kernel, name="out_proj")(x)


class EncoderLayer(nn.Module):
    """Attention and MLP, each on a normalised input beside a shortcut."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Keeps the shape [B, tokens, D]."""
        width = x.shape[-1]
        y = nn.LayerNorm(1e-6, dtype=self.dtype, name="ln_1")(x)
        x = x + SelfAttention(self.heads, self.dtype, name="self_attention")(y)
        y = nn.LayerNorm(1e-6, dtype=self.dtype, name="ln_2")(x)
        y = nn.Dense(4 * width, name="mlp_0", **self._mlp())(y)
        y = nn.gelu(y, approximate=False)
        return x + nn.Dense(width, name="mlp_3", **self._mlp())(y)

    def _mlp(self):
        return {"dtype": self.dtype, "kernel_init": _xavier, "bias_init": _tiny}


class VisionTransformer(nn.Module):
    """Patches and a class token through pre-norm encoder layers; no dropout, as ViT-B/16's.

    Attributes:
      layers: number of encoder layers.
      width: channels of a token, a multiple of 64; 768 is ViT-B's.
      num_classes: outputs.
      dtype: of activations; parameters are float32.
    """

    layers: int
    width: int
    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: chex.Array, train: bool) -> chex.Array:
        """Logits float32 [B, num_classes] of images [B, S, S, C], S a multiple of 16."""
        del train  # nothing here differs
        x = nn.Conv(
            self.width,
            (PATCH, PATCH),
            PATCH,
            padding=0,
            conv_general_dilated=convolve,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
            name="conv_proj",
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param(
            "pos_embedding", nn.initializers.normal(0.02), (1, x.shape[1], self.width)
        )
        x = x + positions.astype(x.dtype)
        for i in range(self.layers):
            x = EncoderLayer(self.width // HEAD_WIDTH, self.dtype, name=f"encoder_layer_{i}")(x)
        x = nn.LayerNorm(1e-6, dtype=self.dtype, name="ln")(x)
        x = x[:, 0].astype(jnp.float32)
        self.sow("features", "pooled", x)
        # torchvision starts the head at zero.
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)
