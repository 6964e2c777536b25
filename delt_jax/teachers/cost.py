"""What a network costs: parameters, and operations of a forward pass."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.runtime import counting
from delt_jax.teachers.teacher import init_shapes


@dataclass(frozen=True)
class ModelCost:
    """Cost of one model.

    Attributes:
      parameters: number of weights.
      forward_flops: floating-point operations of a forward pass of one image.
    """

    parameters: int
    forward_flops: float


@functools.lru_cache(maxsize=64)
def model_cost(spec: ModelSpec) -> ModelCost:
    """Counts parameters exactly and FLOPs by XLA's estimate of the unoptimised program."""
    model, shapes = models.create(spec), init_shapes(spec)
    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, spec.channels), jnp.float32)
    flops = counting.flops(lambda v, x: model.apply(v, x, train=False), shapes, image)
    return ModelCost(sum(math.prod(p.shape) for p in jax.tree.leaves(shapes["params"])), flops)
