"""One recovery step as pure functions: view, teacher, loss, Adam, clip.

DELT optimises a batch of images so that the teacher classifies them and their BatchNorm
input moments match its running statistics (arXiv 2411.19946; the loss is
SRe2L's, the crop curriculum CDA's). Only the active images of the batch take part. Further
terms (`delt_jax.terms`) and several teachers in turn are what other methods add.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from delt_jax import terms
from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.core import losses as objective
from delt_jax.models.tap import Pass, apply_tapped
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import residual
from delt_jax.recovery.schedule import relabel_from_zero
from delt_jax.recovery.types import Active, Job, Losses, RecoverState, TeacherVariables, TermInputs
from delt_jax.terms import TeacherOutputs

_adam = optax.scale_by_adam(b1=0.5, b2=0.9, eps=1e-8)


def init_state(images: chex.Array, term_state: Any = ()) -> RecoverState:
    """The state before the first iteration; images [B, S, S, C]."""
    chex.assert_rank(images, 4)
    zeros = jnp.zeros_like(images)
    return RecoverState(jnp.int32(0), images, zeros, jnp.zeros_like(images), term_state)


def init_term_state(recipe: RecoverRecipe, constants: Sequence[Sequence[Any]]) -> Any:
    """What further terms carry before the first iteration; constants by teacher and term."""
    asked = terms.asked(recipe.terms)
    if not asked:
        return ()
    inits = [terms.find(name).init for name, _ in asked]
    return tuple(
        tuple(init(each) for init, each in zip(inits, of_teacher, strict=True))
        for of_teacher in constants
    )


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
    further: TermInputs | None = None,
) -> tuple[chex.Array, tuple[Losses, chex.Array, tuple[Any, ...]]]:
    """CE + alpha_BN * BN matching + further terms of the viewed images.

    Returns:
      The loss; its parts; the BN terms layer by layer; and what further terms carry on.
    """
    viewed = crop.view_images(images, view, images.shape[1])
    tapped = apply_tapped(model, variables, viewed)
    wide = jnp.promote_types(tapped.logits.dtype, jnp.float32)  # whatever the activations' type
    ce = objective.cross_entropy(tapped.logits.astype(wide), labels)
    layers = objective.bn_terms(tapped.batch, tapped.running, recipe.bn_variance_weight)
    bn = objective.bn_matching(layers, recipe.first_bn_multiplier)
    total = ce + recipe.bn_weight * bn if recipe.bn_weight else ce
    if further is None:
        return total, (Losses(total, ce, bn, jnp.zeros_like(ce)), layers, ())
    more, term_state = _further_terms(viewed, labels, tapped, recipe, further)
    total = total + more
    return total, (Losses(total, ce, bn, more), layers, term_state)


def _further_terms(
    viewed: chex.Array, labels: chex.Array, tapped: Pass, recipe: RecoverRecipe, further: TermInputs
) -> tuple[chex.Array, tuple[Any, ...]]:
    """Weighted sum of the terms that the recipe asks for, and what they carry on."""
    total, term_state = jnp.float32(0), []
    asked = terms.asked(recipe.terms)
    for (name, weight), constants, before in zip(
        asked, further.constants, further.term_state, strict=True
    ):
        seen = TeacherOutputs(
            images=viewed,
            labels=labels,
            ranks=further.ranks,
            classes=further.classes,
            logits=tapped.logits.astype(jnp.float32),
            features=tapped.features.astype(jnp.float32),
            norm_inputs=tapped.norm_inputs,
            conv_inputs=tapped.conv_inputs,
            key=keys.derive(further.key, "terms", name),
        )
        value, after = terms.find(name).value(seen, constants, before)
        total = total + weight * value
        term_state.append(after)
    return total, tuple(term_state)


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


def first_look(
    start: chex.Array, job: Job, recipe: RecoverRecipe, flip: bool, active: Active
) -> tuple[chex.Array, chex.Array]:
    """What the first iteration looks at: its images as viewed, [n, S, S, C], and labels [n]."""
    view = draw_view(init_state(start), job, recipe, flip, active)
    images = crop.view_images(_rows(start, active), view, start.shape[1])
    return images, _rows(job.labels, active)


def _further(
    state: RecoverState,
    job: Job,
    guide: TeacherVariables,
    recipe: RecoverRecipe,
    active: Active,
    classes: tuple[int, ...],
    teacher: int,
) -> TermInputs | None:
    """What this iteration's further terms are given; None where there are none."""
    if not recipe.terms:
        return None
    chosen = range(active) if isinstance(active, int) else active
    return TermInputs(
        ranks=_rows(job.ranks, active),
        classes=relabel_from_zero([classes[i] for i in chosen]),
        key=jax.random.fold_in(job.key, state.step),
        constants=guide.constants,
        term_state=state.term_state[teacher],
    )


def update(
    state: RecoverState,
    job: Job,
    view: crop.View,
    guide: TeacherVariables,
    model: nn.Module,
    recipe: RecoverRecipe,
    active: Active,
    classes: tuple[int, ...] = (),
    teacher: int = 0,
) -> tuple[RecoverState, Losses, chex.Array]:
    """One iteration with a given view; images that are not active stay untouched.

    `guide` and `model` are those of the teacher of this number.

    Returns:
      The next state, the loss terms and the BN terms [layers] before the step.
    """
    labels = _rows(job.labels, active)
    images, mu, nu = (_rows(x, active) for x in (state.images, state.mu, state.nu))
    done, total = clocks(state, job, recipe, active)
    age = done
    if recipe.residual:
        assert job.starts is not None
        starts, blocks = _rows(job.starts, active), recipe.residual_rounds
        images, mu, nu = residual.mix(images, starts, mu, nu, done, total, recipe.residual, blocks)
        age = residual.age(done, total, blocks)
    further = _further(state, job, guide, recipe, active, classes, teacher)
    grads, (losses, layers, after) = jax.grad(loss, has_aux=True)(
        images, labels, view, guide.variables, model, recipe, further
    )
    rate = learning_rate(recipe.learning_rate, done, total)
    images, mu, nu = adam_step(images, grads, mu, nu, age, rate, job.low, job.high)
    term_state = state.term_state
    if further is not None:
        term_state = (*term_state[:teacher], after, *term_state[teacher + 1 :])
    next_state = RecoverState(
        step=state.step + 1,
        images=_with_rows(state.images, images, active),
        mu=_with_rows(state.mu, mu, active),
        nu=_with_rows(state.nu, nu, active),
        term_state=term_state,
    )
    return next_state, losses, layers


def run_chunk(
    state: RecoverState,
    job: Job,
    guides: tuple[TeacherVariables, ...],
    *,
    models: tuple[nn.Module, ...],
    recipe: RecoverRecipe,
    flip: bool,
    active: Active,
    steps: int,
    classes: tuple[int, ...] = (),
    first: int = 0,
) -> tuple[RecoverState, Losses]:
    """`steps` iterations with one active set; all keyword arguments are static.

    The teachers take turns. Which one comes next is known to the compiler, as convolutions in a
    branch, like those in a loop, are slow on CPU.

    Args:
      state, job: of the batch.
      guides: of the teachers, in the order of their turns.
      models: theirs.
      recipe: of the recovery.
      flip: whether views may be mirrored.
      active: the images that take part.
      steps: number of iterations.
      classes: of each image of the batch a number from 0 that its class has there; only further
        terms read it.
      first: number of the teacher whose turn it is.

    Returns:
      The state after them, and the loss terms of each, float32 [steps].
    """

    def turn(state, position):
        teacher = (first + position) % len(models)
        view = draw_view(state, job, recipe, flip, active)
        state, losses, _ = update(
            state, job, view, guides[teacher], models[teacher], recipe, active, classes, teacher
        )
        return state, losses

    def turns(state, count):
        found = []
        for position in range(count):
            state, losses = turn(state, position)
            found.append(losses)
        return state, jax.tree.map(lambda *x: jnp.stack(x), *found)

    # A single step stays outside a loop: XLA's CPU convolutions are slow inside one.
    rounds, rest = divmod(steps, len(models))
    if rounds < 2:
        return turns(state, steps)
    state, losses = jax.lax.scan(lambda s, _: turns(s, len(models)), state, None, length=rounds)
    losses = jax.tree.map(lambda x: x.reshape(-1), losses)
    if rest:
        state, last = turns(state, rest)
        losses = jax.tree.map(lambda *x: jnp.concatenate(x), losses, last)
    return state, losses
