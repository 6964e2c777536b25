"""The sets that students train on: the distilled one, parts of it, and baselines of equal IPC."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.special import softmax

from delt_jax.core.progress import progress
from delt_jax.data import Source, read
from delt_jax.evaluation import coresets, rows
from delt_jax.formats import distilled
from delt_jax.formats.distilled import DistilledSet
from delt_jax.labels import labelling, soft_labels
from delt_jax.recipe import Recipe
from delt_jax.recovery import ranking as ranking_store
from delt_jax.recovery.selection import random_images, select
from delt_jax.store import files
from delt_jax.store.identity import versions
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher
from delt_jax.training import learned_labels, protocols
from delt_jax.training.protocols import EvalSetting, Protocol
from delt_jax.training.student_program import LabelledImages

CORESETS: dict[str, Callable[..., np.ndarray]] = {
    "herding": coresets.herding,
    "kmeans": coresets.kmeans,
}


@dataclass(frozen=True)
class TrainingSet:
    """A set to learn from.

    Attributes:
      images: pixels or floats, classes and labels of other kinds.
      hash: content hash of images and classes, and of learned labels where students learn these.
    """

    images: LabelledImages
    hash: str


@dataclass(frozen=True)
class TrainingSets:
    """Makes training sets by name, each only once.

    Attributes:
      recipe: settings of the run.
      source: the real images.
      workdir: has the distilled set, its soft labels and the ranking.
      teachers: those whose mean is the soft label; coresets use the features of the first.
    """

    recipe: Recipe
    source: Source
    workdir: WorkDir
    teachers: tuple[Teacher, ...]
    _made: dict[tuple, TrainingSet] = field(default_factory=dict)

    @functools.cached_property
    def distilled(self) -> DistilledSet:
        """The distilled set, checked against the data."""
        synthetic = distilled.read(self.workdir.path / "distilled")
        teacher_lib.check_class_names("The distilled set", synthetic.class_names, self.source)
        if synthetic.preprocessing is not None:
            rows.check_learned(self.recipe)
        return synthetic

    @property
    def ipc(self) -> int:
        """Images per class of the distilled set."""
        return self.distilled.ipc

    def get(self, name: str, ipc: int, seed: int) -> TrainingSet:
        """The set of a name of `evaluate.images`.

        Args:
          name: "recovered", "random", "selected", "herding" or "kmeans".
          ipc: images per class; of the recovered set these are the first of each class.
          seed: that of the student; it draws the "random" images.
        """
        key = name, ipc, seed if self.is_drawn_per_student(name) else 0
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def is_drawn_per_student(self, name: str) -> bool:
        """Whether every student of a row gets other images."""
        return name == "random"

    def _make(self, name: str, ipc: int, seed: int) -> TrainingSet:
        classes = len(self.source.class_names)
        if name == "recovered":
            synthetic = self.distilled
            positions = np.arange(len(synthetic.images)).reshape(classes, synthetic.ipc)
            chosen = positions[:, :ipc].reshape(-1)
            if synthetic.preprocessing is not None:
                return self._learned_set(synthetic.per_class(ipc))
            logits = self._stored_logits[chosen] if self.recipe.needs_teacher else None
            return self._set(synthetic.images[chosen], synthetic.labels[chosen], logits)
        indices = self._real(name, ipc, seed).reshape(-1)
        return self._set(read(self.source.train, indices), self.source.train.labels[indices], None)

    def _learned_set(self, content: DistilledSet) -> TrainingSet:
        """Float images as students see them, with their labels."""
        is_learned = "learned" in self.recipe.evaluate.regimes
        images = labelled_images(content, self._protocol.loss, is_learned)
        parts = [images.pixels, images.labels, images.learned]
        return TrainingSet(
            images,
            files.content_hash(*(part.tobytes() for part in parts if part is not None)),
        )

    def _real(self, name: str, ipc: int, seed: int) -> np.ndarray:
        """Indices of training images, int [classes, ipc]."""
        classes, labels = len(self.source.class_names), self.source.train.labels
        if name == "random":
            return random_images(labels, ipc, classes, self.recipe.seed + seed)
        if name == "selected":
            ranking = ranking_store.read(self.workdir.path, self.teachers[0].hash)
            return select(ranking, self.recipe.select.rule, ipc, classes, self.recipe.seed)
        depends_on = f"{name}-{self.teachers[0].hash}-{self.source.fingerprint}-{ipc}"
        made_by = versions({f"coreset.{name}": coresets.VERSION})
        depends_on = "-".join([depends_on, *map(str, made_by.values())])
        path = self.workdir.path / "cache" / f"{depends_on}.npz"
        return files.cached_npz(path, lambda: {"indices": self._coreset(name, ipc)})["indices"]

    def _coreset(self, name: str, ipc: int) -> np.ndarray:
        """Indices of training images by the teacher's features, int [classes, ipc]."""
        labels, rows = self.source.train.labels, []
        with progress(len(labels), name, "image") as bar:
            for c in range(len(self.source.class_names)):  # features of one class at a time
                members = np.flatnonzero(labels == c)
                features = teacher_lib.features_of_examples(
                    self.teachers[0], self.source.train, members
                )
                # As if there were no other class.
                found = CORESETS[name](features, np.zeros(len(members), int), ipc, 1)
                rows.append(members[found[0]])
                bar.update(len(members))
        return np.stack(rows)

    @functools.cached_property
    def _stored_logits(self) -> np.ndarray:
        """Logits of the distilled set from the relabel stage, float32 [N, classes]."""
        labelled = self.workdir.needed("soft_labels/manifest.json", "relabel")
        teacher_lib.check_class_names(
            "The soft labels", tuple(labelled["class_names"]), self.source
        )
        hash_ = self.distilled.manifest["hash"]
        return soft_labels.read(self.workdir.path / soft_labels.FOLDER, hash_)

    def _set(
        self, pixels: np.ndarray, labels: np.ndarray, logits: np.ndarray | None
    ) -> TrainingSet:
        """Adds the labels that regimes need; logits of real images are made.

        Beside float images, pixels go through the preprocessing of these.
        """
        targets = learned = None
        if self._has_fixed:
            if logits is None:
                logits = labelling.fixed_logits(self.teachers, pixels)
            targets = softmax(logits / self._protocol.temperature, axis=1).astype(np.float32)
        labels = labels.astype(np.int32)
        if "learned" in self.recipe.evaluate.regimes:
            as_values = self._protocol.loss == "squared"
            classes = len(self.source.class_names)
            learned = learned_labels.of_classes(labels, classes, as_values)
        digest = files.content_hash(pixels.tobytes(), labels.tobytes())
        space = self.distilled.preprocessing
        images = pixels if space is None else np.asarray(space(pixels), np.float32)
        return TrainingSet(LabelledImages(images, labels, targets, learned), digest)

    @property
    def _has_fixed(self) -> bool:
        return "fixed" in self.recipe.evaluate.regimes

    @property
    def _protocol(self) -> Protocol:
        """By which the first student trains on the whole set."""
        first = EvalSetting(
            self.recipe.evaluate.students[0],
            len(self.source.class_names),
            self.recipe.ipc,
            self.source.image_size,
            self.source.channels,
        )
        return protocols.resolve(self.recipe, first)


def labelled_images(content: DistilledSet, loss: str, is_learned: bool) -> LabelledImages:
    """A set of float images as students train on it.

    Args:
      content: the set.
      loss: of the protocol, which says what learned labels must be.
      is_learned: whether students learn these; those of a set without any are its classes.

    Raises:
      UserError: if the learned labels are not for this loss.
    """
    images, labels = content.expand(content.labels)
    learned = None
    if is_learned:
        given = content.learned_labels
        if given is None:
            given = np.eye(len(content.class_names), dtype=np.float32)[content.labels]
        form = content.label_form if content.learned_labels is not None else "one_hot"
        targets = learned_labels.targets(given, form, loss == "squared")
        _, learned = content.expand(targets)
    return LabelledImages(images, labels.astype(np.int32), None, learned)
