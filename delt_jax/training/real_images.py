"""Training on all real images with hard labels: teachers, and the ceiling of students."""

import functools
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.core import checks, keys
from delt_jax.core import losses as objective
from delt_jax.core.progress import Progress, progress, say
from delt_jax.data import Normalisation, Source, batches, measure_normalisation
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe, TeacherRecipe
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.store.log import MetricsLog
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import state as training

_SECONDS_BETWEEN_CHECKPOINTS = 60
_CHECKPOINT = "checkpoint"


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=5)
def _step(model, optimiser, normalisation, padding, flip, state, pixels, labels, key):
    shift_key, flip_key = jax.random.split(key)
    if padding:
        pixels = crop.random_shift(shift_key, pixels, padding)
    images = normalisation(pixels)
    if flip:
        images = crop.random_flip(flip_key, images)
    return training.update(
        model,
        optimiser,
        lambda logits: objective.cross_entropy(logits, labels),
        state,
        images,
        keys.derive(key, "dropout"),
    )


def train(
    recipe: Recipe,
    source: Source,
    spec: ModelSpec,
    partial: Path,
    stage: str,
    log: MetricsLog,
    name: str = "",
) -> tuple[dict[str, Any], float]:
    """Trains a network as recipe.teacher says, going on from what `partial` keeps.

    Args:
      recipe: of the run.
      source: the real images.
      spec: of the network.
      partial: folder for its checkpoints.
      stage: that trains it, for log and progress.
      log: of the run.
      name: of its streams of random numbers, which differ from those of other names.

    Returns:
      Variables as host arrays, and top-1 accuracy on the full test set, in [0, 1].

    Raises:
      UserError: if the training diverges.
    """
    model = models.create(spec)
    normalisation = measure_normalisation(recipe.data, source)
    settings = recipe.teacher
    batch = min(settings.batch_size, len(source.train))
    steps = len(source.train) // batch  # an incomplete last batch waits for the next shuffle
    optimiser = training.sgd(
        settings.schedule,
        settings.learning_rate,
        settings.epochs * steps,
        settings.momentum,
        settings.weight_decay,
    )
    state = training.init_state(
        model,
        optimiser,
        keys.stream(recipe.seed, *_streams(name), "init"),
        (spec.image_size, spec.image_size, spec.channels),
    )
    state, first_epoch = _resume(partial, state)
    saved = time.monotonic()
    per_epoch = steps * batch
    with progress(settings.epochs * per_epoch, stage, "image", first_epoch * per_epoch) as bar:
        for epoch in range(first_epoch, settings.epochs):
            state, loss = _epoch(
                recipe, source, model, optimiser, normalisation, state, epoch, batch, bar, name
            )
            log.write(stage, epoch + 1, model=spec.name, train_loss=loss)
            bar.update(0, loss=loss)
            if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                checkpoint.save(partial / _CHECKPOINT, state, epoch=epoch + 1)
                saved = time.monotonic()
    variables = jax.tree.map(np.asarray, state.variables)
    checks.finite(variables, f"{spec.name}'s training diverged; lower teacher.learning_rate.")
    measured = teacher_lib.accuracy(model, variables, normalisation, source.test)
    return variables, measured


def _epoch(
    recipe: Recipe,
    source: Source,
    model: nn.Module,
    optimiser,
    normalisation: Normalisation,
    state,
    epoch: int,
    batch: int,
    bar: Progress,
    name: str,
):
    settings: TeacherRecipe = recipe.teacher
    seeds = [recipe.seed, epoch, *([zlib.crc32(name.encode())] if name else [])]
    order = np.random.default_rng(seeds).permutation(len(source.train))
    epoch_key = keys.stream(recipe.seed, *_streams(name), epoch)
    losses = []
    steps = len(source.train) // batch
    shuffled = np.sort(order[: steps * batch].reshape(steps, batch), axis=1).reshape(-1)
    for step, (indices, pixels) in enumerate(batches(source.train, batch, shuffled)):
        state, loss = _step(
            model,
            optimiser,
            normalisation,
            settings.crop_padding,
            recipe.data.flip,
            state,
            pixels,
            source.train.labels[indices],
            jax.random.fold_in(epoch_key, step),
        )
        losses.append(loss)
        bar.update(batch)
    return state, float(np.mean(jax.device_get(losses)))


def _streams(name: str) -> tuple[str, ...]:
    """Path of a training's random numbers; of the first teacher without a name."""
    return ("squeeze", name) if name else ("squeeze",)


def _resume(partial: Path, state):
    """The state and the epochs of the checkpoint; `state` and 0 where there is none to be used."""
    try:
        restored, scalars = checkpoint.restore(partial / _CHECKPOINT, state)
    except FileNotFoundError:
        return state, 0
    except CorruptCheckpoint as e:
        say(f"  {e.path} is damaged ({e.reason}); its training starts anew")
        return state, 0
    say(f"  training goes on after epoch {scalars['epoch']}")
    return restored, scalars["epoch"]
