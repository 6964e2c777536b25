"""Stage 1, squeeze: train a teacher with BatchNorm on the real images, or import one."""

import functools
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from delt_jax import checks, keys, models, objective, teacher, training
from delt_jax.augment import crop
from delt_jax.data import Normalisation, Source, batches, measure_normalisation
from delt_jax.data.classes import positions_in_imagenet
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.progress import Progress, progress, say
from delt_jax.recipe import Recipe, TeacherRecipe
from delt_jax.store import checkpoint, files
from delt_jax.store.workdir import WorkDir
from delt_jax.teacher import Teacher

ARTEFACT = "teacher"
_SECONDS_BETWEEN_CHECKPOINTS = 60
_IMAGENET = 1000  # classes
_TIMES_CHANCE = 2.0  # an imported teacher below this many times chance is refused


def spec_of(recipe: Recipe, source: Source) -> ModelSpec:
    """Architecture of the teacher: that of the folder it is taken from, or as configured."""
    if recipe.teacher.weights and Path(recipe.teacher.weights).is_dir():
        return teacher.describe(Path(recipe.teacher.weights)).spec
    return ModelSpec(
        recipe.teacher.model,
        len(source.class_names),
        source.image_size,
        source.channels,
        recipe.teacher.width,
    )


def check_head_classes(recipe: Recipe, source: Source) -> None:
    """Raises a UserError unless teacher.head_classes can be what the data's classes are."""
    weights, classes = recipe.teacher.weights, recipe.teacher.head_classes
    if classes and Path(weights).is_dir():
        raise UserError(
            f"teacher.head_classes picks outputs of a file of weights, but teacher.weights "
            f"{weights} is a folder, which names its classes; leave head_classes empty."
        )
    if classes and len(classes) != len(source.class_names):
        raise UserError(
            f"teacher.head_classes lists {len(classes)} outputs, but the data have "
            f"{len(source.class_names)} classes; list one for each, in their order."
        )


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """What the teacher is made from."""
    made_from = {"data": source.fingerprint, "class_names": source.class_names}
    constants = {"data.mean": recipe.data.mean, "data.std": recipe.data.std}
    weights = recipe.teacher.weights
    if weights and Path(weights).is_dir():
        return made_from | {"teacher.weights": teacher.describe(Path(weights)).hash}
    if weights:
        architecture: dict[str, Any] = {
            "teacher.model": recipe.teacher.model,
            "teacher.width": recipe.teacher.width,
        }
        if recipe.teacher.head_classes:
            architecture["teacher.head_classes"] = recipe.teacher.head_classes
        file = Path(weights)
        content = files.content_hash(file.read_bytes()) if file.is_file() else weights
        return made_from | constants | architecture | {"teacher.weights": content}
    settings = {f"teacher.{k}": v for k, v in asdict(recipe.teacher).items()}
    del settings["teacher.head_classes"]  # only weights that are imported have those
    return (
        made_from
        | constants
        | settings
        | {
            "seed": recipe.seed,
            "data.flip": recipe.data.flip,
        }
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/teacher."""
    started = time.perf_counter()
    made_from = inputs(recipe, source, workdir)
    if not recipe.teacher.weights:
        made = _train(recipe, source, workdir, made_from)
    elif Path(recipe.teacher.weights).is_dir():
        made = teacher.load(Path(recipe.teacher.weights))
        teacher.check_against(made, source, say)
    else:
        made = _from_torch(recipe, source)
    manifest = {"inputs": made_from, "seconds": round(time.perf_counter() - started, 1)}
    with files.replacing_folder(workdir.path / ARTEFACT) as folder:
        teacher.save(folder, made, manifest)
    shutil.rmtree(workdir.path / f"{ARTEFACT}.partial", ignore_errors=True)
    workdir.log.write("squeeze", recipe.teacher.epochs, test_accuracy=made.accuracy)
    say(f"  {made.spec.name} teacher: {made.accuracy:.2%} of {len(source.test)} test images")


def _from_torch(recipe: Recipe, source: Source) -> Teacher:
    """A teacher from a file of torch-named weights, measured on the full test set."""
    weights = recipe.teacher.weights
    if not recipe.data.mean:
        raise UserError(
            f"{weights} does not say how its images were normalised; set data.mean and data.std "
            f"to what it was trained with."
        )
    spec = spec_of(recipe, source)
    normalisation = measure_normalisation(recipe.data, source)
    state = torch_files.read(weights)
    classes = recipe.teacher.head_classes or _imagenet_rows(state, spec, source)
    variables = torch_weights.from_torch(state, spec, classes)
    measured = teacher.accuracy(models.create(spec), variables, normalisation, source.test)
    if measured < _TIMES_CHANCE / len(source.class_names):
        raise UserError(
            f"The teacher of {weights} gets only {measured:.1%} of the test images right, about "
            f"as many as by chance: its classes are in another order, or data.mean, data.std or "
            f"data.image_size are not those it was trained with."
        )
    return Teacher(spec, variables, normalisation, source.class_names, measured)


def _imagenet_rows(state, spec: ModelSpec, source: Source) -> tuple[int, ...] | None:
    """Outputs of a teacher of all ImageNet that are the data's classes; None for other teachers."""
    if torch_weights.outputs(state, spec.name) != _IMAGENET != spec.num_classes:
        return None
    rows = positions_in_imagenet(source.class_names)
    if rows is not None:
        say(f"  {len(rows)} of the teacher's {_IMAGENET} outputs are kept: the data's wnids")
    return rows


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


def _train(recipe: Recipe, source: Source, workdir: WorkDir, made_from: dict) -> Teacher:
    spec = spec_of(recipe, source)
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
        keys.stream(recipe.seed, "squeeze", "init"),
        (spec.image_size, spec.image_size, spec.channels),
    )
    partial = workdir.partial(ARTEFACT, made_from)
    state, first_epoch = _resume(partial, state)
    saved = time.monotonic()
    per_epoch = steps * batch
    with progress(
        settings.epochs * per_epoch, "squeeze", "image", first_epoch * per_epoch
    ) as shown:
        for epoch in range(first_epoch, settings.epochs):
            state, loss = _epoch(
                recipe, source, model, optimiser, normalisation, state, epoch, batch, shown
            )
            workdir.log.write("squeeze", epoch + 1, train_loss=loss)
            shown.update(0, loss=loss)
            if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                _keep(partial, state, epoch + 1)
                saved = time.monotonic()
    variables = jax.tree.map(np.asarray, state.variables)
    checks.finite(variables, "The teacher's training diverged; lower teacher.learning_rate.")
    measured = teacher.accuracy(model, variables, normalisation, source.test)
    return Teacher(spec, variables, normalisation, source.class_names, measured)


def _epoch(
    recipe: Recipe,
    source: Source,
    model: nn.Module,
    optimiser,
    normalisation: Normalisation,
    state,
    epoch: int,
    batch: int,
    shown: Progress,
):
    settings: TeacherRecipe = recipe.teacher
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(source.train))
    epoch_key = keys.stream(recipe.seed, "squeeze", epoch)
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
        shown.update(batch)
    return state, float(np.mean(jax.device_get(losses)))


def _keep(partial: Path, state, epoch: int) -> None:
    checkpoint.save(partial / f"epoch_{epoch:05}", state)
    for older in partial.glob("epoch_*"):
        if older.name != f"epoch_{epoch:05}":
            shutil.rmtree(older, ignore_errors=True)


def _resume(partial: Path, state):
    kept = sorted(p for p in partial.glob("epoch_*") if p.name[6:].isdigit())
    if not kept:
        return state, 0
    epoch = int(kept[-1].name[6:])
    say(f"  squeeze goes on after epoch {epoch}")
    return checkpoint.restore(kept[-1], state), epoch
