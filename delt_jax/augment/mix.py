"""CutMix and Mixup: two images in one, and the weight of the first in the label."""

import chex
import jax
import jax.numpy as jnp


def cutmix(
    images: chex.Array, permutation: chex.Array, rows: chex.Array, columns: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Pastes a box of ``images[permutation]`` over images (CutMix, arXiv 1905.04899).

    Args:
      images: float [B, H, W, C].
      permutation: int [B], the partner of each image.
      rows: int [2], first row of the box and the row after its last.
      columns: int [2], the same for columns.

    Returns:
      The mixed images, and the share of each image's own pixels, float32 scalar.
    """
    _, height, width, _ = images.shape
    in_rows = (jnp.arange(height) >= rows[0]) & (jnp.arange(height) < rows[1])
    in_columns = (jnp.arange(width) >= columns[0]) & (jnp.arange(width) < columns[1])
    inside = in_rows[:, None] & in_columns[None, :]
    mixed = jnp.where(inside[None, :, :, None], images[permutation], images)
    return mixed, 1.0 - inside.mean(dtype=jnp.float32)


def mixup(
    images: chex.Array, permutation: chex.Array, weight: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Blends images with ``images[permutation]`` (mixup, arXiv 1710.09412).

    Returns:
      weight * images + (1 - weight) * images[permutation], and the weight.
    """
    return weight * images + (1.0 - weight) * images[permutation], jnp.asarray(weight)


def random_box(key: chex.PRNGKey, size: int, alpha: float) -> tuple[chex.Array, chex.Array]:
    """CutMix's box: sides sqrt(1 - λ) of the image, λ ~ Beta(α, α), centred anywhere, clipped.

    Returns:
      int32 rows [2] and columns [2], as `cutmix` takes them.
    """
    weight_key, centre_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha)
    half = (size * jnp.sqrt(1.0 - weight)).astype(jnp.int32) // 2
    centre = jax.random.randint(centre_key, (2,), 0, size)
    low = jnp.clip(centre - half, 0, size)
    high = jnp.clip(centre + half, 0, size)
    return jnp.stack([low[0], high[0]]), jnp.stack([low[1], high[1]])


def random_mix(
    key: chex.PRNGKey, images: chex.Array, kind: str, alpha: float
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Mixes a batch by one draw, as the SRe2L family does: one box or weight per batch.

    Args:
      key: PRNG key.
      images: float [B, S, S, C].
      kind: "cutmix", "mixup" or "none".
      alpha: parameter of the Beta distribution.

    Returns:
      Mixed images, the permutation int32 [B], and each image's own share, float32 scalar.
    """
    batch, size = images.shape[:2]
    permutation_key, mix_key = jax.random.split(key)
    permutation = jax.random.permutation(permutation_key, batch)
    if kind == "none":
        return images, permutation, jnp.float32(1.0)
    if kind == "mixup":
        mixed, share = mixup(images, permutation, jax.random.beta(mix_key, alpha, alpha))
    else:
        mixed, share = cutmix(images, permutation, *random_box(mix_key, size, alpha))
    return mixed, permutation, share
