"""One recovery step as pure functions: view, teacher, loss, Adam, clip.

DELT optimises a batch of images so that the teacher classifies them and their BatchNorm
input moments match its running statistics (arXiv 2411.19946; the loss is
SRe2L's, the crop curriculum CDA's). Only the active images of the batch take part.
"""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from delt_jax import objective
from delt_jax.augment import crop
from delt_jax.models.norm import apply_with_moments
from delt_jax.recipe import RecoverRecipe

_adam = optax.scale_by_adam(b1=0.5, b2=0.9, eps=1e-8)

# The active images: a count where they are the first ones, else their positions.
Active = int | tuple[int, ...]


class RecoverState(struct.PyTreeNode):
    """What recovery changes, for one batch in joining order.

    Attributes:
      step: int32 scalar, iterations done.
      images: normalised float32 [B, S, S, C].
      mu, nu: Adam's moments of the images, same shape.
    """

    step: chex.Array
    images: chex.Array
    mu: chex.Array
    nu: chex.Array


class Job(NamedTuple):
    """What recovery reads, for one batch in joining order.

    Attributes:
      labels: int32 [B].
      joins: int32 [B], iteration at which each image joins.
      iterations: int32 scalar, total of the batch.
      key: typed PRNG key of the batch.
      low, high: float32 [C], the valid pixel range in normalised units.
    """

    labels: chex.Array
    joins: chex.Array
    iterations: chex.Array
    key: chex.PRNGKey
    low: chex.Array
    high: chex.Array


class Losses(NamedTuple):
    """Terms of the objective, float32 scalars: total, cross-entropy, BN matching."""

    loss: chex.Array
    cross_entropy: chex.Array
    bn: chex.Array


def init_state(images: chex.Array) -> RecoverState:
    """The state before the first iteration; images [B, S, S, C]."""
    chex.assert_rank(images, 4)
    return RecoverState(jnp.int32(0), images, jnp.zeros_like(images), jnp.zeros_like(images))


def learning_rate(peak: float, t: chex.Array, total: chex.Array) -> chex.Array:
    """Cosine to zero: peak (1 + cos(pi t / T)) / 2.

    By the reciprocal of T, as the compiler takes it or not depending on the number of devices,
    and the last bits must not.
    """
    return peak * 0.5 * (1.0 + jnp.cos(jnp.pi * t * (1.0 / total)))


def curriculum(recipe: RecoverRecipe, t: chex.Array, total: chex.Array) -> chex.Array:
    """Lower bound of the crop's area at iteration t of T (CDA, arXiv 2311.18838).

    Falls from 1 to `min_scale` over the first `milestone` of the iterations.
    """
    span = 1.0 - recipe.min_scale
    if recipe.milestone == 0:
        return jnp.full(jnp.shape(t), recipe.min_scale, jnp.float32)
    end = recipe.milestone * total
    share = t * (1.0 / end)  # as in learning_rate
    bound = {
        "cosine": recipe.min_scale + span * 0.5 * (1.0 + jnp.cos(jnp.pi * share)),
        "linear": recipe.min_scale + span * (1.0 - share),
        "step": jnp.ones_like(share),
    }[recipe.curriculum]
    return jnp.where(t < end, bound, recipe.min_scale).astype(jnp.float32)


def loss(
    images: chex.Array,
    labels: chex.Array,
    view: crop.View,
    variables: Mapping,
    model: nn.Module,
    recipe: RecoverRecipe,
) -> tuple[chex.Array, tuple[Losses, chex.Array]]:
    """CE + alpha_BN * BN matching of the viewed images.

    Returns:
      The loss; its terms; and the BN terms layer by layer.
    """
    viewed = crop.view_images(images, view, images.shape[1], recipe.antialias)
    logits, batch, running = apply_with_moments(model, variables, viewed)
    wide = jnp.promote_types(logits.dtype, jnp.float32)  # whatever the activations' type
    ce = objective.cross_entropy(logits.astype(wide), labels)
    terms = objective.bn_terms(batch, running)
    bn = objective.bn_matching(terms, recipe.first_bn_multiplier)
    total = ce + recipe.bn_weight * bn
    return total, (Losses(total, ce, bn), terms)


def adam_step(
    images: chex.Array,
    grads: chex.Array,
    mu: chex.Array,
    nu: chex.Array,
    age: chex.Array,
    rate: chex.Array,
    low: chex.Array,
    high: chex.Array,
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Adam(0.5, 0.9), then clip to the valid pixel range.

    Args:
      images, grads, mu, nu: [n, S, S, C].
      age: int32 [n], steps counted so far, for the bias correction.
      rate: float32 [n], learning rate of each image.
      low, high: float32 [C].

    Returns:
      images, mu and nu after the step.
    """
    adam_states = optax.ScaleByAdamState(count=age, mu=mu, nu=nu)
    updates, adam_states = jax.vmap(_adam.update)(grads, adam_states)
    images = jnp.clip(images - rate[:, None, None, None] * updates, low, high)
    return images, adam_states.mu, adam_states.nu


def _rows(x: chex.Array, active: Active) -> chex.Array:
    return x[:active] if isinstance(active, int) else x[jnp.array(active)]


def _with_rows(x: chex.Array, rows: chex.Array, active: Active) -> chex.Array:
    if isinstance(active, int):
        return rows if active == len(x) else x.at[:active].set(rows)
    return x.at[jnp.array(active)].set(rows)


def clocks(state: RecoverState, job: Job, recipe: RecoverRecipe, active: Active):
    """Iterations done and in total, int32 [n] each, as each active image counts them."""
    joins = _rows(job.joins, active)
    if recipe.clock == "batch":
        joins = jnp.zeros_like(joins)
    return state.step - joins, job.iterations - joins


def draw_view(
    state: RecoverState, job: Job, recipe: RecoverRecipe, flip: bool, active: Active
) -> crop.View:
    """Draws this iteration's view, a function of the batch's key and the iteration.

    One view for the batch, or one per image if `recipe.crop` is "image" or if images count
    their own time (then the crop's scale differs, though the draw may be shared).
    """
    size = state.images.shape[1]
    key = jax.random.fold_in(job.key, state.step)
    done, total = clocks(state, job, recipe, active)
    scale = curriculum(recipe, done, total)

    def draw(key, scale):
        return crop.random_view(key, size, scale, flip, recipe.jitter)

    if recipe.crop == "image":
        positions = _rows(jnp.arange(len(state.images)), active)
        return jax.vmap(draw)(jax.vmap(lambda i: jax.random.fold_in(key, i))(positions), scale)
    if recipe.clock == "image":
        return jax.vmap(lambda s: draw(key, s))(scale)
    return draw(key, scale[0])


def update(
    state: RecoverState,
    job: Job,
    view: crop.View,
    variables: Mapping,
    model: nn.Module,
    recipe: RecoverRecipe,
    active: Active,
) -> tuple[RecoverState, Losses, chex.Array]:
    """One iteration with a given view; images that are not active stay untouched.

    Returns:
      The next state, the loss terms and the BN terms [layers] before the step.
    """
    images, labels = _rows(state.images, active), _rows(job.labels, active)
    grads, (losses, terms) = jax.grad(loss, has_aux=True)(
        images, labels, view, variables, model, recipe
    )
    done, total = clocks(state, job, recipe, active)
    rate = learning_rate(recipe.learning_rate, done, total)
    images, mu, nu = adam_step(
        images,
        grads,
        _rows(state.mu, active),
        _rows(state.nu, active),
        done,
        rate,
        job.low,
        job.high,
    )
    next_state = RecoverState(
        step=state.step + 1,
        images=_with_rows(state.images, images, active),
        mu=_with_rows(state.mu, mu, active),
        nu=_with_rows(state.nu, nu, active),
    )
    return next_state, losses, terms


def run_chunk(
    state: RecoverState,
    job: Job,
    variables: Mapping,
    *,
    model: nn.Module,
    recipe: RecoverRecipe,
    flip: bool,
    active: Active,
    steps: int,
) -> tuple[RecoverState, Losses]:
    """`steps` iterations with one active set; all keyword arguments are static.

    Returns:
      The state after them, and the loss terms of each, float32 [steps].
    """

    def body(state, _):
        view = draw_view(state, job, recipe, flip, active)
        state, losses, _ = update(state, job, view, variables, model, recipe, active)
        return state, losses

    # A single step stays outside a loop: XLA's CPU convolutions are slow inside one.
    if steps == 1:
        state, losses = body(state, None)
        return state, jax.tree.map(lambda x: x[None], losses)
    return jax.lax.scan(body, state, None, length=steps)
