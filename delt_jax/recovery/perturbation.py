"""Directed weight adjustment: a teacher moved a little uphill on the images that start (DWA).

DWA (arXiv 2409.17612) recovers each batch with weights of its own, found by a few steps of ascent
on the cross-entropy of the batch's start images. The released code also leaves the gradients of
these steps in the images' first update, which is no part of the method; here they are not.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from delt_jax.core import losses as objective
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as engine
from delt_jax.recovery.types import Active, Job, Losses, RecoverState, TeacherVariables
from delt_jax.runtime import devices as parallel

_TINY = 1e-12


def ascend(
    params: Mapping,
    batch_stats: Mapping,
    images: chex.Array,
    labels: chex.Array,
    *,
    model: nn.Module,
    length: float,
) -> Mapping:
    """One step of a fixed length up the gradient of the mean cross-entropy.

    params + length * g / (|g| + 1e-12), with the norm over all leaves.

    Args:
      params: of the teacher, which runs in eval mode.
      batch_stats: its running statistics, which stay as they are.
      images: normalised float32 [n, S, S, C], as viewed.
      labels: int32 [n].
      model: the teacher's module.
      length: rho / K for K steps that go rho far at the most.
    """

    def cross_entropy(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits = model.apply(variables, images, train=False)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return objective.cross_entropy(logits.astype(wide), labels)

    gradient = jax.grad(cross_entropy)(params)
    scale = length / (optax.tree.norm(gradient) + _TINY)
    return jax.tree.map(lambda p, g: p + scale * g, params, gradient)


def own_weights(
    teachers: Sequence[Mapping],
    jobs: Job,
    starts: chex.Array,
    *,
    models: tuple[nn.Module, ...],
    recipe: RecoverRecipe,
    flip: bool,
    active: Active,
) -> tuple[Mapping, ...]:
    """Params for each batch, by teacher: from the teacher's own, all steps up on its start images.

    The images are those that take part from the beginning, viewed as in the first iteration. The
    result depends on the batch alone, so it is found again wherever the batch goes on.

    Args:
      teachers: variables {"params", "batch_stats"} of each, host arrays.
      jobs: of the batches, leading axes [devices, batches on each].
      starts: their start images, normalised float32 [devices, batches on each, B, S, S, C].
      models: the teachers' modules.
      recipe: of the recovery, with `perturbation` above 0.
      flip: whether views may be mirrored.
      active: the images that take part in the first iteration.

    Returns:
      Params of each teacher, with the jobs' leading axes.
    """
    width, stack = starts.shape[:2]
    found = []
    for variables, model in zip(teachers, models, strict=True):
        step = _compiled(model, recipe, flip, active, width, stack)
        params = parallel.stack_jobs([variables["params"]] * (width * stack), width, stack)
        for _ in range(recipe.perturbation_steps):
            params = step(params, (jobs, starts), variables["batch_stats"])
        found.append(params)
    return tuple(found)


@functools.lru_cache(maxsize=16)
def _compiled(
    model: nn.Module,
    recipe: RecoverRecipe,
    flip: bool,
    active: Active,
    width: int,
    stack: int,
):
    length = recipe.perturbation / recipe.perturbation_steps

    def step(params, job_and_start, batch_stats):
        job, start = job_and_start
        images, labels = engine.first_look(start, job, recipe, flip, active)
        return ascend(params, batch_stats, images, labels, model=model, length=length)

    return parallel.map_jobs(step, width, stack, unroll=True)


def run_chunk(
    state: RecoverState,
    job_and_weights: tuple[Job, tuple[Mapping, ...]],
    guides: tuple[TeacherVariables, ...],
    **settings: Any,
) -> tuple[RecoverState, Losses]:
    """`engine.run_chunk` with teachers whose params are the batch's own."""
    job, weights = job_and_weights
    own = tuple(
        guide._replace(variables={**guide.variables, "params": params})
        for guide, params in zip(guides, weights, strict=True)
    )
    return engine.run_chunk(state, job, own, **settings)
