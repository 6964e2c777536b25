"""Seconds to save and restore a checkpoint, by orbax and as .npz.

    python benchmarks/checkpoint_speed.py [REPEATS [FOLDER]]

Prints a row for a recovery batch and one for a training: the median of REPEATS (5), with the
smallest and the largest, in a new folder below FOLDER (the system's own for temporary files).
"""

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from delt_jax import models
from delt_jax.models import ModelSpec
from delt_jax.recovery.types import RecoverState
from delt_jax.store import checkpoint
from delt_jax.training import state as state_lib

# `save` asks this function for the form, where a job of several processes makes it ".npz".
FORMS = {"orbax": checkpoint.orbax_can_save, "npz": lambda tree: False}


def recovery_batch() -> RecoverState:
    """100 images of 224 px with Adam's two moments: three float32 [100, 224, 224, 3]."""
    draw = np.random.default_rng(0)
    images, mu, nu = (draw.normal(size=(100, 224, 224, 3)).astype(np.float32) for _ in range(3))
    return RecoverState(np.int32(100), images, mu, nu)


def resnet18_training() -> state_lib.TrainState:
    """ResNet-18 for 1000 classes with SGD's momentum, of random numbers."""
    model = models.create(ModelSpec("resnet18", 1000, 224, 3))
    optimiser = state_lib.sgd("cosine", 0.1, 1000, 0.9, 1e-4)
    fresh = state_lib.shapes_of_state(model, optimiser, (224, 224, 3))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda a: draw.normal(size=a.shape).astype(a.dtype), fresh)


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f}..{max(times):.2f})"


def measure(tree: Any, repeats: int, folder: str | None) -> dict[str, tuple[str, str]]:
    """Seconds to save and to restore by form; the forms take turns, so that both get the load."""
    saves: dict[str, list[float]] = {form: [] for form in FORMS}
    restores: dict[str, list[float]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for repeat in range(repeats + 1):  # the first one warms up
            for form, can_save in FORMS.items():
                checkpoint.orbax_can_save = can_save
                path = Path(temporary) / form
                save = seconds(functools.partial(checkpoint.save, path, tree, step=repeat))
                restore = seconds(functools.partial(checkpoint.restore, path, tree))
                if repeat:
                    saves[form].append(save)
                    restores[form].append(restore)
    return {form: (spread(saves[form]), spread(restores[form])) for form in FORMS}


def main(repeats: str = "5", folder: str | None = None) -> None:
    trees = {
        "recovery batch, 100 images of 224 px": recovery_batch(),
        "training of ResNet-18": resnet18_training(),
    }
    print("| checkpoint | arrays | MB | form | seconds to save | seconds to restore |")
    print("|---|---|---|---|---|---|")
    for name, tree in trees.items():
        leaves = jax.tree.leaves(tree)
        size = f"{len(leaves)} | {sum(leaf.nbytes for leaf in leaves) / 1e6:.0f}"
        for form, (save, restore) in measure(tree, int(repeats), folder).items():
            print(f"| {name} | {size} | {form} | {save} | {restore} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
