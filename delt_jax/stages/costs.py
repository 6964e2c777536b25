"""What stages cost: bytes, and hours on accelerators by name."""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.learned.method import Held
from delt_jax.models import ModelSpec
from delt_jax.models.tap import TappedNetwork
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
_SOON = 0.1  # hours in all, below which a table would say nothing
_USUAL, _USUAL_PER_HOST = "H100/H200", 8  # what is counted where the devices are unknown ones


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
        teacher = TappedNetwork(model, variables)

        def total(x):
            return recover_loss(x, labels, view, teacher, settings)[0]

        return jax.vjp(total, images)[1]

    kept = jax.eval_shape(residuals, shapes, images, labels)
    return _bytes(kept) + _bytes(shapes) + 5 * _bytes(images)


def learn_memory(spec: ModelSpec, held: Held, networks: int) -> int:
    """Estimates the bytes that a step of a learned set needs on its device.

    They are the networks with their optimisers' two moments, and what the step holds.

    Args:
      spec: of the networks.
      held: by the step.
      networks: of the pool.
    """
    model, shapes = models.create(spec), teacher_lib.init_shapes(spec)
    size = spec.image_size

    def residuals(variables, images):
        return jax.vjp(lambda x: model.apply(variables, x, train=False), images)[1]

    one = jax.ShapeDtypeStruct((1, size, size, spec.channels), jnp.float32)
    kept = jax.eval_shape(residuals, shapes, one)
    copies = 3 * networks + 1 + held.weights
    return int(held.images * (_bytes(kept) - _bytes(shapes))) + copies * _bytes(shapes)


def _bytes(tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix, e.g. "1.50 GFLOP"."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} E{unit}"


@dataclass(frozen=True)
class StageWork:
    """What a stage has to do.

    Attributes:
      flops: floating-point operations.
      parts: about equal pieces that can run side by side.
      lanes: what takes a piece at a time: each of the "devices" or of the "hosts", or "one" device.
    """

    flops: float
    parts: int = 1
    lanes: str = "devices"


def hours(work: dict[str, StageWork], here: tuple[str, int, int]) -> list[str]:
    """Lines on how long stages take on accelerators, and what that assumes; one if it is minutes.

    Args:
      work: of each stage, by its name.
      here: kind, number on each host, and hosts of the devices that are there.
    """
    slowest = max(sum(_times(work, name, (1, 1))) for name in ACCELERATORS)
    if slowest < _SOON:
        return [f"on one of {', '.join(ACCELERATORS)}: minutes, most of which go into compiling"]
    head = f"{'':<20}" + "".join(f"{name:>10}" for name in (*work, "all"))
    lines = [
        f"estimated hours on one device, if data keep up and it reaches {UTILISATION:.0%} of its "
        f"peak, as the paper's RTX 4090 did:",
        head,
        *(_row(name, work, name, (1, 1)) for name in ACCELERATORS),
    ]
    kind, per_host, hosts = here
    known = next((name for name in ACCELERATORS if _is(name, kind)), "")
    name = known or _USUAL
    crowds = {(_USUAL_PER_HOST, 1), (_USUAL_PER_HOST, 8)} | (
        {(per_host, hosts)} if known else set()
    )
    lines += [f"and on several of {name}, as far as each stage's work can be divided:", head]
    for per, number in sorted(crowds, key=lambda crowd: crowd[0] * crowd[1]):
        mine = ", here" if known and (per, number) == (per_host, hosts) else ""
        lines.append(_row(f"{number} x {per} devices{mine}", work, name, (per, number)))
    return lines


def _row(label: str, work: dict[str, StageWork], name: str, crowd: tuple[int, int]) -> str:
    """A line of hours on so many devices of each of so many hosts."""
    times = _times(work, name, crowd)
    return f"{label:<20}" + "".join(f"{_hours(t):>10}" for t in (*times, sum(times)))


def _times(work: dict[str, StageWork], name: str, crowd: tuple[int, int]) -> list[float]:
    """Hours of each stage."""
    per_host, hosts = crowd
    lanes = {"devices": per_host * hosts, "hosts": hosts, "one": 1}
    per_flop = 1 / (ACCELERATORS[name] * UTILISATION * 3600)
    return [
        stage.flops * per_flop * math.ceil(stage.parts / lanes[stage.lanes]) / max(stage.parts, 1)
        for stage in work.values()
    ]


def _is(name: str, kind: str) -> bool:
    """Whether a device of this kind, as JAX calls it, is an accelerator of the table."""
    kind = kind.replace("v5 lite", "v5e")
    return any(each in kind for each in name.removesuffix(" chip").split("/"))


def _hours(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:.3g}"
