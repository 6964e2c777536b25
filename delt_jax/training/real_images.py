"""Training on all real images with hard labels: teachers, and the ceiling of students."""

import functools
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.core import checks, keys
from delt_jax.core import losses as losses_lib
from delt_jax.core.progress import progress, say
from delt_jax.data import Examples, Normalisation, Source, batches, measure_normalisation
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.store.log import MetricsLog
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.training import state as state_lib
from delt_jax.training.state import Trainer, TrainState

SECONDS_BETWEEN_CHECKPOINTS = 60
_CHECKPOINT = "checkpoint"


class TrainingOutput(NamedTuple):
    """Where a training writes.

    Attributes:
      stage: names it in the log and on the progress bar, e.g. "squeeze/conv3_6" or "full".
      partial: existing folder of its checkpoints.
      log: gets a line per epoch.
    """

    stage: str
    partial: Path
    log: MetricsLog


class RealImagesProgram(NamedTuple):
    """What is compiled into the step on real images; hashable.

    Attributes:
      trainer: model and optimiser.
      normalisation: of the model's inputs.
      crop_padding: images are shifted by up to so many pixels; 0 shifts none.
      flip: whether half of them are mirrored.
    """

    trainer: Trainer
    normalisation: Normalisation
    crop_padding: int
    flip: bool


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    program: RealImagesProgram,
    state: TrainState,
    pixels: chex.Array,  # uint8 [B, S, S, C]
    labels: chex.Array,  # int32 [B]
    key: chex.PRNGKey,
) -> tuple[TrainState, chex.Array]:
    shift_key, flip_key = jax.random.split(key)
    if program.crop_padding:
        pixels = crop.random_shift(shift_key, pixels, program.crop_padding)
    images = program.normalisation(pixels)
    if program.flip:
        images = crop.random_flip(flip_key, images)
    return state_lib.update(
        program.trainer,
        state,
        images,
        lambda logits: losses_lib.cross_entropy(logits, labels),
        keys.derive(key, "dropout"),
    )


def train(
    recipe: Recipe, source: Source, spec: ModelSpec, output: TrainingOutput, name: str = ""
) -> tuple[dict[str, Any], float]:
    """Trains a network as `recipe.teacher` says, from where its last checkpoint left it.

    Args:
      recipe: settings of the run.
      source: the real images.
      spec: architecture of the network.
      output: where it writes.
      name: selects its stream of random numbers. The run's first teacher has none, and the
        ceiling of students draws what that one draws.

    Returns:
      Variables as host arrays, and top-1 accuracy on the full test set, in [0, 1].

    Raises:
      UserError: if the training diverges.
    """
    settings, partial = recipe.teacher, output.partial
    batch_size = min(settings.batch_size, len(source.train))
    steps = len(source.train) // batch_size  # an incomplete last batch waits for the next shuffle
    program = _program(recipe, source, spec, settings.epochs * steps)
    state = state_lib.init_state(
        program.trainer.model,
        program.trainer.optimiser,
        keys.stream(recipe.seed, *_streams(name), "init"),
        (spec.image_size, spec.image_size, spec.channels),
    )
    state, first_epoch = _resume(partial, state)
    saved = time.monotonic()
    per_epoch = steps * batch_size
    total, done = settings.epochs * per_epoch, first_epoch * per_epoch
    with progress(total, output.stage, "image", done) as bar:
        for epoch in range(first_epoch, settings.epochs):
            order = epoch_order(recipe.seed, name, epoch, len(source.train), batch_size)
            epoch_key = keys.stream(recipe.seed, *_streams(name), epoch)
            state, loss = _run_epoch(program, state, source.train, order, epoch_key, bar.update)
            output.log.write(output.stage, epoch + 1, model=spec.name, train_loss=loss)
            bar.update(0, loss=loss)
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                checkpoint.save(partial / _CHECKPOINT, state, epoch=epoch + 1)
                saved = time.monotonic()
    variables = jax.tree.map(np.asarray, state.variables)
    checks.finite(variables, f"{spec.name}'s training diverged; lower teacher.learning_rate.")
    model, normalisation = program.trainer.model, program.normalisation
    return variables, teacher_lib.accuracy(model, variables, normalisation, source.test)


def epoch_order(seed: int, name: str, epoch: int, num_images: int, batch_size: int) -> np.ndarray:
    """Indices of an epoch's images in the order in which they are read, int [steps, batch_size].

    Every batch is a random sample without replacement. Its indices ascend, which reading from
    disk is fastest in; a batch's own order changes nothing but rounding.

    Args:
      seed: of the run.
      name: of the training, see `train`.
      epoch: from 0.
      num_images: of the training set.
      batch_size: at most `num_images`; images beyond the last whole batch are left out.
    """
    seeds = [seed, epoch, *([zlib.crc32(name.encode())] if name else [])]
    shuffled = np.random.default_rng(seeds).permutation(num_images)
    steps = num_images // batch_size
    return np.sort(shuffled[: steps * batch_size].reshape(steps, batch_size), axis=1)


def _program(recipe: Recipe, source: Source, spec: ModelSpec, steps: int) -> RealImagesProgram:
    settings = recipe.teacher
    optimiser = state_lib.sgd(
        settings.schedule,
        settings.learning_rate,
        steps,
        settings.momentum,
        settings.weight_decay,
    )
    return RealImagesProgram(
        Trainer(models.create(spec), optimiser),
        measure_normalisation(recipe.data, source),
        settings.crop_padding,
        recipe.data.flip,
    )


def _run_epoch(
    program: RealImagesProgram,
    state: TrainState,
    examples: Examples,
    order: np.ndarray,
    epoch_key: chex.PRNGKey,
    on_images: Callable[[int], None],
) -> tuple[TrainState, float]:
    """Trains on all batches of an epoch; also returns the mean of their losses.

    Args:
      program: what is compiled.
      state: before the epoch; it is donated.
      examples: the training images.
      order: indices of the images, int [steps, batch_size].
      epoch_key: every step folds its number into it.
      on_images: told the number of images of every batch.
    """
    losses, batch_size = [], order.shape[1]
    for step, (indices, pixels) in enumerate(batches(examples, batch_size, order.reshape(-1))):
        key = jax.random.fold_in(epoch_key, step)
        state, loss = _step(program, state, pixels, examples.labels[indices], key)
        losses.append(loss)  # stays on the device, so that the next step need not wait
        on_images(batch_size)
    return state, float(np.mean(jax.device_get(losses)))


def _streams(name: str) -> tuple[str, ...]:
    """Path of a training's random numbers; the first teacher has no name in it."""
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
