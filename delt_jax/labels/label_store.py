"""Soft labels of augmented views on disk: one file with equally many bytes for every epoch.

Only labels are stored: students draw the views again from the key of their epoch. Labels are in
the order of the images, so batches of any size can read them. An epoch consists of float16 values
[N, k'] and, unless all classes are kept, their class indices [N, k], little-endian and without gaps
(see `delt_jax.labels.compact`). `FILE` holds K epochs; the manifest beside it describes it.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import chex
import numpy as np

from delt_jax.augment.views import ViewSpec
from delt_jax.core import keys
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.labels import compact, soft_labels
from delt_jax.labels.compact import Compact
from delt_jax.store import files
from delt_jax.store.schema import mismatch

FILE = "views.bin"
_KEY_PATH = ("labels",)  # of the stream of keys; every epoch adds its number
_VALUE = np.dtype("<f2")
_PLAN_SHAPE = {
    "seed": int,
    "epochs": int,
    "images": int,
    "num_classes": int,
    "form": str,
    "top_k": int,
    "temperature": float,
    "views": dict,
    "group_size": int,
    "trained_epochs": int,
}


class LabelledEpoch(NamedTuple):
    """Everything that the views of a labelled epoch depend on.

    Attributes:
      key: key of the epoch.
      views: augmentation.
      group_size: number of images among which a view's partner is drawn.
    """

    key: chex.PRNGKey
    views: ViewSpec
    group_size: int


@dataclass(frozen=True)
class LabelPlan:
    """Which views have stored labels, and in what form the labels are stored.

    Attributes:
      seed: seed of the run.
      epochs: number of epochs whose views are labelled, K.
      num_images: size of the set, N.
      num_classes: number of the teachers' outputs.
      form: "logits", or "probabilities" at the temperature.
      top_k: number of classes kept of each label; 0 keeps all.
      temperature: T, by which logits of teachers and student are divided.
      views: augmentation.
      group_size: number of images among which a view's partner is drawn.
      trained_epochs: number of epochs a student trains; only `naive_bytes` depends on it.
    """

    seed: int
    epochs: int
    num_images: int
    num_classes: int
    form: str
    top_k: int
    temperature: float
    views: ViewSpec
    group_size: int
    trained_epochs: int

    def as_dict(self) -> dict[str, Any]:
        """The values under the names that manifests and identities have; these never change."""
        return {
            "seed": self.seed,
            "epochs": self.epochs,
            "images": self.num_images,
            "num_classes": self.num_classes,
            "form": self.form,
            "top_k": self.top_k,
            "temperature": self.temperature,
            "views": self.views.as_dict(),
            "group_size": self.group_size,
            "trained_epochs": self.trained_epochs,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "LabelPlan":
        """Reads what `as_dict` gave; raises ValueError, TypeError or KeyError for others."""
        wrong = mismatch(stored, _PLAN_SHAPE, "plan")
        if wrong:
            raise ValueError(wrong)
        if stored["form"] not in ("logits", "probabilities"):
            raise ValueError(f"form is {stored['form']!r}")
        if not (stored["temperature"] > 0 and math.isfinite(stored["temperature"])):
            raise ValueError(f"temperature is {stored['temperature']}")
        for name in ("epochs", "images", "num_classes", "group_size"):
            if stored[name] < 1:
                raise ValueError(f"{name} is {stored[name]}")
        own = {"num_images": stored["images"], "views": ViewSpec(**stored["views"])}
        return cls(**{k: v for k, v in stored.items() if k != "images"} | own)

    @property
    def view_key(self) -> chex.PRNGKey:
        """Key of all views; every labelled epoch derives its own from it and its number."""
        return keys.stream(self.seed, *_KEY_PATH)

    def epoch(self, epoch: int | chex.Array) -> LabelledEpoch:
        """What the views of a training epoch are drawn from.

        Args:
          epoch: number of the training epoch; may be traced. After K epochs the first labelled
            one comes round again.
        """
        key = keys.derive(self.view_key, epoch % self.epochs)
        return LabelledEpoch(key, self.views, self.group_size)


class _EpochShape(NamedTuple):
    """Arrays of an epoch in the file: float16 `values`, then `classes` of an unsigned dtype."""

    values: tuple[int, int]
    classes: tuple[int, int]  # (N, 0) where all classes are kept
    classes_dtype: np.dtype

    @property
    def values_bytes(self) -> int:
        return math.prod(self.values) * _VALUE.itemsize

    @property
    def stride(self) -> int:
        """Bytes of an epoch."""
        return self.values_bytes + math.prod(self.classes) * self.classes_dtype.itemsize


def _epoch_shape(plan: LabelPlan) -> _EpochShape:
    kept = 0 if compact.keeps_all(plan.top_k, plan.num_classes) else plan.top_k
    columns = compact.columns(plan.top_k, plan.num_classes, plan.form)
    dtype = compact.index_dtype(plan.num_classes).newbyteorder("<")
    return _EpochShape((plan.num_images, columns), (plan.num_images, kept), dtype)


def stored_bytes(plan: LabelPlan) -> int:
    """Size of `FILE`, exactly."""
    return plan.epochs * _epoch_shape(plan).stride


def naive_bytes(plan: LabelPlan) -> int:
    """Size that all outputs of every training epoch would have in float16, without reuse."""
    return plan.num_images * plan.num_classes * plan.trained_epochs * _VALUE.itemsize


def ratio(plan: LabelPlan) -> float:
    """Stored size over naive size."""
    return stored_bytes(plan) / naive_bytes(plan)


def to_bytes(labels: Compact) -> bytes:
    """The labels of an epoch as the bytes that `FILE` holds."""
    values = np.asarray(labels.values).astype(_VALUE).tobytes()
    if labels.classes is None:
        return values
    classes = np.asarray(labels.classes)
    return values + classes.astype(classes.dtype.newbyteorder("<")).tobytes()


def write(folder: Path, epochs: Iterable[bytes]) -> list[str]:
    """Writes `FILE` into a folder, one epoch in memory at a time.

    Args:
      folder: folder of the soft labels.
      epochs: the labelled epochs, each as `to_bytes` makes it.

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
    """The manifest's entry "stored", which explains `FILE` to people and to `open_store`.

    Args:
      plan: which views are labelled.
      digests: SHA-256 of every epoch.
      teachers: hashes of the teachers that labelled.
    """
    shape = _epoch_shape(plan)
    return {
        "file": FILE,
        "layout": "per epoch: values [images, width], then classes [images, top_k] if not all",
        "plan": plan.as_dict(),
        "key": ["seed", *_KEY_PATH, "epoch"],
        "dtype": {
            "values": "float16",
            "classes": shape.classes_dtype.name if shape.classes[1] else None,
        },
        "width": shape.values[1],
        "teachers": list(teachers),
        "sha256": list(digests),
        "bytes": stored_bytes(plan),
        "naive_bytes": naive_bytes(plan),
        "ratio": round(ratio(plan), 6),
    }


def intact_epochs(
    path: Path, plan: LabelPlan, digests: Sequence[str]
) -> Iterator[tuple[int, bytes]]:
    """Number and labels of each epoch of a file, perhaps a damaged one, that is as it was written.

    Args:
      path: of the file; may be missing.
      plan: which views it labels.
      digests: SHA-256 of every epoch.
    """
    stride = _epoch_shape(plan).stride
    if not path.is_file():
        return
    try:
        with open(path, "rb") as f:
            for epoch, digest in enumerate(digests[: plan.epochs]):
                block = f.read(stride)
                if hashlib.sha256(block).hexdigest() == digest:
                    yield epoch, block
    except OSError:
        return


class LabelStore:
    """Stored labels, read through a memory map; each epoch is checked when it is first read.

    Attributes:
      plan: which views are labelled.
    """

    def __init__(self, path: Path, plan: LabelPlan, digests: Sequence[str]):
        """Maps a file that has the right size; use `open_store`, which checks that."""
        self.plan = plan
        self._path, self._digests = path, digests
        self._bytes = np.memmap(path, np.uint8, mode="r")
        self._checked: set[int] = set()

    def read(self, epoch: int) -> Compact:
        """Labels of a training epoch by index of the image, as views of the memory map.

        Raises:
          DamagedArtefact: if the checksum of the epoch is wrong.
        """
        index, shape = epoch % self.plan.epochs, _epoch_shape(self.plan)
        block = self._bytes[index * shape.stride : (index + 1) * shape.stride]
        if index not in self._checked:
            if hashlib.sha256(block).hexdigest() != self._digests[index]:
                fault = f"Epoch {index} of {self._path} is damaged (its checksum differs)"
                raise DamagedArtefact(self._path, fault, "relabel")
            self._checked.add(index)
        values, classes = block[: shape.values_bytes], block[shape.values_bytes :]
        return Compact(
            values.view(_VALUE).reshape(shape.values),
            classes.view(shape.classes_dtype).reshape(shape.classes) if shape.classes[1] else None,
        )


def open_store(folder: Path, distilled_hash: str, class_names: Sequence[str]) -> LabelStore:
    """Opens the stored labels of a distilled set.

    Args:
      folder: folder of the soft labels.
      distilled_hash: hash of the set whose labels they should be.
      class_names: names of the data's classes, in order.

    Raises:
      UserError: if there are none, or they are of another set or of other classes.
      DamagedArtefact: if they are missing or damaged.
    """
    manifest = soft_labels.read_manifest(folder)
    again = "run the relabel stage again"
    if not manifest.get("stored"):
        raise UserError(
            f'{folder} holds no labels of views; add "stored" to evaluate.regimes and {again}.'
        )
    try:
        stored = manifest["stored"]
        plan = LabelPlan.from_dict(stored["plan"])
        digests, names = stored["sha256"], list(manifest["class_names"])
        theirs, expected = manifest["distilled"], stored_bytes(plan)
        whole = len(digests) == plan.epochs and expected > 0
    except (KeyError, TypeError, ValueError) as e:
        fault = f"{folder}/manifest.json does not describe stored labels ({e})"
        raise DamagedArtefact(folder / soft_labels.MANIFEST, fault, "relabel") from e
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
        fault = f"{path} has {size} bytes where its manifest promises {expected}"
        raise DamagedArtefact(path, fault, "relabel")
    return LabelStore(path, plan, digests)
