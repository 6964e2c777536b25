"""Stored labels of augmented views, on disk: one file of fixed stride, epoch after epoch.

Only labels are stored. Views are drawn again from the key of their epoch, so the labels lie by
index of the image and can be read with batches of any size. An epoch is float16 values [N, k'] and,
unless all classes are kept, their indices [N, k] (see `delt_jax.labels.compact`), little-endian and
without gaps; `FILE` is K of them. What they are is in the manifest of the soft labels.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import chex
import numpy as np

from delt_jax.augment.views import ViewSpec
from delt_jax.core import keys
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.compact import Compact
from delt_jax.store import files

FILE = "views.bin"
_KEY_PATH = ("labels",)  # and the epoch
_VALUE = np.dtype("<f2")


class LabelledEpoch(NamedTuple):
    """All that the views of an epoch depend on: its key, their kind, and the groups mixed."""

    key: chex.PRNGKey
    views: ViewSpec
    group_size: int


@dataclass(frozen=True)
class LabelPlan:
    """Which views have stored labels, and in what form.

    Attributes:
      seed: of the run.
      epochs: of views that are labelled, K.
      images: of the set, N.
      num_classes: outputs of the teachers.
      form: "logits" or "probabilities" at the temperature.
      top_k: values per label; 0: all.
      temperature: T, of teachers and student.
      views: augmentation.
      group_size: images among which a view's partner is drawn.
      trained_epochs: of a student, for which labels without reuse would be needed.
    """

    seed: int
    epochs: int
    images: int
    num_classes: int
    form: str
    top_k: int
    temperature: float
    views: ViewSpec
    group_size: int
    trained_epochs: int

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that manifests and identities have."""
        return {
            "seed": self.seed,
            "epochs": self.epochs,
            "images": self.images,
            "num_classes": self.num_classes,
            "form": self.form,
            "top_k": self.top_k,
            "temperature": self.temperature,
            "views": self.views.as_dict(),
            "group_size": self.group_size,
            "trained_epochs": self.trained_epochs,
        }

    @property
    def view_key(self) -> chex.PRNGKey:
        """From which the number of a labelled epoch makes the key of its views."""
        return keys.stream(self.seed, *_KEY_PATH)

    def epoch(self, epoch: int | chex.Array) -> LabelledEpoch:
        """What the views of a training epoch are drawn from; labelled epochs come round again.

        Args:
          epoch: its number; may be traced.
        """
        key = keys.derive(self.view_key, epoch % self.epochs)
        return LabelledEpoch(key, self.views, self.group_size)


def _parts(plan: LabelPlan) -> tuple[tuple[int, int], tuple[int, int], np.dtype]:
    """Shapes of an epoch's values and class indices, and the type of these."""
    kept = 0 if compact.keeps_all(plan.top_k, plan.num_classes) else plan.top_k
    width = compact.columns(plan.top_k, plan.num_classes, plan.form)
    dtype = compact.index_dtype(plan.num_classes).newbyteorder("<")
    return (plan.images, width), (plan.images, kept), dtype


def _stride(plan: LabelPlan) -> int:
    """Bytes of an epoch."""
    values, classes, dtype = _parts(plan)
    return math.prod(values) * _VALUE.itemsize + math.prod(classes) * dtype.itemsize


def stored_bytes(plan: LabelPlan) -> int:
    """Size of the file of labels, exactly."""
    return plan.epochs * _stride(plan)


def naive_bytes(plan: LabelPlan) -> int:
    """Size of all outputs for every training epoch in float16."""
    return plan.images * plan.num_classes * plan.trained_epochs * _VALUE.itemsize


def ratio(plan: LabelPlan) -> float:
    """Of the stored to the naive size."""
    return stored_bytes(plan) / naive_bytes(plan)


def to_bytes(labels: Compact) -> bytes:
    """An epoch as it lies in the file."""
    values = np.asarray(labels.values).astype(_VALUE).tobytes()
    if labels.classes is None:
        return values
    classes = np.asarray(labels.classes)
    return values + classes.astype(classes.dtype.newbyteorder("<")).tobytes()


def write(folder: Path, plan: LabelPlan, epochs: Iterable[bytes]) -> list[str]:
    """Writes the file of labels, one epoch in memory at a time.

    Args:
      folder: of the soft labels.
      plan: of the labels.
      epochs: each as `to_bytes` makes it.

    Returns:
      The SHA-256 of every epoch, for the manifest.
    """
    digests = []

    def blocks() -> Iterable[bytes]:
        for block in epochs:
            digests.append(hashlib.sha256(block).hexdigest())
            yield block

    files.write_blocks(folder / FILE, blocks())
    return digests


def describe(plan: LabelPlan, digests: Sequence[str], teachers: Sequence[str]) -> dict[str, Any]:
    """The entry of the manifest that explains the file to people and to `open_store`.

    Args:
      plan: of the labels.
      digests: SHA-256 of every epoch.
      teachers: hashes of all that labelled.
    """
    _, classes, dtype = _parts(plan)
    return {
        "file": FILE,
        "layout": "per epoch: values [images, width], then classes [images, top_k] if not all",
        "plan": plan.as_dict(),
        "key": ["seed", *_KEY_PATH, "epoch"],
        "dtype": {"values": "float16", "classes": dtype.name if classes[1] else None},
        "width": _parts(plan)[0][1],
        "teachers": list(teachers),
        "sha256": list(digests),
        "bytes": stored_bytes(plan),
        "naive_bytes": naive_bytes(plan),
        "ratio": round(ratio(plan), 6),
    }


class LabelStore:
    """Stored labels, read through memory maps; each epoch is checked when it is first read.

    Attributes:
      plan: of the labels.
    """

    def __init__(self, path: Path, plan: LabelPlan, digests: Sequence[str]):
        """Maps a file of the right size; see `open_store`."""
        self.plan = plan
        self._path, self._digests = path, digests
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._checked: set[int] = set()

    @property
    def epochs(self) -> int:
        """Labelled epochs, K."""
        return self.plan.epochs

    @property
    def views(self) -> ViewSpec:
        """Augmentation of the labelled views."""
        return self.plan.views

    @property
    def group_size(self) -> int:
        """Images among which a view's partner was drawn."""
        return self.plan.group_size

    @property
    def temperature(self) -> float:
        """T of the labels."""
        return self.plan.temperature

    def epoch(self, epoch: int) -> LabelledEpoch:
        """What the views of a training epoch are drawn from; labelled epochs come round again."""
        return self.plan.epoch(epoch)

    def read(self, epoch: int) -> Compact:
        """Labels of a training epoch, by index of the image; memory-mapped.

        Raises:
          UserError: if they are not those that were written.
        """
        index, stride = epoch % self.epochs, _stride(self.plan)
        block = self._bytes[index * stride : (index + 1) * stride]
        if index not in self._checked:
            if hashlib.sha256(block).hexdigest() != self._digests[index]:
                raise UserError(
                    f"Epoch {index} of {self._path} is damaged (its checksum differs); delete the "
                    f"folder and run the relabel stage again."
                )
            self._checked.add(index)
        values, classes, dtype = _parts(self.plan)
        end = math.prod(values) * _VALUE.itemsize
        return Compact(
            block[:end].view(_VALUE).reshape(values),
            block[end:].view(dtype).reshape(classes) if classes[1] else None,
        )


def open_store(folder: Path, distilled_hash: str, class_names: Sequence[str]) -> LabelStore:
    """Opens the stored labels of a distilled set.

    Args:
      folder: of the soft labels.
      distilled_hash: of the set they are to be used with.
      class_names: of the data, in order.

    Raises:
      UserError: if there are none, or they are of another set, of other classes, or damaged.
    """
    manifest = files.read_json(folder / "manifest.json")
    again = "run the relabel stage again"
    if not isinstance(manifest, dict) or not manifest.get("stored"):
        raise UserError(
            f'{folder} holds no labels of views; add "stored" to evaluate.regimes and {again}.'
        )
    try:
        stored = manifest["stored"]
        views = ViewSpec(**stored["plan"]["views"])
        plan = LabelPlan(**stored["plan"] | {"views": views})
        digests, names = stored["sha256"], list(manifest["class_names"])
        theirs, expected = manifest["distilled"], stored_bytes(plan)
        whole = len(digests) == plan.epochs and expected > 0
    except (KeyError, TypeError) as e:
        raise UserError(
            f"{folder}/manifest.json does not describe stored labels ({e}); delete the folder and "
            f"{again}."
        ) from e
    if theirs != distilled_hash:
        raise UserError(f"The stored labels in {folder} belong to another distilled set; {again}.")
    if names != list(class_names):
        differ = [
            f"{a!r} against {b!r}" for a, b in zip(names, class_names, strict=False) if a != b
        ]
        what = "; ".join(differ[:3]) or f"{len(names)} against {len(class_names)} classes"
        raise UserError(
            f"The stored labels in {folder} have other class names than the data ({what}); put the "
            f"data's classes in the same order, or {again}."
        )
    path = folder / FILE
    size = path.stat().st_size if path.is_file() else 0
    if not whole or size != expected:
        raise UserError(
            f"{path} has {size} bytes where its manifest promises {expected}; delete the folder "
            f"and {again}."
        )
    return LabelStore(path, plan, digests)
