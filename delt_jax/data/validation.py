"""A validation split: training images held out, which take the place of the test images."""

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

SCORED = "validation images, held out of training"  # what `Source.scored` then says


@dataclass(frozen=True)
class Part:
    """Some of the image files, wherever they are stored; reads no more than it is asked for.

    Attributes:
      whole: all of them.
      where: int [N], indices into these.
    """

    whole: Encoded
    where: np.ndarray

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        """Contents of the files; what cannot be read is empty."""
        return self.whole.read(self.where[indices])


def hold_out(source: Source, share: float, seed: int) -> Source:
    """The source with a share of every class of its training images in place of the test images.

    Nothing of the test split is left, so that no stage can look at it.

    Args:
      source: as opened; neither held in memory nor placed yet.
      share: of the validation split, in (0, 1); one image of each class at the least.
      seed: of the draw.

    Raises:
      UserError: if a class has no two training images.
    """
    labels = source.train.labels
    counts = np.bincount(labels, minlength=len(source.class_names))
    if counts.min() < 2:
        raise UserError(
            f"data.validation_share needs two training images of every class, but "
            f"{source.class_names[int(counts.argmin())]!r} of {source.name} has {counts.min()}; "
            f"leave it 0."
        )
    held = split_mask(labels, share, seed)
    note = (
        f"{held.sum()} of {len(held)} training images are held out to validate on; the test "
        f"images are not used"
    )
    return replace(
        source,
        train=take(source.train, np.flatnonzero(~held)),
        test=take(source.train, np.flatnonzero(held)),
        fingerprint=identity(
            {"source": "validation", "of": source.fingerprint, "held_out": fingerprint(held)}
        ),
        notes=(*source.notes, note),
        scored=SCORED,
    )


def take(examples: Examples, where: np.ndarray) -> Examples:
    """Some of the examples, int [N] says which; image files stay where they are."""
    names = examples.names
    chosen = names.take(where) if isinstance(names, Names) else [names[i] for i in where]
    if isinstance(examples, ArrayExamples):
        return ArrayExamples(examples.pixels[where], examples.labels[where], chosen)
    assert isinstance(examples, EncodedExamples)
    return replace(
        examples,
        encoded=Part(examples.encoded, where),
        labels=examples.labels[where],
        names=chosen,
    )
