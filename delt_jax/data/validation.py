"""A validation split: training images held out to take the place of the test images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from delt_jax.data.names import Names
from delt_jax.data.source import (
    ArrayExamples,
    Encoded,
    EncodedExamples,
    Examples,
    Source,
    fingerprint,
    split_mask,
)
from delt_jax.errors import UserError
from delt_jax.store.identity import identity
from delt_jax.store.pictures import UnreadableError

SCORED = "validation images, held out of training"  # value of `Source.scored`


@dataclass(frozen=True)
class Part:
    """Some image files of a larger collection; reads only those it is asked for.

    Attributes:
      whole: the collection.
      where: int [N], indices into it.
    """

    whole: Encoded
    where: np.ndarray

    def read(self, indices: np.ndarray) -> Sequence[bytes | UnreadableError]:
        """Contents of the files; for what cannot be read, why."""
        return self.whole.read(self.where[indices])


@dataclass(frozen=True)
class SomeExamples:
    """Some examples of a larger set that is in memory, here or on a device.

    Attributes:
      whole: the larger set.
      where: int [N], indices into it.
      labels, names: as in `Examples`.
    """

    whole: Examples
    where: np.ndarray
    labels: np.ndarray
    names: Sequence[str]

    @property
    def workers(self) -> int:
        """Worker processes that decode."""
        return self.whole.workers

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.where)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the examples, uint8 [len(indices), S, S, C]."""
        return self.whole.images(self.where[indices])


def hold_out(
    source: Source, share: float, seed: int, asked_by: str = "data.validation_share"
) -> Source:
    """Replaces the test images by a share of the training images of every class.

    Nothing of the test split is left, so that no stage can read it.

    Args:
      source: as opened, or with its images in memory or on a device.
      share: part of each class that is held out, in (0, 1); at least one image.
      seed: of the random draw.
      asked_by: the setting that it is for.

    Raises:
      UserError: if a class has no two training images.
    """
    labels = source.train.labels
    counts = np.bincount(labels, minlength=len(source.class_names))
    if counts.min() < 2:
        raise UserError(
            f"{asked_by} needs two training images of every class, but "
            f"{source.class_names[int(counts.argmin())]!r} of {source.name} has {counts.min()}; "
            f"leave it 0."
        )
    held_out = split_mask(labels, share, seed)
    note = (
        f"{held_out.sum()} of {len(labels)} training images are held out to validate on; the test "
        f"images are not used"
    )
    return replace(
        source,
        train=take(source.train, np.flatnonzero(~held_out)),
        test=take(source.train, np.flatnonzero(held_out)),
        fingerprint=identity(
            {"source": "validation", "of": source.fingerprint, "held_out": fingerprint(held_out)}
        ),
        notes=(*source.notes, note),
        scored=SCORED,
    )


def take(examples: Examples, where: np.ndarray) -> Examples:
    """The examples at `where`, int [N]; copies no image files."""
    names = examples.names
    chosen = names.take(where) if isinstance(names, Names) else [names[i] for i in where]
    if isinstance(examples, ArrayExamples):
        return ArrayExamples(examples.pixels[where], examples.labels[where], chosen)
    if not isinstance(examples, EncodedExamples):  # decoded already, here or on a device
        return SomeExamples(examples, where, examples.labels[where], chosen)
    return replace(
        examples,
        encoded=Part(examples.encoded, where),
        labels=examples.labels[where],
        names=chosen,
    )
