"""CutMix and Mixup: two images in one, and the share of the first in the label."""

import chex
import jax
import jax.numpy as jnp

VERSION = 1  # part of identities; raise it when results change


def cutmix(
    images: chex.Array, others: chex.Array, rows: chex.Array, columns: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Pastes a box of other images over images (CutMix, arXiv 1905.04899).

    Args:
      images: float [B, H, W, C].
      others: float [B, H, W, C], the partner of each image.
      rows: int [2] or [B, 2], first row of the box and the row after its last.
      columns: int [2] or [B, 2], the same for columns.

    Returns:
      The mixed images, and the share of pixels that stay the image's own, float32 [] or [B].
    """
    _, height, width, _ = images.shape
    inside = _between(rows, height)[..., :, None] & _between(columns, width)[..., None, :]
    mixed = jnp.where(inside[..., None], others, images)
    return mixed, 1.0 - inside.mean((-2, -1), dtype=jnp.float32)


def _between(ends: chex.Array, size: int) -> chex.Array:
    """bool [..., size], true from ends[..., 0] up to but not at ends[..., 1]."""
    pixel = jnp.arange(size)
    return (pixel >= ends[..., :1]) & (pixel < ends[..., 1:])


def mixup(
    images: chex.Array, others: chex.Array, weight: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Blends images [B, H, W, C] with others (mixup, arXiv 1710.09412).

    Returns:
      weight * images + (1 - weight) * others, and the weight, [] or [B] as given.
    """
    weight = jnp.asarray(weight)
    each = weight[..., None, None, None]
    return each * images + (1.0 - each) * others, weight


def random_weight(key: chex.PRNGKey, alpha: float) -> chex.Array:
    """λ ~ Beta(α, α), float32 scalar; α = 1 is the uniform distribution."""
    if alpha == 1:  # much cheaper than the two gamma draws of jax.random.beta
        return jax.random.uniform(key)
    return jax.random.beta(key, alpha, alpha)


def random_box(key: chex.PRNGKey, size: int, alpha: float) -> tuple[chex.Array, chex.Array]:
    """CutMix's box: sides sqrt(1 - λ) of the image, λ ~ Beta(α, α), centred anywhere, clipped.

    Returns:
      int32 rows [2] and columns [2], as `cutmix` takes them.
    """
    weight_key, centre_key = jax.random.split(key)
    weight = random_weight(weight_key, alpha)
    half = (size * jnp.sqrt(1.0 - weight)).astype(jnp.int32) // 2
    centre = jax.random.randint(centre_key, (2,), 0, size)
    low = jnp.clip(centre - half, 0, size)
    high = jnp.clip(centre + half, 0, size)
    return jnp.stack([low[0], high[0]]), jnp.stack([low[1], high[1]])


def random_mix(
    keys: chex.Array, images: chex.Array, others: chex.Array, kind: str, alpha: float
) -> tuple[chex.Array, chex.Array]:
    """Mixes each image with its partner by one draw.

    Args:
      keys: PRNG keys [B]; images with equal keys have the same box or weight.
      images: float [B, S, S, C].
      others: float [B, S, S, C], the partner of each image.
      kind: "cutmix" or "mixup".
      alpha: parameter of the Beta distribution.

    Returns:
      The mixed images, and each image's own share, float32 [B].
    """
    if kind == "mixup":
        return mixup(images, others, jax.vmap(lambda k: random_weight(k, alpha))(keys))
    boxes = jax.vmap(lambda k: random_box(k, images.shape[1], alpha))(keys)
    return cutmix(images, others, *boxes)
