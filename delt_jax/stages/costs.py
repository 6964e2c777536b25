"""What stages cost: bytes, and hours on accelerators by name."""

import functools
import math

import jax
import jax.numpy as jnp

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.models import ModelSpec
from delt_jax.models.tap import apply_tapped
from delt_jax.recipe import Recipe
from delt_jax.recovery.program import StepSettings, step_settings
from delt_jax.recovery.step import loss as recover_loss
from delt_jax.teachers import teacher as teacher_lib

# Peak FLOP/s of the arithmetic that JAX uses for float32 matrix products by default: TF32 without
# sparsity on NVIDIA, bfloat16 on TPU; the makers' figures.
ACCELERATORS = {
    "RTX 4090": 82.6e12,
    "A100": 156e12,
    "H100/H200": 494e12,
    "TPU v4 chip": 275e12,
    "TPU v5e chip": 197e12,
}
# What the 17.6 h of recovery in DELT's Table 6 (ImageNet-1K, IPC 50, one RTX 4090) amount to.
UTILISATION = 0.22


def recover_memory(recipe: Recipe, spec: ModelSpec, batch: int) -> int:
    """Estimates the bytes that a recovery batch of `batch` images needs on its device.

    They are the teacher's, five copies of the images (pixels, gradient, Adam's two moments, view)
    and whatever the forward pass keeps for the backward pass.
    """
    return _step_memory(step_settings(recipe.recover, recipe.data.flip), spec, batch)


@functools.lru_cache(maxsize=64)
def _step_memory(settings: StepSettings, spec: ModelSpec, batch: int) -> int:
    model, shapes = models.create(spec), teacher_lib.init_shapes(spec)
    images = jax.ShapeDtypeStruct(
        (batch, spec.image_size, spec.image_size, spec.channels), jnp.float32
    )
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def residuals(variables, images, labels):
        view = crop.full_view(spec.image_size)
        teacher = functools.partial(apply_tapped, model, variables)

        def total(x):
            return recover_loss(x, labels, view, teacher, settings)[0]

        return jax.vjp(total, images)[1]

    kept = jax.eval_shape(residuals, shapes, images, labels)
    return _bytes(kept) + _bytes(shapes) + 5 * _bytes(images)


def _bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix, e.g. "1.50 GFLOP"."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} E{unit}"


def hours(flops: dict[str, float]) -> list[str]:
    """Lines on how long stages take on accelerators, and what that assumes.

    Args:
      flops: floating-point operations of each stage, by its name.
    """
    names = [*flops, "all"]
    lines = [
        f"estimated hours on one device, if data keep up and it reaches {UTILISATION:.0%} of its "
        f"peak, as the paper's RTX 4090 did:",
        f"{'':<13}" + "".join(f"{name:>10}" for name in names),
    ]
    for device, peak in ACCELERATORS.items():
        times = [f / (peak * UTILISATION) / 3600 for f in (*flops.values(), sum(flops.values()))]
        lines.append(f"{device:<13}" + "".join(f"{_hours(t):>10}" for t in times))
    return lines


def _hours(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:.3g}"
