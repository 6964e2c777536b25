"""The teacher: a trained classifier, its files, its answers, and whether it fits the data."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax import models
from delt_jax.data import Examples, Normalisation, Source, batches
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.models import ModelSpec, tap, torch_files, torch_weights
from delt_jax.recipe import units
from delt_jax.store import artefact
from delt_jax.store.checkpoint import tree_hash as variables_hash
from delt_jax.store.schema import mismatch
from delt_jax.teachers.prediction import BATCH, in_batches, predict

WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
_SAMPLE = 1000  # test images on which a teacher is checked against the data
_SLACK = 0.02  # by which accuracy on the sample may be lower, beyond its sampling error
_BETTER_THAN_CHANCE = 1.5  # times chance, from which on a teacher's answers mean something
_SEEN_OFTEN = 5  # images of a class, from which on its most frequent answer means something


@dataclass(frozen=True)
class Teacher:
    """A trained network and everything that its use takes.

    Attributes:
      spec: architecture.
      variables: {"params", "batch_stats"}, host arrays; empty where only `describe` was asked.
      normalisation: of its inputs.
      class_names: in the order of its outputs.
      accuracy: top-1 accuracy on the full test set of the data that it was made with, in [0, 1];
        None where these had no test images.
      hash: content hash of the variables; empty until the teacher is saved.
    """

    spec: ModelSpec
    variables: dict[str, Any]
    normalisation: Normalisation
    class_names: tuple[str, ...]
    accuracy: float | None
    hash: str = ""

    @property
    def model(self) -> nn.Module:
        """The Flax module."""
        return models.create(self.spec)


def logits_of(teacher: Teacher, pixels: np.ndarray) -> np.ndarray:
    """Teacher logits float32 [N, classes] of pixels uint8 [N, S, S, C]."""
    return predict(teacher.model, teacher.variables, teacher.normalisation, in_batches(pixels))[0]


def features_of(teacher: Teacher, pixels: np.ndarray) -> np.ndarray:
    """Teacher features float32 [N, D] of pixels: the inputs of its last layer."""
    return predict(teacher.model, teacher.variables, teacher.normalisation, in_batches(pixels))[1]


def accuracy(
    model: nn.Module, variables: dict[str, Any], normalisation: Normalisation, examples: Examples
) -> float:
    """Top-1 accuracy in [0, 1] over all examples."""
    logits = logits_of_examples(model, variables, normalisation, examples)
    return float((logits.argmax(-1) == examples.labels).mean())


def logits_of_examples(
    model: nn.Module,
    variables: dict[str, Any],
    normalisation: Normalisation,
    examples: Examples,
    indices: np.ndarray | None = None,
) -> np.ndarray:
    """Logits float32 [N, classes] of all examples, or of some."""
    chosen = np.arange(len(examples)) if indices is None else indices
    images = (pixels for _, pixels in batches(examples, BATCH, chosen))
    return predict(model, variables, normalisation, images)[0]


def features_of_examples(teacher: Teacher, examples: Examples, indices: np.ndarray) -> np.ndarray:
    """Teacher features float32 [len(indices), D] of some examples."""
    images = (pixels for _, pixels in batches(examples, BATCH, indices))
    return predict(teacher.model, teacher.variables, teacher.normalisation, images)[1]


def check_against(teacher: Teacher, source: Source, say: Callable[[str], None]) -> None:
    """Checks that the teacher's classes are the data's, in the same order.

    Names alone do not show that: folders or labels may be in another order than their names say.
    So the accuracy on a sample of test images is compared with the recorded one, too, if there are
    both.

    Raises:
      UserError: naming the classes that differ, or both accuracies.
    """
    check_fits(teacher, source)
    if not len(source.test):
        return
    count = min(_SAMPLE, len(source.test))
    indices = np.sort(np.random.default_rng(0).permutation(len(source.test))[:count])
    labels = source.test.labels[indices]
    logits = logits_of_examples(
        teacher.model, teacher.variables, teacher.normalisation, source.test, indices
    )
    answers = logits.argmax(-1)
    check_classes(teacher, answers, labels)
    hits = answers == labels
    measured, recorded = float(hits.mean()), teacher.accuracy
    if recorded is None:
        say(f"  teacher checked: {measured:.1%} on {count} {source.scored} (none recorded)")
        return
    error = 4 * np.sqrt(max(recorded * (1 - recorded), 0.01) / count)
    if measured < recorded - error - _SLACK:
        worst = [
            teacher.class_names[c]
            for c in np.unique(labels)
            if hits[labels == c].mean() < recorded / 2
        ]
        raise UserError(
            f"The teacher scored {recorded:.1%} when it was made but {measured:.1%} on {count} "
            f"{source.scored} of these data (worst: {', '.join(worst[:5]) or 'all alike'}); its "
            f"classes are in another order or its data were others: use a teacher of these data."
        )
    say(f"  teacher checked: {measured:.1%} on {count} {source.scored} ({recorded:.1%} recorded)")


def check_fits(teacher: Teacher, source: Source) -> None:
    """Raises a UserError unless the data have the classes and image size that the teacher takes."""
    check_class_names("The teacher", teacher.class_names, source)
    if (teacher.spec.image_size, teacher.spec.channels) != (source.image_size, source.channels):
        raise UserError(
            f"The teacher takes {teacher.spec.image_size} px images of {teacher.spec.channels} "
            f"channels, but the data are {source.image_size} px of {source.channels}; set "
            f"data.image_size and data.channels to the teacher's."
        )


def check_classes(teacher: Teacher, answers: np.ndarray, labels: np.ndarray) -> None:
    """Checks by the teacher's answers that no classes have changed places.

    If classes were swapped, or moved round in a ring, the teacher takes most images of each for
    another of them. Honest mistakes of a teacher that is better than chance do not look so.

    Args:
      teacher: gave the answers.
      answers: int [N], the most probable class of each image.
      labels: int [N], the classes according to the data.

    Raises:
      UserError: naming the classes.
    """
    scored = float((answers == labels).mean()) if teacher.accuracy is None else teacher.accuracy
    if scored < _BETTER_THAN_CHANCE / len(teacher.class_names):
        return
    taken_for = {}
    for c in np.unique(labels):
        counts = np.bincount(answers[labels == c], minlength=len(teacher.class_names))
        favourite = int(counts.argmax())
        if favourite != c and counts[favourite] * 2 > counts.sum() >= _SEEN_OFTEN:
            taken_for[int(c)] = favourite
    moved = {a: b for a, b in taken_for.items() if b in taken_for and a in taken_for.values()}
    if moved:
        pairs = [
            f"{teacher.class_names[a]!r} looks like {teacher.class_names[b]!r}"
            for a, b in moved.items()
        ]
        raise UserError(
            f"{len(moved)} classes of the data are not those that the teacher knows by their names "
            f"({'; '.join(pairs[:5])}{'; ...' if len(pairs) > 5 else ''}): folders, labels or the "
            f"teacher's classes are in another order; put them back or train a teacher of the data."
        )


def check_class_names(what: str, names: tuple[str, ...], source: Source) -> None:
    """Raises a UserError naming the differing classes unless `names` are the data's."""
    if names == source.class_names:
        return
    if len(names) != len(source.class_names):
        raise UserError(
            f"{what} has {len(names)} classes and the data have {len(source.class_names)}; use "
            f"one made from these data."
        )
    differ = [
        f"{i}: {a!r} against {b!r}"
        for i, (a, b) in enumerate(zip(names, source.class_names, strict=True))
        if a != b
    ]
    raise UserError(
        f"{what} and the data disagree on {len(differ)} classes ({'; '.join(differ[:5])}"
        f"{'; ...' if len(differ) > 5 else ''}); put the classes in the same order."
    )


def save(folder: Path, teacher: Teacher, manifest: dict[str, Any]) -> None:
    """Writes a teacher into an empty folder: weights under torch's names, and a manifest."""
    torch_files.write(folder / WEIGHTS, torch_weights.to_torch(teacher.variables, teacher.spec))
    described = {
        **manifest,
        "spec": teacher.spec.as_dict(),
        "normalisation": teacher.normalisation.as_dict(),
        "class_names": teacher.class_names,
        "accuracy": teacher.accuracy,
        "hash": variables_hash(teacher.variables),
    }
    artefact.seal(folder / MANIFEST, described)


def describe(folder: Path) -> Teacher:
    """A saved teacher without its variables.

    Raises:
      UserError: if the folder is not a teacher's.
      DamagedArtefact: if its manifest was changed since it was written.
    """
    return _described(read_manifest(folder), folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a saved teacher.

    Raises:
      UserError: if it is no teacher's.
      DamagedArtefact: if it is missing, or was changed since it was written.
    """
    path = folder / MANIFEST
    try:
        manifest = artefact.read_unchecked(path)
    except FileNotFoundError as e:
        raise DamagedArtefact(path, f"{path} is missing") from e
    _described(manifest, folder)
    artefact.check_seal(path, manifest)
    return manifest


def _described(manifest: Any, folder: Path) -> Teacher:
    wrong = mismatch(manifest, artefact.TEACHER)
    try:
        if wrong:
            raise ValueError(wrong)
        mean, std = (tuple(map(float, manifest["normalisation"][k])) for k in ("mean", "std"))
        if problem := units.problem(mean, std):
            raise UserError(f"{folder}/manifest.json: {problem}.")
        return Teacher(
            spec=ModelSpec(**manifest["spec"]),
            variables={},
            normalisation=Normalisation(mean, std),
            class_names=tuple(manifest["class_names"]),
            accuracy=None if manifest["accuracy"] is None else float(manifest["accuracy"]),
            hash=manifest["hash"],
        )
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{folder}/manifest.json is not a teacher's: {e}.") from e


def load(folder: Path) -> Teacher:
    """Reads what `save` wrote.

    Raises:
      UserError: if the folder is no teacher's.
      DamagedArtefact: if a file is missing or damaged, or the weights are not the manifest's.
    """
    described = describe(folder)
    path = folder / WEIGHTS
    try:
        variables = torch_weights.from_torch(torch_files.read(path), described.spec)
    except UserError as e:
        raise DamagedArtefact(path, str(e).rstrip(".")) from e
    if variables_hash(variables) != described.hash:
        fault = f"The weights in {folder} are not those its manifest describes"
        raise DamagedArtefact(path, fault)
    artefact.check_file(folder, WEIGHTS, read_manifest(folder))
    return replace(described, variables=variables)


def load_others(folder: Path) -> tuple[Teacher, ...]:
    """The run's other teachers, in the order in which the first one's manifest lists them.

    Args:
      folder: folder of the first teacher, WORKDIR/teacher.

    Returns:
      The teachers; an empty tuple where none is listed.

    Raises:
      DamagedArtefact: if one is missing or damaged, or is not the listed one.
    """
    loaded = []
    for entry in read_manifest(folder).get("others", ()):
        other = folder.parent / entry["folder"]
        loaded.append(load(other))
        if loaded[-1].hash != entry["hash"]:
            fault = f"The teacher in {other} is not the one that {folder}/manifest.json lists"
            raise DamagedArtefact(other / MANIFEST, fault, "squeeze")
    return tuple(loaded)


def manifests_of_others(folder: Path) -> list[dict[str, Any]]:
    """Manifests of the run's other teachers, those that are there; see `load_others`."""
    found = []
    for entry in read_manifest(folder).get("others", ()):
        try:
            found.append(read_manifest(folder.parent / entry["folder"]))
        except UserError:  # the squeeze stage makes it again
            continue
    return found


def parts(manifests: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Versions of the architectures of saved teachers, by the name of the part."""
    names = (manifest.get("spec", {}).get("name") for manifest in manifests)
    return {f"model.{name}": models.version(name) for name in names if name}


@functools.lru_cache(maxsize=64)
def init_shapes(spec: ModelSpec) -> dict[str, Any]:
    """Shapes of a model's variables, as `jax.ShapeDtypeStruct`; nothing is computed."""
    model = models.create(spec)
    image = jnp.zeros((2, spec.image_size, spec.image_size, spec.channels))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    return {k: shapes[k] for k in ("params", "batch_stats") if k in shapes}


@functools.lru_cache(maxsize=64)
def convolves_images(spec: ModelSpec) -> bool:
    """Whether a model has convolutions, and all of them are of images [B, h, w, c]."""
    ranks: list[int] = []

    def note(module: nn.Module, x: Any) -> None:
        if isinstance(module, nn.Conv):
            ranks.append(x.ndim)

    model = models.create(spec)
    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, spec.channels), jnp.float32)
    jax.eval_shape(
        lambda variables, x: tap.logits_and_features(model, variables, x, note),
        init_shapes(spec),
        image,
    )
    return bool(ranks) and set(ranks) == {4}
