"""Directed weight adjustment: a teacher moved slightly uphill on the start images (DWA).

DWA (arXiv 2409.17612) recovers each batch with its own parameters of the teacher, found by a few
steps of gradient ascent on the cross-entropy of the batch's start images. The released code also
leaves the gradients of these steps in the images' first update, which is no part of the method;
here they are not.
"""

import functools
from collections.abc import Mapping, Sequence

import chex
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from delt_jax.core import losses as losses_lib
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram
from delt_jax.recovery.types import BatchInputs, TeacherVariables
from delt_jax.runtime import devices

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
      batch_stats: the teacher's running statistics, which do not change.
      images: normalised float32 [n, S, S, C], as viewed.
      labels: int32 [n].
      model: the teacher's module.
      length: rho / K, so that K steps go at most rho far.
    """

    def cross_entropy(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits = model.apply(variables, images, train=False)
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return losses_lib.cross_entropy(logits.astype(wide), labels)

    gradient = jax.grad(cross_entropy)(params)
    scale = length / (optax.tree.norm(gradient) + _TINY)
    return jax.tree.map(lambda p, g: p + scale * g, params, gradient)


def own_params(
    program: StepProgram,
    teachers: Sequence[TeacherVariables],
    inputs: BatchInputs,
    starts: chex.Array,
) -> tuple[Mapping, ...]:
    """Each batch's own parameters of every teacher: K steps uphill from the teacher's.

    The ascent sees the images that are active in the first iteration, viewed as there. The result
    depends on the batch alone, so an interrupted recovery finds it again.

    Args:
      program: of the first iteration, with `settings.perturbation` above 0.
      teachers: host arrays.
      inputs: of the batches, with leading axes [devices, batches on each].
      starts: start images, normalised float32 [devices, batches on each, B, S, S, C].

    Returns:
      Parameters of each teacher, with leading axes [devices, batches on each].
    """
    num_devices, batches_per_device = starts.shape[:2]
    own = []
    for turn, teacher in enumerate(teachers):
        step = _compile_ascent(program, turn, num_devices, batches_per_device)
        copies = [teacher.variables["params"]] * (num_devices * batches_per_device)
        params = devices.stack_jobs(copies, num_devices, batches_per_device)
        for _ in range(program.settings.perturbation_steps):
            params = step(params, (inputs, starts), teacher.variables["batch_stats"])
        own.append(params)
    return tuple(own)


@functools.lru_cache(maxsize=16)
def _compile_ascent(program: StepProgram, turn: int, num_devices: int, batches_per_device: int):
    settings = program.settings
    length = settings.perturbation / settings.perturbation_steps

    def step(params, inputs_and_start, batch_stats):
        inputs, start = inputs_and_start
        images, labels = recovery_step.first_viewed(start, inputs, settings, program.active)
        model = program.models[turn]
        return ascend(params, batch_stats, images, labels, model=model, length=length)

    return devices.map_jobs(step, num_devices, batches_per_device, "unrolled")
