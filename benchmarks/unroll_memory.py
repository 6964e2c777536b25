"""Bytes that the gradient through an unrolled training takes, by number of steps.

python benchmarks/unroll_memory.py              a ConvNet-3 of width 32 at 28 px, 50 images a step
python benchmarks/unroll_memory.py --width=128

XLA's own count of the temporary memory of the compiled gradient: of plain descent (MTT's family)
and of Adam's window (RaT-BPTT), with one step and with several. What several may take is twice one
step's memory and what is kept between steps, the weights and with Adam both moments. Each count has
the estimate of `--dry_run` beside it.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp

from delt_jax import models
from delt_jax.learned import networks, unrolled
from delt_jax.learned.method import Held
from delt_jax.models import ModelSpec, forms
from delt_jax.runtime import devices
from delt_jax.stages.costs import learn_memory


def temporary_bytes(spec: ModelSpec, batch: int, steps: int, with_adam: bool) -> tuple[int, int]:
    """Temporary memory of a compiled gradient, and bytes that one step keeps for the way back.

    Args:
      spec: of the student.
      batch: learned images, all of which every step takes.
      steps: that are differentiated.
      with_adam: whether they are RaT-BPTT's; else plain descent.
    """
    shape = (batch, spec.image_size, spec.image_size, spec.channels)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    init = models.create(spec).init
    made = jax.eval_shape(lambda key: init(key, jnp.zeros(shape), train=False), jax.random.key(0))
    targets = jax.nn.one_hot(jnp.arange(batch) % spec.num_classes, spec.num_classes)

    def inner(params: Any, images: Any, step: Any) -> Any:
        del step
        return networks.cross_entropy(params, images, targets, spec)

    def outer(images: Any, params: Any) -> Any:
        numbers = jnp.arange(steps)
        if with_adam:
            state = unrolled.adam_start(params)
            after = unrolled.adam_window(inner, state, images, numbers, 1e-3)
        else:
            after = unrolled.descend(inner, params, images, numbers, jnp.float32(0.01))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

    with forms.in_loops():
        compiled = jax.jit(jax.grad(outer)).lower(images, made["params"]).compile()
    measured = compiled.memory_analysis()
    assert measured is not None, "this backend does not count memory"
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(made["params"]))
    return measured.temp_size_in_bytes, weights * (3 if with_adam else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    for name, value in (("width", 32), ("size", 28), ("batch", 50), ("steps", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    spec = ModelSpec("dc_conv3", 10, chosen.size, 1, chosen.width)
    of_steps = functools.partial(temporary_bytes, spec, chosen.batch)
    print(f"{spec.name}, width {chosen.width}, {chosen.batch} images of {chosen.size} px")
    for name, adam in (("descent", False), ("Adam", True)):
        (one, kept), (many, _) = of_steps(1, adam), of_steps(chosen.steps, adam)
        room = one + chosen.steps * kept
        planned, planned_many = (
            learn_memory(spec, Held(3 * chosen.batch, steps * (3 if adam else 1)), 0) / 1e6
            for steps in (1, chosen.steps)
        )
        print(
            f"{name}: 1 step {one / 1e6:.1f} MB (plan {planned:.1f}), {chosen.steps} steps "
            f"{many / 1e6:.1f} MB (plan {planned_many:.1f}), "
            f"{many / room:.2f} x one step and {chosen.steps} x {kept / 1e6:.2f} MB kept"
        )
    print(devices.describe())


if __name__ == "__main__":
    main()
