"""Training on all real images with hard labels: teachers, and the ceiling of students."""

import functools
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import optax

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.core import checks, keys, stopping
from delt_jax.core import losses as losses_lib
from delt_jax.core.progress import progress, say
from delt_jax.data import Normalisation, Source, batches, measure_normalisation
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.store.log import MetricsLog
from delt_jax.teachers import fine_tuning
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
    recipe: Recipe,
    source: Source,
    spec: ModelSpec,
    output: TrainingOutput,
    name: str = "",
    taken: dict[tuple[str, ...], np.ndarray] | None = None,
) -> tuple[dict[str, Any], float]:
    """Trains a network as `recipe.teacher` says, from where its last checkpoint left it.

    Args:
      recipe: settings of the run.
      source: the real images.
      spec: architecture of the network.
      output: where it writes.
      name: selects its stream of random numbers. The run's first teacher has none, and the
        ceiling of students draws what that one draws.
      taken: what it begins with (see `fine_tuning.taken_over`); None to train from scratch.

    Returns:
      Variables as host arrays, and top-1 accuracy on the full test set, in [0, 1].

    Raises:
      UserError: if the training diverges.
    """
    settings, partial = recipe.teacher, output.partial
    batch_size = min(settings.batch_size, len(source.train))
    steps = len(source.train) // batch_size  # an incomplete last batch waits for the next shuffle
    program = _program(recipe, source, spec, settings.epochs * steps, taken is not None)
    key = keys.stream(recipe.seed, *_streams(name), "init")
    state, place = _resume(partial, _fresh(program, spec, key, taken))
    saver = _Saver(partial / _CHECKPOINT)
    total, done = settings.epochs * steps, place.epoch * steps + place.step
    with (
        progress(total * batch_size, output.stage, "image", done * batch_size) as bar,
        stopping.deferred(),  # the saver saves before it obeys
    ):
        for epoch in range(place.epoch, settings.epochs):
            order = epoch_order(recipe.seed, name, epoch, len(source.train), batch_size)
            epoch_key = keys.stream(recipe.seed, *_streams(name), epoch)
            losses = list(place.losses)
            rest = order[place.step :].reshape(-1)
            for indices, pixels in batches(source.train, batch_size, rest):
                key = jax.random.fold_in(epoch_key, len(losses))
                state, loss = _step(program, state, pixels, source.train.labels[indices], key)
                losses.append(loss)  # stays on the device, so that the next step need not wait
                bar.update(batch_size)
                saver.save_if_due(state, _Place(epoch, len(losses), losses))
            place = _Place(epoch + 1, 0, [])
            mean = float(np.mean(np.asarray(jax.device_get(losses), np.float32)))
            output.log.write(output.stage, epoch + 1, model=spec.name, train_loss=mean)
            bar.update(0, loss=mean)
            saver.save_if_due(state, place)
    variables = jax.tree.map(np.asarray, state.variables)
    checks.finite(variables, f"{spec.name}'s training diverged; lower teacher.learning_rate.")
    try:
        return variables, _accuracy(program, variables, source)
    except stopping.Stopped:
        saver.save(state, place)
        raise


def _accuracy(program: RealImagesProgram, variables: dict[str, Any], source: Source) -> float:
    model, normalisation = program.trainer.model, program.normalisation
    return teacher_lib.accuracy(model, variables, normalisation, source.test)


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


def _program(
    recipe: Recipe, source: Source, spec: ModelSpec, steps: int, tunes: bool
) -> RealImagesProgram:
    settings = recipe.teacher
    optimiser = state_lib.sgd(
        settings.schedule,
        settings.learning_rate,
        steps,
        settings.momentum,
        settings.weight_decay,
    )
    if tunes:
        optimiser = optax.chain(optimiser, fine_tuning.slower_body(spec, settings.body_rate))
    return RealImagesProgram(
        Trainer(models.create(spec), optimiser, freeze_norm=tunes and settings.freeze_norm),
        measure_normalisation(recipe.data, source),
        settings.crop_padding,
        recipe.data.flip,
    )


def _fresh(
    program: RealImagesProgram,
    spec: ModelSpec,
    key: chex.PRNGKey,
    taken: dict[tuple[str, ...], np.ndarray] | None,
) -> TrainState:
    """The state before the first step, with what is taken over in its place."""
    shape = (spec.image_size, spec.image_size, spec.channels)
    state = state_lib.init_state(program.trainer.model, program.trainer.optimiser, key, shape)
    if taken is None:
        return state
    return state.replace(**fine_tuning.begin(state.variables, taken))


def _streams(name: str) -> tuple[str, ...]:
    """Path of a training's random numbers; the first teacher has no name in it."""
    return ("squeeze", name) if name else ("squeeze",)


class _Place(NamedTuple):
    """How far a training has come.

    Attributes:
      epoch: the one that comes next, or is under way.
      step: of that epoch, which comes next.
      losses: of the epoch's steps so far, floats or arrays on the device.
    """

    epoch: int
    step: int
    losses: Sequence[Any]


class _Saver:
    """Saves a training every so often, and before it obeys a signal."""

    def __init__(self, path: Path):
        """Counts the time from now on."""
        self._path, self._saved = path, time.monotonic()

    def save_if_due(self, state: TrainState, place: _Place) -> None:
        """Saves when it is time or a signal has come, which is then obeyed."""
        due = time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS
        if due or stopping.requested():
            self.save(state, place)
            stopping.leave()

    def save(self, state: TrainState, place: _Place) -> None:
        """Saves now."""
        losses = [float(loss) for loss in jax.device_get(list(place.losses))]
        checkpoint.save(self._path, state, epoch=place.epoch, step=place.step, losses=losses)
        self._saved = time.monotonic()


def _resume(partial: Path, state: TrainState) -> tuple[TrainState, _Place]:
    """The state and place of the checkpoint; the given state and 0 where none can be used."""
    try:
        restored, scalars = checkpoint.restore(partial / _CHECKPOINT, state)
    except FileNotFoundError:
        return state, _Place(0, 0, [])
    except CorruptCheckpoint as e:
        say(f"  {e.path} is damaged ({e.reason}); its training starts anew")
        return state, _Place(0, 0, [])
    epoch, step = scalars["epoch"], scalars.get("step", 0)
    within = f" and {step} steps" if step else ""
    say(f"  training goes on after epoch {epoch}{within}")
    return restored, _Place(epoch, step, scalars.get("losses", []))
