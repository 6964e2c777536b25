"""One iteration of recovery as pure functions: take a view, ask a teacher, loss, Adam, clip.

DELT optimises a batch of images so that the teacher classifies them and their BatchNorm input
moments match its running statistics (arXiv 2411.19946; the loss is SRe2L's, the crop curriculum
CDA's). Only the active images of a batch take part. Extra loss terms (`delt_jax.terms`), several
teachers in round robin, residuals and perturbed parameters are what other methods add.
"""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax import terms
from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.core import losses as losses_lib
from delt_jax.models import forms
from delt_jax.models.tap import Pass, TappedNetwork, dtype_of
from delt_jax.recovery import active as masks
from delt_jax.recovery import optimisers, residual
from delt_jax.recovery.active import put, take
from delt_jax.recovery.optimisers import OptimiserState
from delt_jax.recovery.program import StepProgram, StepSettings
from delt_jax.recovery.schedule import relabel_from_zero
from delt_jax.recovery.types import (
    Active,
    BatchInputs,
    Clock,
    Losses,
    RecoverState,
    TeacherVariables,
    TermInputs,
)
from delt_jax.recovery.views import Views, clocks, draw_view, of_active, view_at
from delt_jax.terms import TeacherOutputs

VERSION = 1  # part of identities; raise it when results change

_adam = optax.scale_by_adam(b1=0.5, b2=0.9, eps=1e-8)


def init_state(
    images: chex.Array, term_state: Any = (), optimiser: str = optimisers.ADAM
) -> RecoverState:
    """The state before the first iteration; images [B, S, S, C]."""
    chex.assert_rank(images, 4)
    own = optimisers.begin(optimiser, images)
    return RecoverState(jnp.int32(0), images, own.mu, own.nu, term_state, own.plugged)


def init_term_state(settings: StepSettings, teachers: Sequence[TeacherVariables]) -> Any:
    """State of the extra terms before the first iteration, by teacher and term."""
    if not settings.terms:
        return ()
    inits = [terms.find(name).init for name, _ in settings.terms]
    return tuple(
        tuple(init(constants) for init, constants in zip(inits, teacher.constants, strict=True))
        for teacher in teachers
    )


def learning_rate(peak: float, t: chex.Array, total: chex.Array) -> chex.Array:
    """Cosine to zero: peak (1 + cos(pi t / T)) / 2."""
    # Multiplies by 1/T explicitly: whether XLA does so depends on the device count, and results
    # must be bit-identical.
    return peak * 0.5 * (1.0 + jnp.cos(jnp.pi * t * (1.0 / total)))


def loss(
    images: chex.Array,
    labels: chex.Array,
    view: crop.View,
    teacher: TappedNetwork,
    settings: StepSettings,
    term_inputs: TermInputs | None = None,
) -> tuple[chex.Array, tuple[Losses, chex.Array, tuple[Any, ...]]]:
    """CE + alpha_BN * BN matching + extra terms, of the images as viewed.

    Args:
      images: normalised float32 [n, S, S, C].
      labels: int32 [n].
      view: of the images, shared or one per image.
      teacher: in a masked program with the images' weights.
      settings: of the step.
      term_inputs: what the extra terms read; None without any.

    Returns:
      The loss; its parts, the BN terms float32 [layers], and the next state of the extra terms.
    """
    precision = forms.current(dtype_of(teacher.model)).view_precision
    viewed = crop.view_images(images, view, images.shape[1], precision=precision)
    tapped = teacher(viewed)
    wide = jnp.promote_types(tapped.logits.dtype, jnp.float32)  # whatever the activations' type
    ce = losses_lib.cross_entropy(tapped.logits.astype(wide), labels, tapped.weights)
    layers = losses_lib.bn_terms(tapped.batch, tapped.running, settings.bn_variance_weight)
    bn = losses_lib.bn_matching(layers, settings.first_bn_multiplier)
    total = ce + settings.bn_weight * bn if settings.bn_weight else ce
    if term_inputs is None:
        return total, (Losses(total, ce, bn, jnp.zeros_like(ce)), layers, ())
    extra, values, term_state = _extra_terms(viewed, labels, tapped, settings, term_inputs)
    total = total + extra
    return total, (Losses(total, ce, bn, extra, values), layers, term_state)


def _extra_terms(
    viewed: chex.Array,
    labels: chex.Array,
    tapped: Pass,
    settings: StepSettings,
    inputs: TermInputs,
) -> tuple[chex.Array, dict[str, chex.Array], tuple[Any, ...]]:
    """Weighted sum of the extra terms, each by itself, and their next states."""
    total, values, term_state = jnp.float32(0), {}, []
    for (name, weight), constants, before in zip(
        settings.terms, inputs.constants, inputs.term_state, strict=True
    ):
        seen = TeacherOutputs(
            images=viewed,
            labels=labels,
            ranks=inputs.ranks,
            classes=inputs.classes,
            logits=tapped.logits.astype(jnp.float32),
            features=tapped.features.astype(jnp.float32),
            norm_inputs=tapped.norm_inputs,
            conv_inputs=tapped.conv_inputs,
            key=keys.derive(inputs.key, "terms", name),
        )
        value, after = terms.find(name).value(seen, constants, before)
        total = total + weight * value
        values[name] = value
        term_state.append(after)
    return total, values, tuple(term_state)


def adam_step(
    images: chex.Array,
    grads: chex.Array,
    adam: optax.ScaleByAdamState,
    rate: chex.Array,
    bounds: tuple[chex.Array, chex.Array],
) -> tuple[chex.Array, optax.ScaleByAdamState]:
    """Adam(0.5, 0.9) for every image by itself, then clip to the valid pixel range.

    Args:
      images, grads: float32 [n, S, S, C].
      adam: count int32 [n], the steps so far as the bias correction counts them, which may differ
        between images; moments [n, S, S, C].
      rate: float32 [n], learning rate of each image.
      bounds: smallest and largest valid pixel, float32 [C] each.

    Returns:
      Images and Adam's state after the step.
    """
    updates, adam = jax.vmap(_adam.update)(grads, adam)
    images = jnp.clip(images - rate[:, None, None, None] * updates, *bounds)
    return images, adam


def first_viewed(
    start: chex.Array, inputs: BatchInputs, settings: StepSettings, active: Active
) -> tuple[chex.Array, chex.Array]:
    """The active start images as the first iteration views them, [n, S, S, C], and labels [n]."""
    view = of_active(draw_view(jnp.int32(0), inputs, settings, start.shape[1]), active)
    images = crop.view_images(take(start, active), view, start.shape[1])
    return images, take(inputs.labels, active)


def _term_inputs(
    program: StepProgram,
    state: RecoverState,
    inputs: BatchInputs,
    teacher: TeacherVariables,
    turn: int,
) -> TermInputs | None:
    """What this iteration's extra terms read; None without any."""
    if not program.settings.terms:
        return None
    active = program.active
    positions = range(active) if isinstance(active, int) else active
    return TermInputs(
        ranks=take(inputs.ranks, active),
        classes=relabel_from_zero([program.classes[i] for i in positions]),
        key=jax.random.fold_in(inputs.key, state.step),
        constants=teacher.constants,
        term_state=state.term_state[turn],
    )


def update(
    program: StepProgram,
    state: RecoverState,
    inputs: BatchInputs,
    view: crop.View,
    teachers: Sequence[TeacherVariables],
    turn: int = 0,
) -> tuple[RecoverState, Losses, chex.Array]:
    """One iteration with a given view; images that take no part in it stay untouched.

    In a masked program those of the first images take part whose time it is; the others are
    computed, but weigh nothing.

    Args:
      program: static; its `steps` and `first_teacher` are not read.
      state, inputs: of the batch.
      view: of the active images.
      teachers: variables of all teachers.
      turn: static, index of the teacher that guides this iteration.

    Returns:
      The next state, the losses and the BN terms float32 [layers] before the step.
    """
    settings, active = program.settings, program.active
    labels = take(inputs.labels, active)
    whole = (state.images, OptimiserState(state.mu, state.nu, state.plugged))
    before = jax.tree.map(lambda x: take(x, active), whole)
    clock = Clock(*(take(x, active) for x in clocks(state.step, inputs, settings)))
    starts = take(inputs.starts, active) if settings.residual else None
    images, own = _begun(before[0], before[1], starts, clock, settings)
    weights = None
    if program.masked:
        taking_part = masks.mask(state.step, inputs, len(labels))
        weights = masks.weights(taking_part)
        images = masks.only(taking_part, images, 0.0)  # else 0 times a huge value might be NaN
    teacher = TappedNetwork(program.models[turn], teachers[turn].variables, weights)
    term_inputs = _term_inputs(program, state, inputs, teachers[turn], turn)
    grads, (losses, layers, after) = jax.grad(loss, has_aux=True)(
        images, labels, view, teacher, settings, term_inputs
    )
    rate = learning_rate(settings.learning_rate, *clock)
    changed = _stepped(images, grads, own, rate, (inputs.low, inputs.high), settings)
    if program.masked:
        changed = jax.tree.map(lambda new, old: masks.only(taking_part, new, old), changed, before)
    images, own = jax.tree.map(lambda x, part: put(x, part, active), whole, changed)
    term_state = state.term_state
    if term_inputs is not None:
        term_state = (*term_state[:turn], after, *term_state[turn + 1 :])
    return (
        RecoverState(state.step + 1, images, own.mu, own.nu, term_state, own.plugged),
        losses,
        layers,
    )


def _begun(
    images: chex.Array,
    own: OptimiserState,
    starts: chex.Array | None,
    clock: Clock,
    settings: StepSettings,
) -> tuple[chex.Array, Any]:
    """Images with their starts mixed in where it is time, and what the optimiser goes on from.

    Args:
      images: float32 [n, S, S, C].
      own: the optimiser's state.
      starts: of these images; None unless residuals are mixed in.
      clock: of the images.
      settings: of the step.
    """
    share, blocks = settings.residual, settings.residual_rounds
    if settings.optimiser == optimisers.ADAM:
        adam = optax.ScaleByAdamState(clock.done, own.mu, own.nu)
        if starts is None:
            return images, adam
        return residual.mix(images, starts, adam, clock, share, blocks)
    if starts is None:
        return images, own.plugged
    images = residual.mix_images(images, starts, clock, share, blocks)
    begins = residual.block_begins(clock, blocks)
    return images, optimisers.restarted(settings.optimiser, own.plugged, images, begins)


def _stepped(
    images: chex.Array,
    grads: chex.Array,
    own: Any,
    rate: chex.Array,
    bounds: tuple[chex.Array, chex.Array],
    settings: StepSettings,
) -> tuple[chex.Array, OptimiserState]:
    """Images and the optimiser's state after a step; arguments as of `adam_step`."""
    if settings.optimiser == optimisers.ADAM:
        images, adam = adam_step(images, grads, own, rate, bounds)
        return images, OptimiserState(adam.mu, adam.nu, ())
    images, plugged = optimisers.step(settings.optimiser, images, grads, own, rate, bounds)
    return images, OptimiserState((), (), plugged)


def run_chunk(
    program: StepProgram,
    state: RecoverState,
    inputs: BatchInputs,
    views: Views,
    teachers: Sequence[TeacherVariables],
) -> tuple[RecoverState, Losses]:
    """Runs `program.steps` iterations, the teachers in round robin.

    Args:
      program: static.
      state, inputs: of the batch.
      views: of its next iterations, at least as many.
      teachers: variables of the program's models, in the same order.

    Returns:
      The state after them, and the losses of each, float32 [steps].
    """
    teachers = _with_own_params(teachers, inputs)
    count = len(program.models)

    def iteration(state, position):
        # The compiler knows which teacher comes next: convolutions in a branch of lax.switch, like
        # those in a loop, are slow on CPU.
        turn = (program.first_teacher + position) % count
        view = view_at(views, state.step, program.active)
        state, losses, _ = update(program, state, inputs, view, teachers, turn)
        return state, losses

    def iterations(state, steps):
        losses = []
        for position in range(steps):
            state, now = iteration(state, position)
            losses.append(now)
        return state, jax.tree.map(lambda *x: jnp.stack(x), *losses)

    # A scan over whole cycles of the teachers, then the rest. A single cycle stays outside a loop,
    # because XLA's CPU convolutions are slow inside one.
    cycles, rest = divmod(program.steps, count)
    if cycles < 2:
        return iterations(state, program.steps)
    state, losses = jax.lax.scan(lambda s, _: iterations(s, count), state, None, length=cycles)
    losses = jax.tree.map(lambda x: x.reshape(-1), losses)  # [cycles, count] -> [steps]
    if rest:
        state, last = iterations(state, rest)
        losses = jax.tree.map(lambda *x: jnp.concatenate(x), losses, last)
    return state, losses


def _with_own_params(
    teachers: Sequence[TeacherVariables], inputs: BatchInputs
) -> Sequence[TeacherVariables]:
    """The teachers with the batch's own parameters, where it has any (DWA)."""
    if inputs.params is None:
        return teachers
    return tuple(
        teacher._replace(variables={**teacher.variables, "params": params})
        for teacher, params in zip(teachers, inputs.params, strict=True)
    )
