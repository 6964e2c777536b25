"""The images that recovery starts from."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.core import plugins
from delt_jax.core.progress import progress, say
from delt_jax.data import Normalisation, Source, class_pictures, files_of
from delt_jax.data.class_pictures import ClassPictures
from delt_jax.data.names import Names
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.recipe import Recipe
from delt_jax.recovery import earlier_sets, mosaics, selection
from delt_jax.recovery.mosaics import Patches
from delt_jax.recovery.selection import Ranking, select
from delt_jax.recovery.starts import (
    GIVEN,
    PATCHES,
    GivenPixels,
    Mosaics,
    Noise,
    OwnPictures,
    RealImages,
    StartKind,
    Starts,
)
from delt_jax.store import files, remote
from delt_jax.teachers.teacher import Teacher


def prepare(
    recipe: Recipe, source: Source, teacher: Teacher, ranking: Ranking | None, partial: Path
) -> Starts:
    """Finds the start images that `recipe.select` asks for.

    Args:
      recipe: of the run.
      source: of the real images.
      teacher: scores crops; its normalisation is the images'.
      ranking: of the training images by that teacher; None where `reads_training_images` is false.
      partial: folder of the unfinished recovery, which keeps what takes long to find.
    """
    start = recipe.select.start
    if start in _KINDS:
        return _KINDS[start].prepare(recipe, source, teacher, ranking, partial)
    return _plugged(recipe, source, teacher, ranking, partial)


def _kind(name: str) -> StartKind:
    """The kind of start images of a name, our own or a plug-in.

    Raises:
      UserError: if there is none.
    """
    found = plugins.find(plugins.STARTS, name, _KINDS)
    what = "a delt_jax.recovery.starts.StartKind"
    return plugins.checked(plugins.STARTS, name, found, StartKind, what)


def _plugged(recipe, source, teacher, ranking, partial) -> Starts:
    """Start images of a plug-in; pixels are kept, so that a resumed recovery has the same."""
    name, path = recipe.select.start, partial / GIVEN
    if path.exists():
        try:
            stored = files.read_npz(path, "recover")
            return GivenPixels(stored["images"], teacher.normalisation, float(stored["seconds"]))
        except (DamagedArtefact, KeyError):
            pass  # made again
    started = time.perf_counter()
    prepare = _kind(name).prepare
    found = plugins.call(plugins.STARTS, name, prepare, recipe, source, teacher, ranking, partial)
    if not isinstance(found, np.ndarray):
        return found
    shape = (source.image_size, source.image_size, source.channels)
    whole = (len(source.class_names), recipe.ipc, *shape)
    if (found.dtype, found.shape) != (np.uint8, whole):
        raise UserError(
            f"The start {name!r} must give images uint8 {list(whole)}, [classes, ipc, S, S, C]; it "
            f"gave {found.dtype} {list(found.shape)}."
        )
    seconds, pixels = time.perf_counter() - started, found.reshape(-1, *shape)
    files.write_npz(path, images=pixels, seconds=seconds)
    return GivenPixels(pixels, teacher.normalisation, seconds)


def _real(recipe, source, teacher, ranking, partial) -> Starts:
    classes = len(source.class_names)
    selected = select(ranking, recipe.select.rule, recipe.ipc, classes, recipe.seed)
    return RealImages(source, teacher.normalisation, selected, recipe.seed)


def _noise(recipe, source, teacher, ranking, partial) -> Starts:
    return Noise(source, teacher.normalisation, recipe.seed)


def _mosaics(recipe, source, teacher, ranking, partial) -> Starts:
    path, factor = partial / PATCHES, mosaics.factor_of(recipe.select, source.image_size)
    try:
        stored = files.read_npz(path, "recover")
    except DamagedArtefact:
        started = time.perf_counter()
        found = _find_patches(recipe, source, teacher, factor)
        stored = vars(found) | {"seconds": time.perf_counter() - started}
        files.write_npz(path, **stored)
    seconds = float(stored.pop("seconds"))
    return Mosaics(source, teacher.normalisation, Patches(**stored), factor, seconds)


def _own_pictures(recipe, source, teacher, ranking, partial) -> Starts:
    found = _open_pictures(recipe, source).examples
    chosen = []
    for label in range(len(source.class_names)):
        members = np.flatnonzero(found.labels == label)
        chosen.append(selection.in_turn(members, recipe.ipc))
    place = recipe.select.pictures
    where = place if remote.is_remote(place) else str(Path(place).absolute())
    record_of = where, recipe.data.fit
    return OwnPictures(found, teacher.normalisation, np.stack(chosen), record_of, recipe.seed)


def _earlier_set(recipe, source, teacher, ranking, partial) -> Starts:
    return earlier_sets.prepare(recipe, source, teacher.normalisation)


def _open_pictures(recipe: Recipe, source: Source) -> ClassPictures:
    data = recipe.data
    classes = class_pictures.of_source(source, data.fit, data.workers, data.max_pixels)
    return class_pictures.open_pictures("select.pictures", recipe.select.pictures, classes)


def _find_patches(recipe: Recipe, source: Source, teacher: Teacher, factor: int) -> Patches:
    keep = recipe.ipc * factor**2
    with progress(_num_candidates(recipe, source), "crops", "image") as bar:
        patches = mosaics.find(teacher, source.train, keep, recipe.select, recipe.seed, bar.update)
    say(
        f"  took the best {patches.images.size} of {forward_passes(recipe, source)} crops; their "
        f"mean cross-entropy is {patches.cross_entropy.mean():.3f}"
    )
    return patches


def _num_candidates(recipe: Recipe, source: Source) -> int:
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    return int(np.minimum(counts, recipe.select.candidates).sum())


def forward_passes(recipe: Recipe, source: Source) -> int:
    """Images that the teacher sees to find the start images."""
    return _kind(recipe.select.start).forward_passes(recipe, source)


def settings(recipe: Recipe, source: Source) -> dict[str, Any]:
    """Dotted names and values of what these start images depend on."""
    kind = _kind(recipe.select.start)
    named = {f"select.{name}": getattr(recipe.select, name) for name in kind.settings}
    return named | kind.inputs(recipe, source)


def reads_training_images(start: str) -> bool:
    """Whether a value of `select.start` takes images of the training set."""
    return _kind(start).reads_training_images


def version(name: str) -> int:
    """Version of a value of `select.start`."""
    raised = 0 if name in _KINDS else plugins.version(plugins.STARTS, name) - 1
    return _kind(name).version + raised


def parts(recipe: Recipe, source: Source) -> dict[str, int]:
    """Versions of what the start images of a recipe are made by."""
    start = recipe.select.start
    found = {f"start.{start}": version(start)}
    if start == "rded" and files_of(source.train) is not None:
        found["start.rded_files"] = mosaics.FILES_VERSION
    if "rule" in _kind(start).settings:
        found |= selection.parts(recipe.select.rule)
    return found


def check(recipe: Recipe, source: Source) -> None:
    """Checks the settings against the data before anything runs.

    Raises:
      UserError: if there are no training images or a class has too few, mosaics do not divide an
        image, or the user's own pictures or set are missing.
    """
    start = recipe.select.start
    if reads_training_images(start) and not recipe.data.has_training_images:
        raise UserError(
            f"select.start {start!r} takes training images, which data.name {recipe.data.name!r} "
            f"does not have; set it to 'noise', or to 'pictures' or 'set' with select.pictures or "
            f"select.set."
        )
    for name in ("pictures", "set"):
        if getattr(recipe.select, name) and start != name:
            raise UserError(
                f"select.{name} is set, but select.start is {start!r}; set that to {name!r}."
            )
    _kind(start).check(recipe, source)


def _check_mosaics(recipe: Recipe, source: Source) -> None:
    factor = mosaics.factor_of(recipe.select, source.image_size)
    if source.image_size % factor:
        raise UserError(
            f"select.mosaic ({factor}) must divide the images' side, which is "
            f"{source.image_size} px."
        )
    needed = recipe.ipc * factor**2
    wanted = f"ipc {recipe.ipc} takes {needed} crops of different images of a class (select.mosaic"
    wanted += f" is {factor})"
    if needed > recipe.select.candidates:
        raise UserError(
            f"{wanted}, but select.candidates is {recipe.select.candidates}; raise it to {needed} "
            f"or more."
        )
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    smallest = int(counts.argmin())
    if needed > counts[smallest]:
        raise UserError(
            f"{wanted}, but class {source.class_names[smallest]!r} has only {counts[smallest]} "
            f"training images; lower ipc or select.mosaic."
        )


def recorded(
    manifest: dict[str, Any], folder: Path, source: Source, normalisation: Normalisation
) -> Starts:
    """The start images of a finished set.

    Args:
      manifest: entry "start" of the set's manifest, as `Starts.record` made it.
      folder: of the set.
      source: of the real images.
      normalisation: of the set.
    """
    if "indices" in manifest:
        indices = np.array(manifest["indices"])
        return RealImages(source, normalisation, indices, manifest.get("seed", 0))
    if "pictures" in manifest:
        root, chosen = remote.path_of(manifest["folder"]), np.array(manifest["chosen"])
        labels = np.zeros(len(manifest["pictures"]), np.int32)
        labels[chosen] = np.arange(len(chosen))[:, None]
        names = Names.of(map(os.fsencode, manifest["pictures"]))
        classes = class_pictures.of_source(source, manifest["fit"], -1, most_pixels=sys.maxsize)
        pictures = class_pictures.named(root, names, labels, classes)
        record_of = manifest["folder"], manifest["fit"]
        return OwnPictures(pictures, normalisation, chosen, record_of, manifest["seed"])
    if "given" in manifest:
        given = files.read_npz(folder / GIVEN, "recover")["images"]
        return GivenPixels(given, normalisation)
    if "patches" in manifest:
        patches = Patches(**files.read_npz(folder / manifest["patches"], "recover"))
        return Mosaics(source, normalisation, patches, manifest["mosaic"])
    return Noise(source, normalisation, manifest["noise_seed"])


_KINDS = {
    "real": StartKind(_real, settings=("rule", "start")),
    "noise": StartKind(_noise, settings=("rule", "start"), reads_training_images=False),
    "pictures": StartKind(
        _own_pictures,
        check=lambda recipe, source: _open_pictures(recipe, source) and None,
        reads_training_images=False,
        inputs=lambda recipe, source: {
            "select.pictures": _open_pictures(recipe, source).fingerprint
        },
    ),
    "set": StartKind(
        _earlier_set,
        check=earlier_sets.check,
        reads_training_images=False,
        inputs=earlier_sets.inputs,
    ),
    "rded": StartKind(
        _mosaics,
        settings=("start", "candidates", "crops", "mosaic"),
        check=_check_mosaics,
        forward_passes=lambda recipe, source: _num_candidates(recipe, source) * recipe.select.crops,
    ),
}
