"""What a run costs on the CPU at hand, and which settings would make it cheaper."""

import functools
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.recipe import Recipe
from delt_jax.stages.costs import StageWork, amount

# What recovery and students of ConvNet-3 and ResNet-18 reached of the measured peak on two Xeon
# cores; narrower networks reach less.
UTILISATION = 0.4
_SIDE, _TRIALS = 1024, 5  # of the matrix product that is timed
_LONG = 2.0  # hours from which on cheaper settings are proposed
_SMALL = 64  # pixels; larger images could be smaller


@functools.cache
def peak() -> float:
    """FLOP/s of a float32 matrix product on the default device, the best of a few trials."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(_SIDE, _SIDE)), jnp.float32)
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / min(seconds)


def lines(work: Mapping[str, StageWork], recipe: Recipe, flops_per_second: float) -> list[str]:
    """How long the stages take here; beyond two hours also what would shorten them.

    Args:
      work: of each stage, by its name.
      recipe: complete (see `delt_jax.config.derive`).
      flops_per_second: peak of the CPU.
    """
    hours = {
        name: stage.flops / (UTILISATION * flops_per_second * 3600) for name, stage in work.items()
    }
    total = sum(hours.values())
    parts = ", ".join(f"{name} {in_words(value)}" for name, value in hours.items())
    found = [
        f"on this CPU: about {in_words(total)} ({parts}), at {UTILISATION:.0%} of the "
        f"{amount(flops_per_second, 'FLOP/s')} that it has just reached, without compiling"
    ]
    if total > _LONG:
        most = max(hours, key=lambda name: hours[name])
        found += [f"  shorter: {change}" for change in cheaper(most, recipe)]
    return found


def cheaper(stage: str, recipe: Recipe) -> list[str]:
    """Settings that shorten a stage, the gentlest first, each with what it does.

    Args:
      stage: the one that takes longest.
      recipe: complete.
    """
    teacher, recover, evaluate = recipe.teacher, recipe.recover, recipe.evaluate
    found = []
    if stage == "squeeze":
        if teacher.epochs > 1:
            found.append(f"--config.teacher.epochs={teacher.epochs // 2} halves squeeze")
        if not teacher.weights:
            found.append(
                "--config.teacher.weights=FILE --config.teacher.fine_tune=True needs few epochs"
            )
    if stage == "recover" and recover.iterations > 1:
        shorter, rounds = recover.iterations // 2, recover.round_iterations // 2
        also = f" --config.recover.round_iterations={rounds}" if rounds else ""
        found.append(f"--config.recover.iterations={shorter}{also} halves recover")
    learn = recipe.learn
    if stage == "learn" and learn.steps is not None and learn.steps > 1:
        found.append(f"--config.learn.steps={learn.steps // 2} halves learn")
    if stage == "learn" and not learn.small:
        found.append("--config.learn.small=True learns in minutes, by fewer and smaller steps")
    if stage == "evaluate":
        if evaluate.seeds > 1:
            found.append(
                f"--config.evaluate.seeds=1 takes 1/{evaluate.seeds} of evaluate, and says nothing "
                f"of the spread"
            )
        if len(evaluate.regimes) > 1:
            found.append(
                f"--config.evaluate.regimes={evaluate.regimes[0]} leaves out other kinds of labels"
            )
    if recipe.data.image_size > _SMALL:
        found.append(
            f"--config.data.image_size={_SMALL} shortens every stage, most where it lets a recipe "
            f"derive a smaller network"
        )
    return found


def in_words(hours: float) -> str:
    """A time as people say it, e.g. "2 min" or "3.5 h".

    >>> [in_words(hours) for hours in (0.001, 0.05, 0.5, 3.49, 60, 2400)]
    ['< 1 min', '3 min', '30 min', '3.5 h', '60 h', '100 days']
    """
    if hours * 60 < 1:
        return "< 1 min"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    if hours < 10:
        return f"{hours:.1f} h"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"
