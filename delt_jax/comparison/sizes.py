"""Bytes of images and labels, one axis on which sets with any kind of labels can be compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.data import Source, read
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.formats import distilled
from delt_jax.labels import soft_labels
from delt_jax.store import files, pictures
from delt_jax.store.local_copies import local
from delt_jax.teachers import teacher as teacher_lib

_FLOAT = 4  # bytes
SAMPLE = 100  # real images whose mean size stands for all
WORDS = (
    "Bytes are those of images and labels: distilled images as they are stored, real ones at the "
    f"mean size of {SAMPLE} of them as PNG; a hard label as one byte, or two beyond 256 classes; "
    "soft labels as they are stored, those of fewer images in proportion. Online labels need the "
    "teachers, so they count the weights of these networks."
)


@dataclass(frozen=True)
class RealSizes:
    """What real images would take.

    Attributes:
      count: of all training images.
      bytes_each: mean size of one as PNG.
    """

    count: int
    bytes_each: float


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk of what a cell made, and what its real images would take.

    Attributes:
      num_classes: of the data.
      images: of the distilled images of each rank, all classes together.
      labels: of soft labels by regime: "fixed", and "stored" if it has those.
      teachers: of the weights of all networks that label; None where one cannot be found.
      real: the data's training images; None where there are none.
    """

    num_classes: int
    images: tuple[int, ...]
    labels: Mapping[str, int]
    teachers: int | None
    real: RealSizes | None = None

    def of_images(self, row: ScoreRow, is_baseline: bool) -> int | None:
        """Bytes of the images of a row; None if they are not known.

        Args:
          row: of scores; an `ipc` of 0 stands for all real images.
          is_baseline: whether its images are real ones.
        """
        if not is_baseline:
            return sum(self.images[: row.ipc])
        count = self._count(row)
        return None if self.real is None or not count else round(count * self.real.bytes_each)

    def of_labels(self, row: ScoreRow) -> int | None:
        """Bytes of the labels of a row; None if they are not known."""
        if row.regime == "online":
            return self.teachers
        count = self._count(row)
        if row.regime in ("hard", "plain"):
            each = np.min_scalar_type(self.num_classes - 1).itemsize
            return each * count if count else None
        stored = self.labels.get(row.regime)
        share = count / (self.num_classes * len(self.images))
        return None if stored is None or not count else round(stored * share)

    def of_row(self, row: ScoreRow, is_baseline: bool) -> int | None:
        """Bytes of images and labels of a row; None if either is not known."""
        parts = self.of_images(row, is_baseline), self.of_labels(row)
        return None if None in parts else sum(filter(None, parts))

    def _count(self, row: ScoreRow) -> int:
        """Number of a row's images; 0 if it is not known."""
        if row.ipc:
            return row.ipc * self.num_classes
        return self.real.count if self.real else 0


def of_folder(folder: Path, real: RealSizes | None = None) -> Sizes:
    """Looks up the sizes of a finished cell.

    Args:
      folder: a work directory whose stages are all done.
      real: what real images would take, where that is known.

    Raises:
      UserError: if a file is missing or damaged.
    """
    manifest = distilled.read_manifest(folder / "distilled")
    num_classes, ipc = len(manifest["class_names"]), manifest["ipc"]
    path, labels, teachers = folder / soft_labels.FOLDER / soft_labels.MANIFEST, {}, None
    if path.exists():  # else nothing asked for a teacher
        labelled = files.read_json(path)
        labels["fixed"], teachers = labelled["bytes"], _bytes_of_teachers(folder, labelled)
        if "stored" in labelled:
            labels["stored"] = labelled["stored"]["bytes"]
    if "learned_labels" in manifest:
        labels["learned"] = _FLOAT * num_classes**2 * ipc
    if manifest["storage"] == distilled.FLOATS:
        each = _FLOAT * num_classes * manifest["image_size"] ** 2 * manifest["channels"]
        return Sizes(num_classes, (each,) * ipc, labels, teachers, real)
    images = tuple(
        sum(
            _bytes_of(distilled.path_of(folder / "distilled", c * ipc + rank, manifest))
            for c in range(num_classes)
        )
        for rank in range(ipc)
    )
    return Sizes(num_classes, images, labels, teachers, real)


def of_real_images(source: Source) -> RealSizes | None:
    """What a source's training images would take; None if it has none."""
    count = len(source.train)
    if not count:
        return None
    chosen = np.unique(np.linspace(0, count - 1, SAMPLE).astype(int))
    sizes = [len(pictures.encode(image)) for image in read(source.train, chosen)]
    return RealSizes(count, float(np.mean(sizes)))


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as e:
        raise DamagedArtefact(path, f"{path} is missing or damaged", "recover") from e


def _bytes_of_teachers(folder: Path, labelled: Mapping[str, Any]) -> int | None:
    """Bytes of the weights of the networks that gave a run's labels; None if one is gone."""
    listed = [labelled.get("teacher", {}), *labelled.get("more_teachers", ())]
    wanted = {each.get("hash") for each in listed}
    found: dict[str, int] = {}
    for place in _folders_of_teachers(folder):
        try:
            at = local(place)
            given = teacher_lib.describe(at).hash
            found.setdefault(given, (at / teacher_lib.WEIGHTS).stat().st_size)
        except (UserError, OSError):
            continue
    return sum(found[one] for one in wanted) if wanted <= found.keys() else None


def _folders_of_teachers(folder: Path) -> list[Path | str]:
    """Where the networks that label may be: those of the run, and those that it was given."""
    first = folder / "teacher"
    settings = files.read_json(folder / "config.json").get("settings", {})
    others = [
        folder / each["folder"]
        for each in files.read_json(first / "manifest.json").get("others", ())
    ]
    return [first, *others, *settings.get("relabel.teachers", ())]
