"""Stage 1, squeeze: train a teacher with BatchNorm on the real images, or import one."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delt_jax import models, supervised, teacher
from delt_jax.data import Source, measure_normalisation
from delt_jax.data.classes import positions_in_imagenet
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.progress import say
from delt_jax.recipe import Recipe
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir
from delt_jax.teacher import Teacher

ARTEFACT = "teacher"
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
        partial = workdir.partial(ARTEFACT, made_from)
        spec = spec_of(recipe, source)
        variables, accuracy = supervised.train(
            recipe, source, spec, partial, "squeeze", workdir.log
        )
        normalisation = measure_normalisation(recipe.data, source)
        made = Teacher(spec, variables, normalisation, source.class_names, accuracy)
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
    say(f"  {made.spec.name} teacher: {made.accuracy:.2%} of {len(source.test)} {source.scored}")


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
            f"The teacher of {weights} gets only {measured:.1%} of the {source.scored} right, "
            f"about as many as by chance: its classes are in another order, or data.mean, data.std "
            f"or data.image_size are not those it was trained with."
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
