"""Augmented views of images, which teachers label and students learn from.

A view is a function of the epoch's key and the image's index alone: the index gives its crop,
colours and flip, the plan of the epoch its partner, their mix, and the operation of DSA that its
group goes through. So it can be drawn again anywhere, in batches of any size.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from delt_jax.augment import crop, dsa, frepo, mix, rand_augment, shuffle
from delt_jax.augment.dsa import Strategy
from delt_jax.augment.frepo import StudentStrategy
from delt_jax.core import keys
from delt_jax.core.normalisation import AlreadyMapped, Normalisation


@dataclass(frozen=True)
class ViewSpec:
    """Distribution that views are drawn from.

    Attributes:
      rand_augment: timm's string (see `rand_augment`), or empty for none.
      shuffle: strips per side that change places (RDED's factor); 1 for none.
      min_scale: smallest area of the random resized crop.
      flip: mirror at random.
      mix: "cutmix", "mixup" or "none".
      mix_alpha: parameter of the mix's Beta distribution.
      dsa: strategy of `dsa`, or of `frepo`, after all but the mix, or empty for none; its flips
        replace the others.
      mix_probability: of a group's being mixed.
    """

    rand_augment: str
    shuffle: int
    min_scale: float
    flip: bool
    mix: str
    mix_alpha: float
    dsa: str = ""
    mix_probability: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that manifests and identities have.

        What came later is there only where it is used, so that older identities stay.
        """
        later: dict[str, Any] = {"dsa": self.dsa} if self.dsa else {}
        if self.mix_probability < 1:
            later["mix_probability"] = self.mix_probability
        return {
            "rand_augment": self.rand_augment,
            "shuffle": self.shuffle,
            "min_scale": self.min_scale,
            "flip": self.flip,
            "mix": self.mix,
            "mix_alpha": self.mix_alpha,
        } | later

    def versions(self) -> dict[str, int]:
        """Versions of the augmentations that these views use."""
        used = {"augment.crop": crop.VERSION}
        if self.rand_augment:
            used["augment.rand_augment"] = rand_augment.VERSION
        if self.shuffle > 1:
            used["augment.shuffle"] = shuffle.VERSION
        if self.dsa:
            is_frepo = isinstance(parse_strategy(self.dsa), StudentStrategy)
            used |= {"augment.frepo": frepo.VERSION} if is_frepo else {"augment.dsa": dsa.VERSION}
        if self.mix != "none":
            used[f"augment.{self.mix}"] = mix.VERSION
        return used


def parse_strategy(text: str, flip: bool = True) -> Strategy | StudentStrategy:
    """Reads a strategy of `dsa` or, by its mode, of `frepo`; raises a UserError as these do."""
    mode, _, _ = text.partition("-")
    return frepo.parse(text, flip) if mode in frepo.MODES else dsa.parse(text, flip)


@dataclass(frozen=True)
class ViewProgram:
    """Everything static about drawing views.

    Attributes:
      spec: what to draw from.
      normalisation: of the pixels; its mean also fills what moves into view. Float images need
        none, and there can be no RandAugment of them.
      aligned: whether positions that are drawn at once follow each other and hold whole groups of
        the plan, so that all partners are among them; otherwise the views of partners are drawn a
        second time.
    """

    spec: ViewSpec
    normalisation: Normalisation | AlreadyMapped
    aligned: bool


class EpochPlan(NamedTuple):
    """Order, partners and groups in an epoch of N positions.

    Attributes:
      order: int32 [N], the image at each position.
      partner: int32 [N], the position of each position's partner, within its group.
      group: int32 [N]; the images of a group share the box or weight of their mix.
    """

    order: chex.Array
    partner: chex.Array
    group: chex.Array


class Mixed(NamedTuple):
    """A batch of views.

    Attributes:
      images: normalised float32 [B, S, S, C].
      share: float32 [B], part of each view that is its own image; the rest is its partner.
    """

    images: chex.Array
    share: chex.Array

    def labels(self, own: chex.Array, partners: chex.Array) -> chex.Array:
        """Mixes labels [B, classes] of images and partners in the same shares as their pixels."""
        return self.share[:, None] * own + (1.0 - self.share[:, None]) * partners


def plan_epoch(epoch_key: chex.PRNGKey, count: int, group_size: int) -> EpochPlan:
    """Draws the order of `count` images and their partners.

    Positions are cut into groups, the last of which may be smaller; partners are a random
    permutation within each. A batch that is a group is mixed as the SRe2L family does it.
    """
    group = jnp.arange(count) // group_size
    noise = jax.random.uniform(keys.derive(epoch_key, "partner"), (count,))
    return EpochPlan(
        jax.random.permutation(keys.derive(epoch_key, "order"), count),
        jnp.lexsort((noise, group)).astype(jnp.int32),
        group,
    )


def student_views(
    epoch_key: chex.PRNGKey,
    pixels: chex.Array,
    plan: EpochPlan,
    positions: chex.Array,
    program: ViewProgram,
) -> Mixed:
    """Draws the views of some positions of an epoch.

    Every image gets its own RandAugment, shuffled strips, random resized crop and flip, and DSA, in
    this order; then it is mixed with its partner.

    Args:
      epoch_key: key of (seed, epoch) that `plan_epoch` had.
      pixels: uint8 [N, S, S, C], the whole set; or float32 in the networks' space.
      plan: of this epoch.
      positions: int32 [B], each below N.
      program: how to draw, static.
    """
    spec, batch = program.spec, len(positions)
    order, partner = plan.order[positions], plan.partner[positions]
    groups = plan.group[positions]
    again = spec.mix != "none" and not program.aligned
    indices = jnp.concatenate([order, plan.order[partner]]) if again else order
    images = _own_views(epoch_key, pixels, indices, program)
    if spec.dsa:  # partners are in the same group
        of_images = jnp.concatenate([groups, groups]) if again else groups
        images = _dsa_views(epoch_key, images, indices, of_images, spec)
    if spec.mix == "none":
        return Mixed(images, jnp.ones(batch))
    images, others = (
        (images[:batch], images[batch:]) if again else (images, images[partner - positions[0]])
    )
    mix_keys = _keys_of(keys.derive(epoch_key, "mix"), groups)
    mixed = Mixed(*mix.random_mix(mix_keys, images, others, spec.mix, spec.mix_alpha))
    return mixed if spec.mix_probability == 1 else _mixed_or_not(mix_keys, mixed, images, spec)


def _keys_of(key: chex.PRNGKey, numbers: chex.Array) -> chex.Array:
    """A key for each of some numbers, int32 [B], of groups or of images."""
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def _mixed_or_not(mix_keys: chex.Array, mixed: Mixed, images: chex.Array, spec: ViewSpec) -> Mixed:
    """The mixed views of the groups that are mixed, and the images of the others."""

    def is_mixed(key):
        return jax.random.bernoulli(keys.derive(key, "whether"), spec.mix_probability)

    wanted = jax.vmap(is_mixed)(mix_keys)
    chosen = jnp.where(wanted[:, None, None, None], mixed.images, images)
    return Mixed(chosen, jnp.where(wanted, mixed.share, 1.0))


def _dsa_views(
    epoch_key: chex.PRNGKey,
    images: chex.Array,
    indices: chex.Array,
    groups: chex.Array,
    spec: ViewSpec,
) -> chex.Array:
    """DSA of normalised images: each has its own parameters, a group goes through one operation.

    This is how the released code trains networks; it shares parameters only where it learns images.
    FRePo's augmentation takes the place of DSA where the strategy is of its modes.
    """
    strategy, size = parse_strategy(spec.dsa, spec.flip), images.shape[1]
    group_keys = _keys_of(keys.derive(epoch_key, "dsa", "groups"), groups)
    image_keys = _keys_of(keys.derive(epoch_key, "dsa", "images"), indices)
    if isinstance(strategy, StudentStrategy):
        of = image_keys if strategy.is_of_each else group_keys
        operation = jax.vmap(lambda key: frepo.choose(key, strategy))(of)
        draws = jax.vmap(lambda key: frepo.draw(key, size))(image_keys)
        return frepo.augment(images, operation, draws, strategy)
    choice = jax.vmap(lambda key: dsa.choose(key, strategy))(group_keys)
    parameters = jax.vmap(lambda key: dsa.draw(key, size))(image_keys)
    return dsa.augment(images, choice, parameters, strategy)


def _own_views(
    epoch_key: chex.PRNGKey,
    pixels: chex.Array,
    indices: chex.Array,
    program: ViewProgram,
) -> chex.Array:
    """Views of the images at `indices` [B] before mixing, normalised float32 [B, S, S, C]."""
    spec, normalisation, size = program.spec, program.normalisation, pixels.shape[1]
    image_keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(epoch_key, i), 3))(indices)
    augment_keys, shuffle_keys, crop_keys = (image_keys[:, i] for i in range(3))
    seen = pixels[indices]
    if spec.rand_augment:
        assert isinstance(normalisation, Normalisation)
        policy = rand_augment.parse(spec.rand_augment)
        operations = jax.vmap(lambda key: rand_augment.draw(key, policy))(augment_keys)
        fill = tuple(round(255 * mean) for mean in normalisation.mean)
        seen = rand_augment.augment(seen, operations, fill)
    if spec.shuffle > 1:
        draw = functools.partial(shuffle.random_order, size=size, factor=spec.shuffle)
        seen = shuffle.shuffle(seen, *jax.vmap(draw)(shuffle_keys))
    views = jax.vmap(lambda key: _random_crop(key, size, spec))(crop_keys)
    return normalisation(crop.view_images(seen.astype(jnp.float32), views, size))


def _random_crop(key: chex.PRNGKey, size: int, spec: ViewSpec) -> crop.View:
    box_key, flip_key = jax.random.split(key)
    box = crop.random_box(box_key, (size, size), spec.min_scale)
    # Among DSA's operations there may be a flip, which is then the only one.
    flip = jax.random.bernoulli(flip_key) if spec.flip and not spec.dsa else jnp.array(False)
    return crop.View(box, flip, jnp.zeros(2, jnp.int32))
