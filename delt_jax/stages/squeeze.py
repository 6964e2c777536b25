"""Stage 1, squeeze: train teachers with BatchNorm on the real images, or import them."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from delt_jax import models
from delt_jax.core.progress import say
from delt_jax.data import Source, measure_normalisation
from delt_jax.data.classes import positions, wanted_classes
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.evaluation import failed_training
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import Recipe, affecting
from delt_jax.runtime import environment
from delt_jax.store import artefact, files
from delt_jax.store.identity import identity, versions
from delt_jax.store.local_copies import local
from delt_jax.store.workdir import WorkDir, changes
from delt_jax.teachers import ensemble, fine_tuning
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import real_images, state
from delt_jax.training.real_images import TrainingOutput

ARTEFACT = "teacher"
_OF_FINE_TUNING = ("teacher.fine_tune", "teacher.body_rate", "teacher.freeze_norm")
_OTHERS = "teacher.others"  # the one input that the first teacher does not depend on
_TIMES_CHANCE = 2.0  # an imported teacher below this many times chance is refused


def spec_of(recipe: Recipe, source: Source) -> ModelSpec:
    """Architecture of the teacher: that of the folder it is taken from, or as configured."""
    if recipe.teacher.fine_tune:
        return fine_tuning.spec_of(recipe, source)
    if recipe.teacher.weights and local(recipe.teacher.weights).is_dir():
        return teacher_lib.describe(local(recipe.teacher.weights)).spec
    return ModelSpec(
        recipe.teacher.model,
        len(source.class_names),
        source.image_size,
        source.channels,
        recipe.teacher.width,
    )


def check_weights(recipe: Recipe) -> None:
    """Raises a UserError unless `teacher.weights` can be a teacher's, by what needs no reading."""
    weights = recipe.teacher.weights
    if not weights and not recipe.data.has_training_images:
        raise UserError(
            f"data.name {recipe.data.name!r} has no images to train a teacher on; give one with "
            f"teacher.weights."
        )
    if not weights:
        return
    is_on_hub = weights.startswith(torch_files.HUB)
    if not is_on_hub and not torch_files.local_path(weights).exists():
        raise UserError(
            f"teacher.weights {weights} does not exist; name a teacher's folder, a file of "
            f"weights, pkg:package/path, or hf:owner/name."
        )
    if not local(weights).is_dir() and not recipe.data.mean:
        raise _without_constants(weights)


def _without_constants(weights: str) -> UserError:
    return UserError(
        f"{weights} does not say how its images were normalised; set data.mean and data.std "
        f"to what it was trained with."
    )


def check_readable(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Raises a UserError for imported weights that are damaged; those taken before are not read."""
    alone = [recipe, *ensemble.recipes(recipe).values()]
    for one, (folder, own) in zip(alone, parts(recipe, source).items(), strict=True):
        weights = one.teacher.weights
        if not weights or weights.startswith(torch_files.HUB) or is_made(workdir, folder, own):
            continue
        if one.teacher.fine_tune:
            fine_tuning.taken_over(one, source)
        elif local(weights).is_dir():
            teacher_lib.check_fits(teacher_lib.load(local(weights)), source)
        else:
            torch_files.read(weights)


def check_head_classes(recipe: Recipe, source: Source) -> None:
    """Raises a UserError unless `teacher.head_classes` fits the weights and the data's classes."""
    weights, classes = recipe.teacher.weights, recipe.teacher.head_classes
    if classes and local(weights).is_dir():
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
    """Raises a UserError unless each of `teacher.others` can be a teacher of the data."""
    first = recipe.teacher.weights
    hashes = [teacher_lib.describe(local(first)).hash] if first and local(first).is_dir() else []
    for name, alone in ensemble.recipes(recipe).items():
        try:
            folder = alone.teacher.weights
            check_weights(alone)
            if folder:
                described = teacher_lib.describe(local(folder))
                teacher_lib.check_fits(described, source)
                if described.hash in hashes:
                    raise UserError(f"{folder} is listed before; list it once.")
                hashes.append(described.hash)
            check_norm(spec_of(alone, source))
        except UserError as e:
            raise UserError(f"teacher.others cannot have {name}: {e}") from e


def check_norm(spec: ModelSpec) -> None:
    """Raises a UserError unless the architecture exists, takes the images and has BatchNorm."""
    if "batch_stats" not in teacher_lib.init_shapes(spec):
        raise UserError(
            f"The teacher's {spec.name} has no BatchNorm, whose statistics recovery matches; "
            f"choose a teacher that has it, such as vgg11_bn for vgg11."
        )


def skipped(recipe: Recipe) -> str:
    """Why there is no teacher, as a phrase; empty if something asks for one."""
    return "" if recipe.needs_teacher else "nothing asks for a teacher"


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the first teacher, and a digest of each other teacher's."""
    first, *more = parts(recipe, source).items()
    if not more:
        return first[1]
    return first[1] | {_OTHERS: [f"{Path(folder).name} {identity(own)}" for folder, own in more]}


def parts(recipe: Recipe, source: Source) -> dict[str, dict[str, Any]]:
    """Inputs of each teacher by its folder in the work directory, the first teacher first."""
    by_folder = {ARTEFACT: _own_inputs(recipe, source)}
    for name, alone in ensemble.recipes(recipe).items():
        named = {} if alone.teacher.weights else {"name": name}
        by_folder[f"{ensemble.FOLDER}/{name}"] = _own_inputs(alone, source) | named
    return by_folder


def is_made(workdir: WorkDir, folder: str, stage_inputs: dict[str, Any]) -> bool:
    """Whether a folder holds the teacher of these inputs, whichever others the run has."""
    manifest = workdir.manifest(f"{folder}/manifest.json")
    if manifest is None:
        return False
    own = {name: value for name, value in manifest["inputs"].items() if name != _OTHERS}
    return not changes(own, stage_inputs)


def missing(workdir: WorkDir) -> str | None:
    """Folder of a listed teacher that is missing or is another one; None if all are there."""
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
    if weights and not recipe.teacher.fine_tune and local(weights).is_dir():
        described = teacher_lib.describe(local(weights))
        return data | {"teacher.weights": described.hash} | _version_of(described.spec.name)
    if weights and not recipe.teacher.fine_tune:
        architecture: dict[str, Any] = {
            "teacher.model": recipe.teacher.model,
            "teacher.width": recipe.teacher.width,
        } | _version_of(recipe.teacher.model)
        if recipe.teacher.head_classes:
            architecture["teacher.head_classes"] = recipe.teacher.head_classes
        return data | constants | architecture | {"teacher.weights": _content(weights)}
    settings = affecting("teacher", recipe, "teacher")
    del settings["teacher.head_classes"]  # only weights that are imported have those
    del settings[_OTHERS]
    settings |= {"seed": recipe.seed, "data.flip": recipe.data.flip}
    made_by = versions({"training.teacher": state.VERSION})
    if not recipe.teacher.fine_tune:
        for name in _OF_FINE_TUNING:
            del settings[name]
        return data | constants | settings | made_by | _version_of(recipe.teacher.model)
    spec, normalisation = spec_of(recipe, source), fine_tuning.normalisation_of(recipe, source)
    constants = {"data.mean": normalisation.mean, "data.std": normalisation.std}
    settings |= {"teacher.weights": _content(weights), "teacher.model": spec.name}
    settings |= {"teacher.width": spec.width}
    return data | constants | settings | made_by | _version_of(spec.name)


def _content(weights: str) -> str:
    """Hash of what `teacher.weights` names; the name itself on the Hub, where nothing is read."""
    if weights.startswith(torch_files.HUB):
        return weights
    path = torch_files.local_path(weights)
    if path.is_dir():
        return teacher_lib.describe(path).hash
    return files.content_hash(path.read_bytes()) if path.is_file() else weights


def _version_of(model: str) -> dict[str, int | str]:
    return versions({f"model.{model}": models.version(model)})


class _TeacherToMake(NamedTuple):
    """One of a run's teachers that is to be made.

    Attributes:
      folder: where it goes, within the work directory.
      inputs: what it is made from; an unfinished training that was made from others starts again.
      name: selects its stream of random numbers; empty for the run's first teacher.
      manifest: entries of its manifest that do not come from the training.
    """

    folder: str
    inputs: dict[str, Any]
    name: str
    manifest: dict[str, Any]


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes the other teachers, then the first, whose manifest in WORKDIR/teacher lists them.

    Teachers that are there already, made from the same inputs, stay.
    """
    inputs_of = parts(recipe, source)
    listed: list[dict[str, Any]] = []
    more = ensemble.recipes(recipe)
    for number, (name, alone) in enumerate(more.items(), 1):
        folder = f"{ensemble.FOLDER}/{name}"
        say(f"  teacher {name}, {number} of {len(more)} others")
        own = inputs_of[folder]
        if not _is_whole(workdir, folder, own, source):
            with files.disk_errors_as_user_errors(workdir.path / ensemble.FOLDER):
                (workdir.path / ensemble.FOLDER).mkdir(exist_ok=True)
            _make(alone, source, workdir, _TeacherToMake(folder, own, name, {"inputs": own}))
        manifest = workdir.needed(f"{folder}/manifest.json", "squeeze")
        listed.append({"folder": folder} | {k: manifest[k] for k in ("hash", "accuracy")})
    entries: dict[str, Any] = {"inputs": inputs(recipe, source, workdir)}
    entries |= {"others": listed} if listed else {}
    if _is_whole(workdir, ARTEFACT, inputs_of[ARTEFACT], source):
        # The same first teacher, perhaps with other ones beside it.
        manifest = workdir.needed(f"{ARTEFACT}/manifest.json", "squeeze")
        manifest.pop("others", None)
        artefact.seal(workdir.path / ARTEFACT / "manifest.json", manifest | entries)
    else:
        first = _TeacherToMake(ARTEFACT, inputs_of[ARTEFACT], "", entries)
        _make(recipe, source, workdir, first)
    for unasked in (workdir.path / ensemble.FOLDER).glob("*.partial"):
        files.delete_folder(unasked)


def _is_whole(workdir: WorkDir, folder: str, stage_inputs: dict[str, Any], source: Source) -> bool:
    """Whether the teacher made from these inputs is there and can be read; says what is kept."""
    if not is_made(workdir, folder, stage_inputs):
        return False
    try:
        teacher = teacher_lib.load(workdir.path / folder)
    except UserError as e:
        fault = e.fault if isinstance(e, DamagedArtefact) else e
        say(f"  {folder} is made again: {fault}")
        return False
    say(f"  {folder} is kept: {teacher.spec.name}, {_accuracy_text(teacher, source)}")
    return True


def _make(recipe: Recipe, source: Source, workdir: WorkDir, target: _TeacherToMake) -> None:
    """Trains or imports the first teacher of a recipe, and writes its folder."""
    started = time.perf_counter()
    stage = f"squeeze/{target.name}" if target.name else "squeeze"
    if recipe.teacher.weights:
        say(f"  reading {recipe.teacher.weights}")
    if not recipe.teacher.weights or recipe.teacher.fine_tune:
        teacher = _trained(recipe, source, workdir, target, stage)
    elif local(recipe.teacher.weights).is_dir():
        teacher = _from_folder(local(recipe.teacher.weights), source)
    else:
        teacher = _from_torch(recipe, source)
    doubts = failed_training.of_teacher(teacher, source)
    if recipe.teacher.weights or recipe.data.mean:  # else they are measured on these data
        doubts += failed_training.of_constants(teacher.normalisation, source)
    manifest = {
        **target.manifest,
        "warnings": doubts,
        "repeatable": environment.repeats(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    with artefact.replacing(workdir.path / target.folder) as new:
        teacher_lib.save(new, teacher, manifest)
    files.delete_folder(workdir.path / f"{target.folder}.partial")
    scores = {} if teacher.accuracy is None else {"test_accuracy": teacher.accuracy}
    workdir.log.write(stage, recipe.teacher.epochs, **scores)
    say(f"  {teacher.spec.name} teacher: {_accuracy_text(teacher, source)}")
    failed_training.told(doubts)


def _accuracy_text(teacher: Teacher, source: Source) -> str:
    """A teacher's accuracy for a sentence, or that there are no images to measure it on."""
    if len(source.test):
        return f"{teacher.accuracy:.2%} of {len(source.test)} {source.scored}"
    before = "" if teacher.accuracy is None else f"; {teacher.accuracy:.2%} is recorded with it"
    return f"accuracy was not measured, as there are no test images{before}"


def _trained(
    recipe: Recipe, source: Source, workdir: WorkDir, target: _TeacherToMake, stage: str
) -> Teacher:
    """Trains a teacher on the real images, from where an interrupted run left it."""
    output = TrainingOutput(stage, workdir.partial(target.folder, target.inputs), workdir.log)
    spec, taken = spec_of(recipe, source), None
    if recipe.teacher.fine_tune:
        taken = fine_tuning.taken_over(recipe, source, say)
        recipe = fine_tuning.recipe_for(recipe, source)
    epochs = recipe.teacher.epochs
    say(f"  training {spec.name} on {len(source.train):,} images for {epochs} epochs")
    variables, accuracy = real_images.train(recipe, source, spec, output, target.name, taken)
    normalisation = measure_normalisation(recipe.data, source)
    return Teacher(spec, variables, normalisation, source.class_names, accuracy)


def _from_folder(folder: Path, source: Source) -> Teacher:
    """A finished teacher, measured here if that could not be done where it was made."""
    teacher = teacher_lib.load(folder)
    teacher_lib.check_against(teacher, source, say)
    return teacher if teacher.accuracy is not None else _measured(teacher, source, str(folder))


def _measured(teacher: Teacher, source: Source, weights: str) -> Teacher:
    """The teacher with its accuracy on the full test set, if there is one.

    Raises:
      UserError: if that is no better than chance.
    """
    if not len(source.test):
        return teacher
    measured = teacher_lib.accuracy(
        teacher.model, teacher.variables, teacher.normalisation, source.test
    )
    if measured < _TIMES_CHANCE / len(source.class_names):
        raise UserError(
            f"The teacher of {weights} gets only {measured:.1%} of the {source.scored} right, "
            f"about as many as by chance: its classes are in another order, or data.mean, data.std "
            f"or data.image_size are not those it was trained with."
        )
    return replace(teacher, accuracy=measured)


def _from_torch(recipe: Recipe, source: Source) -> Teacher:
    """A teacher from a file of weights under torch's names."""
    weights = recipe.teacher.weights
    if not recipe.data.mean:
        raise _without_constants(weights)
    spec = spec_of(recipe, source)
    normalisation = measure_normalisation(recipe.data, source)
    state = torch_files.read(weights, say)
    classes = recipe.teacher.head_classes or _rows(state, spec, source)
    variables = torch_weights.from_torch(state, spec, classes)
    teacher = Teacher(spec, variables, normalisation, source.class_names, None)
    return _measured(teacher, source, weights)


def _rows(state, spec: ModelSpec, source: Source) -> tuple[int, ...] | None:
    """Which outputs of a teacher of more classes are the data's; None for other teachers.

    These classes are those that the source knows of, or else ImageNet's.
    """
    known = source.all_classes or wanted_classes("imagenet")
    if torch_weights.outputs(state, spec.name) != len(known):
        return None
    rows = positions(source.class_names, known)
    if rows is None or rows == tuple(range(len(known))):
        return None
    say(f"  {len(rows)} of the teacher's {len(known)} outputs are kept: the data's classes")
    return rows
