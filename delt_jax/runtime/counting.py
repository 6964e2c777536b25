"""Operations of a function, by XLA's count."""

import math
from collections.abc import Callable
from typing import Any

import jax


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a function, by XLA's estimate of the unoptimised program.

    The clients of GPUs and TPUs have no such estimate, so the CPU's is asked, which stands beside
    them. Where JAX_PLATFORMS leaves it out, the program is compiled and its own count taken.

    Args:
      function: of arrays; traced as for the default backend.
      *arguments: arrays, or their shapes and types, in trees.

    Returns:
      The number; NaN where XLA has none.
    """
    shapes = jax.tree.map(_shape, arguments)
    try:
        beside = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        beside = None
    with jax.default_device(beside):
        lowered = jax.jit(function).lower(*shapes)
    counted = lowered.cost_analysis() or lowered.compile().cost_analysis() or {}
    return float(counted.get("flops", math.nan))


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
