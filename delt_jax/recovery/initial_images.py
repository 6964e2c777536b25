"""The images that recovery starts from."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.core.progress import progress, say
from delt_jax.data import Normalisation, Source, class_pictures, files_of, read
from delt_jax.data.class_pictures import ClassPictures
from delt_jax.data.names import Names
from delt_jax.data.source import EncodedExamples
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.recipe import Recipe
from delt_jax.recovery import mosaics
from delt_jax.recovery.mosaics import Patches
from delt_jax.recovery.selection import Ranking, select
from delt_jax.store import files, remote
from delt_jax.teachers.teacher import Teacher

PATCHES = "patches.npz"
_CHUNK = 256  # images converted to pixels at a time
_LEAST_CROP = 0.5  # of the area of a picture that more than one image starts from


class Starts(Protocol):
    """Start images of a whole set; indices into it are class * ipc + rank."""

    @property
    def seconds(self) -> float:
        """Time that finding them took."""

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Start images in the teacher's input space, float32 [n, S, S, C]."""

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""

    def record(self, folder: Path) -> dict[str, Any]:
        """Entry "start" of the set's manifest; longer lists are written into its folder."""


@dataclass(frozen=True)
class RealImages:
    """Training images.

    Attributes:
      source: of the images.
      normalisation: the teacher's.
      selected: int [classes, ipc], their indices, the best start image of each class first.
      seconds: that finding them took.
    """

    source: Source
    normalisation: Normalisation
    selected: np.ndarray
    seconds: float = 0.0

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The training images, normalised and otherwise unchanged."""
        chosen = self.selected.reshape(-1)[list(indices)]
        return np.asarray(self.normalisation(self.source.train.images(chosen)))

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""
        return read(self.source.train, self.selected.reshape(-1)[list(indices)])

    def record(self, folder: Path) -> dict[str, Any]:
        """The indices of the training images."""
        return {"split": "train", "indices": self.selected.tolist()}


@dataclass(frozen=True)
class Noise:
    """N(0, 1) clipped to valid pixels, as SRe2L starts; each image is drawn from `seed`."""

    source: Source
    normalisation: Normalisation
    seed: int
    seconds: float = 0.0

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Noise that depends on the seed and an image's index only."""
        shape = (self.source.image_size, self.source.image_size, self.source.channels)
        low, high = self.normalisation.bounds()

        def noise(i):
            return jax.random.normal(keys.stream(self.seed, "start", i), shape)

        return np.stack([np.clip(np.asarray(noise(i)), low, high) for i in indices])

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""
        return _pixels(self, self.normalisation, indices)

    def record(self, folder: Path) -> dict[str, Any]:
        """The seed."""
        return {"noise_seed": self.seed}


@dataclass(frozen=True)
class Mosaics:
    """RDED's images, each of `factor` x `factor` patches of training images."""

    source: Source
    normalisation: Normalisation
    patches: Patches
    factor: int
    seconds: float = 0.0

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """Mosaics, rendered from the training images at each call."""
        return mosaics.render(
            self.patches, indices, self.factor, self.source.train, self.normalisation
        )

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""
        return _pixels(self, self.normalisation, indices)

    def record(self, folder: Path) -> dict[str, Any]:
        """The name of a file with the patches, which is written."""
        files.write_npz(folder / PATCHES, **vars(self.patches))
        return {"split": "train", "mosaic": self.factor, "patches": PATCHES}


@dataclass(frozen=True)
class OwnPictures:
    """Pictures of the user's own, in turn; after the first turn, random crops of them.

    Equal images would stay equal where they share a batch.

    Attributes:
      pictures: of all classes.
      normalisation: the teacher's.
      chosen: int [classes, ipc], indices of pictures.
      record_of: folder of the pictures as set, and how they are brought to their size.
      seed: of the crops.
      seconds: that finding them took.
    """

    pictures: EncodedExamples
    normalisation: Normalisation
    chosen: np.ndarray
    record_of: tuple[str, str]
    seed: int
    seconds: float = 0.0

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The pictures and crops, normalised."""
        return np.asarray(self.normalisation(self.pixels(indices)))

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""
        pixels = read(self.pictures, self.chosen.reshape(-1)[list(indices)])
        ipc = self.chosen.shape[1]
        for place, i in enumerate(indices):
            label, rank = divmod(int(i), ipc)
            if self.chosen[label, rank] in self.chosen[label, :rank]:
                pixels[place] = self._cropped(pixels[place], int(i))
        return pixels

    def _cropped(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """A random crop of an image, drawn from the seed and the image's index only."""
        size = pixels.shape[0]
        key = keys.stream(self.seed, "start", index)
        view = crop.random_view(key, size, _LEAST_CROP, flip=False)
        seen = crop.view_images(jnp.asarray(pixels[None], jnp.float32), view, size)[0]
        return np.clip(np.rint(np.asarray(seen)), 0, 255).astype(np.uint8)

    def record(self, folder: Path) -> dict[str, Any]:
        """Names of all pictures, where they lie, and which of them each image starts from."""
        where, fit = self.record_of
        named = {"pictures": list(self.pictures.names), "folder": where, "fit": fit}
        return named | {"chosen": self.chosen.tolist(), "seed": self.seed}


def _pixels(starts: Starts, normalisation: Normalisation, indices: Sequence[int]) -> np.ndarray:
    chunks = (indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK))
    return np.concatenate([normalisation.to_pixels(starts.images(c)) for c in chunks])


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
    return _KINDS[recipe.select.start].prepare(recipe, source, teacher, ranking, partial)


def _real(recipe, source, teacher, ranking, partial) -> Starts:
    classes = len(source.class_names)
    selected = select(ranking, recipe.select.rule, recipe.ipc, classes, recipe.seed)
    return RealImages(source, teacher.normalisation, selected)


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
        chosen.append(members[np.arange(recipe.ipc) % len(members)])
    place = recipe.select.pictures
    where = place if remote.is_remote(place) else str(Path(place).absolute())
    record_of = where, recipe.data.fit
    return OwnPictures(found, teacher.normalisation, np.stack(chosen), record_of, recipe.seed)


def _open_pictures(recipe: Recipe, source: Source) -> ClassPictures:
    classes = class_pictures.of_source(source, recipe.data.fit, recipe.data.workers)
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
    return _KINDS[recipe.select.start].forward_passes(recipe, source)


def settings(recipe: Recipe, source: Source) -> dict[str, Any]:
    """Dotted names and values of what these start images depend on."""
    kind = _KINDS[recipe.select.start]
    named = {f"select.{name}": getattr(recipe.select, name) for name in kind.settings}
    return named | kind.inputs(recipe, source)


def reads_training_images(start: str) -> bool:
    """Whether a value of `select.start` takes images of the training set."""
    return _KINDS[start].reads_training_images


def version(name: str) -> int:
    """Version of a value of `select.start`."""
    return _KINDS[name].version


def parts(recipe: Recipe, source: Source) -> dict[str, int]:
    """Versions of what the start images of a recipe are made by."""
    start = recipe.select.start
    found = {f"start.{start}": version(start)}
    if start == "rded" and files_of(source.train) is not None:
        found["start.rded_files"] = mosaics.FILES_VERSION
    return found


def check(recipe: Recipe, source: Source) -> None:
    """Checks the settings against the data before anything runs.

    Raises:
      UserError: if there are no training images or a class has too few, mosaics do not divide an
        image, or the user's own pictures are missing.
    """
    start = recipe.select.start
    if reads_training_images(start) and not recipe.data.has_training_images:
        raise UserError(
            f"select.start {start!r} takes training images, which data.name {recipe.data.name!r} "
            f"does not have; set it to 'noise', or to 'pictures' with select.pictures."
        )
    if recipe.select.pictures and start != "pictures":
        raise UserError(
            f"select.pictures is set, but select.start is {start!r}; set that to 'pictures'."
        )
    _KINDS[recipe.select.start].check(recipe, source)


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
        return RealImages(source, normalisation, np.array(manifest["indices"]))
    if "pictures" in manifest:
        root, chosen = remote.path_of(manifest["folder"]), np.array(manifest["chosen"])
        labels = np.zeros(len(manifest["pictures"]), np.int32)
        labels[chosen] = np.arange(len(chosen))[:, None]
        names = Names.of(map(os.fsencode, manifest["pictures"]))
        classes = class_pictures.of_source(source, manifest["fit"], workers=-1)
        pictures = class_pictures.named(root, names, labels, classes)
        record_of = manifest["folder"], manifest["fit"]
        return OwnPictures(pictures, normalisation, chosen, record_of, manifest["seed"])
    if "patches" in manifest:
        patches = Patches(**files.read_npz(folder / manifest["patches"], "recover"))
        return Mosaics(source, normalisation, patches, manifest["mosaic"])
    return Noise(source, normalisation, manifest["noise_seed"])


@dataclass(frozen=True)
class _Kind:
    """A value of `select.start`: its settings, and its part of the functions above."""

    version: int  # part of the images' identity; raise it when these start images change
    settings: tuple[str, ...]
    prepare: Callable[..., Starts]
    check: Callable[[Recipe, Source], None] = lambda recipe, source: None
    forward_passes: Callable[[Recipe, Source], int] = lambda recipe, source: 0
    reads_training_images: bool = True
    inputs: Callable[[Recipe, Source], dict[str, Any]] = lambda recipe, source: {}


_KINDS = {
    "real": _Kind(1, ("rule", "start"), _real),
    "noise": _Kind(1, ("rule", "start"), _noise, reads_training_images=False),
    "pictures": _Kind(
        1,
        ("start",),
        _own_pictures,
        lambda recipe, source: _open_pictures(recipe, source) and None,
        reads_training_images=False,
        inputs=lambda recipe, source: {
            "select.pictures": _open_pictures(recipe, source).fingerprint
        },
    ),
    "rded": _Kind(
        1,
        ("start", "candidates", "crops", "mosaic"),
        _mosaics,
        _check_mosaics,
        lambda recipe, source: _num_candidates(recipe, source) * recipe.select.crops,
    ),
}
