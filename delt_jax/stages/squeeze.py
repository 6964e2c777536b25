"""Stage 1, squeeze: train teachers with BatchNorm on the real images, or import them."""

import shutil
import time
from pathlib import Path
from typing import Any

from delt_jax import models
from delt_jax.core.progress import say
from delt_jax.data import Source, measure_normalisation
from delt_jax.data.classes import positions_in_imagenet
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import Recipe, affecting
from delt_jax.store import files
from delt_jax.store.identity import identity, versions
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import ensemble as others
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import real_images as supervised

ARTEFACT = "teacher"
_OTHERS = "teacher.others"  # the one input that the first teacher does not depend on
_IMAGENET = 1000  # classes
_TIMES_CHANCE = 2.0  # an imported teacher below this many times chance is refused


def spec_of(recipe: Recipe, source: Source) -> ModelSpec:
    """Architecture of the teacher: that of the folder it is taken from, or as configured."""
    if recipe.teacher.weights and Path(recipe.teacher.weights).is_dir():
        return teacher_lib.describe(Path(recipe.teacher.weights)).spec
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


def check_others(recipe: Recipe, source: Source) -> None:
    """Raises a UserError unless every one of teacher.others can be a teacher of the data."""
    first = recipe.teacher.weights
    hashes = [teacher_lib.describe(Path(first)).hash] if first and Path(first).is_dir() else []
    for name, alone in others.recipes(recipe).items():
        try:
            folder = alone.teacher.weights
            if folder:
                described = teacher_lib.describe(Path(folder))
                teacher_lib.check_fits(described, source)
                if described.hash in hashes:
                    raise UserError(f"{folder} is listed before; list it once.")
                hashes.append(described.hash)
            check_norm(spec_of(alone, source))
        except UserError as e:
            raise UserError(f"teacher.others cannot have {name}: {e}") from e


def check_norm(spec: ModelSpec) -> None:
    """Raises a UserError unless the architecture is there, takes the images and has BatchNorm."""
    if "batch_stats" not in teacher_lib.init_shapes(spec):
        raise UserError(
            f"The teacher's {spec.name} has no BatchNorm, whose statistics recovery matches; "
            f"choose a teacher that has it, such as vgg11_bn for vgg11."
        )


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the first teacher, and a digest of each other teacher's."""
    first, *more = parts(recipe, source).items()
    if not more:
        return first[1]
    return first[1] | {_OTHERS: [f"{Path(folder).name} {identity(own)}" for folder, own in more]}


def parts(recipe: Recipe, source: Source) -> dict[str, dict[str, Any]]:
    """Inputs of each teacher by its folder in the work directory, the first teacher first."""
    by_folder = {ARTEFACT: _own_inputs(recipe, source)}
    for name, alone in others.recipes(recipe).items():
        named = {} if alone.teacher.weights else {"name": name}
        by_folder[f"{others.FOLDER}/{name}"] = _own_inputs(alone, source) | named
    return by_folder


def is_made(workdir: WorkDir, folder: str, stage_inputs: dict[str, Any]) -> bool:
    """Whether a folder holds the teacher of these inputs, whichever others the run has."""
    manifest = workdir.manifest(f"{folder}/manifest.json")
    if manifest is None:
        return False
    own = {name: value for name, value in manifest["inputs"].items() if name != _OTHERS}
    return not changes(own, stage_inputs)


def missing(workdir: WorkDir) -> str | None:
    """Folder of a teacher that the first one's manifest lists and that is not there."""
    for entry in (workdir.manifest(f"{ARTEFACT}/manifest.json") or {}).get("others", ()):
        held = workdir.manifest(f"{entry['folder']}/manifest.json")
        if held is None or held.get("hash") != entry["hash"]:
            return entry["folder"]
    return None


def _own_inputs(recipe: Recipe, source: Source) -> dict[str, Any]:
    """Inputs of the recipe's first teacher."""
    data = {"data": source.fingerprint, "class_names": source.class_names}
    constants = {"data.mean": recipe.data.mean, "data.std": recipe.data.std}
    weights = recipe.teacher.weights
    if weights and Path(weights).is_dir():
        return data | {"teacher.weights": teacher_lib.describe(Path(weights)).hash}
    if weights:
        architecture: dict[str, Any] = {
            "teacher.model": recipe.teacher.model,
            "teacher.width": recipe.teacher.width,
        } | _version_of(recipe.teacher.model)
        if recipe.teacher.head_classes:
            architecture["teacher.head_classes"] = recipe.teacher.head_classes
        file = Path(weights)
        content = files.content_hash(file.read_bytes()) if file.is_file() else weights
        return data | constants | architecture | {"teacher.weights": content}
    settings = affecting("teacher", recipe, "teacher")
    del settings["teacher.head_classes"]  # only weights that are imported have those
    del settings[_OTHERS]
    settings |= {"seed": recipe.seed, "data.flip": recipe.data.flip}
    return data | constants | settings | _version_of(recipe.teacher.model)


def _version_of(model: str) -> dict[str, int]:
    return versions({f"model.{model}": models.version(model)})


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes the others in WORKDIR/teachers, then WORKDIR/teacher, whose manifest lists them.

    What is there and made from the same stays.
    """
    made_from = parts(recipe, source)
    listed: list[dict[str, Any]] = []
    more = others.recipes(recipe)
    for number, (name, alone) in enumerate(more.items(), 1):
        folder = f"{others.FOLDER}/{name}"
        say(f"  teacher {name}, {number} of {len(more)} others")
        if not _is_whole(workdir, folder, made_from[folder]):
            with files.disk_errors_as_user_errors(workdir.path / others.FOLDER):
                (workdir.path / others.FOLDER).mkdir(exist_ok=True)
            of_it = made_from[folder]
            _make(alone, source, workdir, folder, of_it, {"inputs": of_it}, name)
        manifest = workdir.needed(f"{folder}/manifest.json", "squeeze")
        listed.append({"folder": folder} | {k: manifest[k] for k in ("hash", "accuracy")})
    about: dict[str, Any] = {"inputs": inputs(recipe, source, workdir)}
    about |= {"others": listed} if listed else {}
    if _is_whole(workdir, ARTEFACT, made_from[ARTEFACT]):
        held = workdir.needed(f"{ARTEFACT}/manifest.json", "squeeze")
        held.pop("others", None)
        files.write_json(workdir.path / ARTEFACT / "manifest.json", held | about)
    else:
        _make(recipe, source, workdir, ARTEFACT, made_from[ARTEFACT], about)
    for unasked in (workdir.path / others.FOLDER).glob("*.partial"):
        shutil.rmtree(unasked, ignore_errors=True)


def _is_whole(workdir: WorkDir, folder: str, made_from: dict[str, Any]) -> bool:
    """Whether a teacher made from this is there and can be read."""
    if not is_made(workdir, folder, made_from):
        return False
    try:
        kept = teacher_lib.load(workdir.path / folder)
    except UserError as e:
        say(f"  {folder} is made again: {e}")
        return False
    say(f"  {folder} is kept: {kept.spec.name} with {kept.accuracy:.2%}")
    return True


def _make(
    recipe: Recipe,
    source: Source,
    workdir: WorkDir,
    folder: str,
    made_from: dict[str, Any],
    about: dict[str, Any],
    name: str = "",
) -> None:
    """Makes a recipe's first teacher.

    Args:
      recipe, source, workdir: of the run.
      folder: in the work directory.
      made_from: what its unfinished training depends on.
      about: begins its manifest.
      name: of its random numbers; empty for the run's first teacher.
    """
    started = time.perf_counter()
    stage = f"squeeze/{name}" if name else "squeeze"
    if not recipe.teacher.weights:
        partial = workdir.partial(folder, made_from)
        spec = spec_of(recipe, source)
        variables, accuracy = supervised.train(
            recipe, source, spec, partial, stage, workdir.log, name
        )
        normalisation = measure_normalisation(recipe.data, source)
        made = Teacher(spec, variables, normalisation, source.class_names, accuracy)
    elif Path(recipe.teacher.weights).is_dir():
        made = teacher_lib.load(Path(recipe.teacher.weights))
        teacher_lib.check_against(made, source, say)
    else:
        made = _from_torch(recipe, source)
    manifest = {**about, "seconds": round(time.perf_counter() - started, 1)}
    with files.replacing_folder(workdir.path / folder) as new:
        teacher_lib.save(new, made, manifest)
    shutil.rmtree(workdir.path / f"{folder}.partial", ignore_errors=True)
    workdir.log.write(stage, recipe.teacher.epochs, test_accuracy=made.accuracy)
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
    measured = teacher_lib.accuracy(models.create(spec), variables, normalisation, source.test)
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
