"""The augmented views on which teachers label and students learn.

A view is a function of (key of the epoch, index of the image), so it can be drawn again
anywhere, in any batch; only the mix depends on which images share the batch.
"""

from typing import NamedTuple

import chex
import jax

from delt_jax.augment import crop, mix
from delt_jax.recipe import ViewRecipe


class Mixed(NamedTuple):
    """A batch of views: images [B, S, S, C], partners int32 [B], own share float32 scalar."""

    images: chex.Array
    partners: chex.Array
    share: chex.Array

    def labels(self, labels: chex.Array) -> chex.Array:
        """Mixes label rows [B, C] as the images were mixed."""
        return self.share * labels + (1.0 - self.share) * labels[self.partners]


def student_views(
    epoch_key: chex.PRNGKey,
    step: chex.Array,
    images: chex.Array,
    indices: chex.Array,
    recipe: ViewRecipe,
) -> Mixed:
    """Random resized crop and flip per image, then one CutMix or Mixup for the batch.

    Args:
      epoch_key: key of (seed, epoch).
      step: number of the batch within the epoch.
      images: normalised float [B, S, S, C].
      indices: int [B], index of each image within the distilled set.
      recipe: scale, flip and mix settings.
    """
    size = images.shape[1]
    crop_key, mix_key = jax.random.split(epoch_key)
    keys = jax.vmap(lambda i: jax.random.fold_in(crop_key, i))(indices)
    views = jax.vmap(lambda k: crop.random_view(k, size, recipe.min_scale, recipe.flip))(keys)
    viewed = crop.view_images(images, views, size)
    return Mixed(
        *mix.random_mix(jax.random.fold_in(mix_key, step), viewed, recipe.mix, recipe.mix_alpha)
    )
