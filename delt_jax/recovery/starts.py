"""Kinds of start images: of a whole set, found by whatever `delt_jax.recovery.initial_images` has.

A kind may come from outside this package as a `StartKind` (see docs/extending.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.data import Normalisation, Source, read
from delt_jax.data.source import EncodedExamples
from delt_jax.recipe import Recipe
from delt_jax.recovery import mosaics, selection
from delt_jax.recovery.mosaics import Patches
from delt_jax.store import files

PATCHES, GIVEN = "patches.npz", "start_images.npz"
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
      selected: int [classes, ipc], their indices, the best start image of each class first. What
        comes again in a class is a random crop.
      seed: of the crops.
      seconds: that finding them took.
    """

    source: Source
    normalisation: Normalisation
    selected: np.ndarray
    seed: int = 0
    seconds: float = 0.0

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The training images, normalised and otherwise unchanged but for those that repeat."""
        chosen = self.selected.reshape(-1)[list(indices)]
        images = self.source.train.images(chosen)
        if any(_repeating(self.selected, indices)):
            images = self.pixels(indices)
        return np.asarray(self.normalisation(images))

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""
        pixels = read(self.source.train, self.selected.reshape(-1)[list(indices)])
        return _cropped_repeats(pixels, self.selected, indices, self.seed)

    def record(self, folder: Path) -> dict[str, Any]:
        """The indices of the training images, and the seed where some repeat."""
        named = {"split": "train", "indices": self.selected.tolist()}
        every = range(self.selected.size)
        return named | ({"seed": self.seed} if any(_repeating(self.selected, every)) else {})


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
        return as_pixels(self, self.normalisation, indices)

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
        return as_pixels(self, self.normalisation, indices)

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
        return _cropped_repeats(pixels, self.chosen, indices, self.seed)

    def record(self, folder: Path) -> dict[str, Any]:
        """Names of all pictures, where they lie, and which of them each image starts from."""
        where, fit = self.record_of
        named = {"pictures": list(self.pictures.names), "folder": where, "fit": fit}
        return named | {"chosen": self.chosen.tolist(), "seed": self.seed}


@dataclass(frozen=True)
class GivenPixels:
    """Images that a plug-in has made.

    Attributes:
      given: uint8 [classes * ipc, S, S, C].
      normalisation: the teacher's.
      seconds: that making them took.
    """

    given: np.ndarray
    normalisation: Normalisation
    seconds: float = 0.0

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The images, normalised."""
        return np.asarray(self.normalisation(self.pixels(indices)))

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """The same as uint8."""
        return self.given[list(indices)]

    def record(self, folder: Path) -> dict[str, Any]:
        """The name of a file with the images, which is written."""
        files.write_npz(folder / GIVEN, images=self.given)
        return {"given": GIVEN}


def _repeating(chosen: np.ndarray, indices: Sequence[int]) -> list[bool]:
    """Whether each image of the set starts from one that an earlier one of its class has."""
    ipc = chosen.shape[1]
    return [selection.repeats(chosen, *divmod(int(i), ipc)) for i in indices]


def _cropped_repeats(
    pixels: np.ndarray, chosen: np.ndarray, indices: Sequence[int], seed: int
) -> np.ndarray:
    """The pixels, uint8 [n, S, S, C], with a random crop in place of each that repeats."""
    again = _repeating(chosen, indices)
    cropped = [
        _cropped(image, int(i), seed) if repeats else image
        for image, i, repeats in zip(pixels, indices, again, strict=True)
    ]
    return np.stack(cropped) if any(again) else pixels


def _cropped(pixels: np.ndarray, index: int, seed: int) -> np.ndarray:
    """A random crop of an image, drawn from the seed and the image's index only."""
    size = pixels.shape[0]
    key = keys.stream(seed, "start", index)
    view = crop.random_view(key, size, _LEAST_CROP, flip=False)
    seen = crop.view_images(jnp.asarray(pixels[None], jnp.float32), view, size)[0]
    return np.clip(np.rint(np.asarray(seen)), 0, 255).astype(np.uint8)


def as_pixels(starts: Starts, normalisation: Normalisation, indices: Sequence[int]) -> np.ndarray:
    """Start images as uint8 [n, S, S, C], a part of them at a time."""
    chunks = (indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK))
    return np.concatenate([normalisation.to_pixels(starts.images(c)) for c in chunks])


@dataclass(frozen=True)
class StartKind:
    """A kind of start images, which `select.start` names.

    Attributes:
      prepare: ``(recipe, source, teacher, ranking, partial) -> Starts``, or pixels of all images,
        uint8 [classes, ipc, S, S, C]. `ranking` is None where no training images are read. The
        folder `partial` keeps what takes long to find. Called in every process, and again where a
        recovery resumes, it must find the same; pixels are kept.
      version: part of the images' identity; raise it when these start images change.
      settings: those of `select` that they depend on.
      check: ``(recipe, source) -> None``, raises a UserError before anything runs.
      forward_passes: ``(recipe, source) -> int``, images that the teacher sees to find them.
      reads_training_images: whether they are of the training set, which is then ranked.
      inputs: ``(recipe, source) -> values`` by name of what else they depend on.
    """

    prepare: Callable[..., Any]
    version: int = 1
    settings: tuple[str, ...] = ("start",)
    check: Callable[[Recipe, Source], None] = lambda recipe, source: None
    forward_passes: Callable[[Recipe, Source], int] = lambda recipe, source: 0
    reads_training_images: bool = True
    inputs: Callable[[Recipe, Source], dict[str, Any]] = lambda recipe, source: {}
