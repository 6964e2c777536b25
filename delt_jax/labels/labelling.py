"""How teachers label: by their averaged logits, of plain images and of whole epochs of views."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax.augment import drawing
from delt_jax.augment.drawing import Drawn, Wanted
from delt_jax.augment.views import ViewProgram
from delt_jax.data import Normalisation, Source
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.compact import Compact
from delt_jax.labels.label_store import LabelPlan
from delt_jax.recipe import Recipe
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program
from delt_jax.store.local_copies import local
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher


def load_teachers(
    first: Path,
    more: Sequence[str],
    source: Source,
    say: Callable[[str], None],
    ensemble: bool = False,
) -> tuple[Teacher, ...]:
    """Loads the teachers that label, and checks each against the data.

    Args:
      first: folder of the run's first teacher.
      more: folders of teachers of other runs, as `relabel.teachers` lists them.
      source: the data.
      say: tells the user about each check.
      ensemble: whether the run's other teachers label, too; they come after the first.

    Raises:
      UserError: naming the folder of a teacher that is missing, damaged or of other classes.
    """
    teachers = [teacher_lib.load(first), *(teacher_lib.load_others(first) if ensemble else ())]
    for teacher in teachers:
        teacher_lib.check_against(teacher, source, say)
    for folder in more:
        with _named(folder):
            teachers.append(teacher_lib.load(local(folder)))
            teacher_lib.check_against(teachers[-1], source, say)
    return tuple(teachers)


def described(more: Sequence[str], source: Source) -> list[Teacher]:
    """The teachers of `relabel.teachers` without their variables, which are not read.

    Raises:
      UserError: naming the folder of one that is missing or of other classes.
    """
    teachers = []
    for folder in more:
        with _named(folder):
            teachers.append(teacher_lib.describe(local(folder)))
            teacher_lib.check_class_names("The teacher", teachers[-1].class_names, source)
    return teachers


def ensemble_inputs(recipe: Recipe, workdir: WorkDir) -> dict[str, Any]:
    """Hashes of the run's other teachers if `relabel.ensemble` lets them label, else nothing.

    Raises:
      UserError: if the run has no other teachers yet.
    """
    if not recipe.relabel.ensemble:
        return {}
    manifest = workdir.needed("teacher/manifest.json", "squeeze")
    if not manifest.get("others"):
        raise UserError(
            f"relabel.ensemble needs the run's other teachers, but {workdir.path}/teacher lists "
            f"none; run the squeeze stage first (--stages=squeeze)."
        )
    return {"relabel.ensemble": [other["hash"] for other in manifest["others"]]}


@contextlib.contextmanager
def _named(folder: str) -> Iterator[None]:
    """Adds the folder to the sentence of a UserError about its teacher."""
    try:
        yield
    except UserError as e:
        raise UserError(f"relabel.teachers names {folder}: {e}") from e


def mean_logits(
    models: Sequence[nn.Module],
    normalisations: Sequence[Normalisation],
    variables: Sequence[dict[str, Any]],
    images: chex.Array,
) -> chex.Array:
    """Logits averaged over teachers, float32 [B, classes].

    Args:
      models: the teachers' modules.
      normalisations: of each teacher's inputs.
      variables: of each teacher.
      images: float32 [B, S, S, C], normalised for the first teacher.
    """
    logits: list[chex.Array] = [
        model.apply(own, _renormalised(images, normalisations[0], normalisation), train=False)
        for model, normalisation, own in zip(models, normalisations, variables, strict=True)
    ]
    return sum(logits[1:], logits[0]) / len(logits)


def _renormalised(images: chex.Array, before: Normalisation, after: Normalisation) -> chex.Array:
    """Turns images normalised for one teacher into those that another takes."""
    if before == after:
        return images
    unit = images * jnp.asarray(before.std) + jnp.asarray(before.mean)
    return (unit - jnp.asarray(after.mean)) / jnp.asarray(after.std)


def fixed_logits(teachers: Sequence[Teacher], pixels: np.ndarray) -> np.ndarray:
    """Averaged logits float32 [N, classes] of pixels uint8 [N, S, S, C] without augmentation."""
    logits = [teacher_lib.logits_of(teacher, pixels) for teacher in teachers]
    return np.mean(np.stack(logits), axis=0)


class _Labelling(NamedTuple):
    """What is compiled into the labelling of views; hashable.

    Attributes:
      models: the teachers' modules.
      normalisations: of each teacher's inputs.
      plan: in what form labels are stored.
    """

    models: tuple[nn.Module, ...]
    normalisations: tuple[Normalisation, ...]
    plan: LabelPlan


class EpochLabeller:
    """Labels whole epochs of views, in chunks that go round the local devices.

    Teachers and images stay on all devices, or on one where chunks are fewer.
    """

    def __init__(self, teachers: Sequence[Teacher], pixels: np.ndarray, plan: LabelPlan):
        """Takes the teachers, the set uint8 [N, S, S, C], and which of its views to label."""
        most, group = prediction.batch_size(pixels.shape[1]), plan.group_size
        self._count = len(pixels)
        # Chunks as students draw them where their batches are groups that fit into memory.
        self._chunk, is_aligned = drawing.span(self._count, 1, group, most)
        self._program = _Labelling(
            tuple(teacher.model for teacher in teachers),
            tuple(teacher.normalisation for teacher in teachers),
            plan,
        )
        self._views = ViewProgram(plan.views, teachers[0].normalisation, is_aligned)
        available = devices.device_count()
        self._devices = available if self._count >= available * self._chunk else 1
        variables = [teacher.variables for teacher in teachers]
        self._variables = devices.copies_for_jobs(variables, self._devices)
        self._pixels = devices.copies_for_jobs(np.asarray(pixels), self._devices)
        self._key = devices.stack_jobs([plan.view_key], self._devices)

    def label(self, epoch: int, on_images: Callable[[int], None]) -> Compact:
        """Labels of an epoch by index of the image, host arrays.

        Args:
          epoch: number of the labelled epoch.
          on_images: told how many more views have labels.

        Raises:
          UserError: if a teacher's logits are not finite, or too large to be stored.
        """
        chunks: list[tuple[np.ndarray, Compact]] = []
        waiting: tuple[list[int], jax.Array, Compact] | None = None
        for starts, size in self._groups():
            drawn = self._draw(epoch, starts, size)
            label = _label_views(self._program, drawn.mixed.images.shape[2:], self._devices)
            labels = label((), (self._variables, drawn.mixed.images), ())
            if waiting is not None:  # the devices have the next group to work on, and no more
                chunks += _on_host(*waiting)
            waiting = starts, drawn.own, labels
            for _ in starts:
                on_images(size)
        if waiting is not None:
            chunks += _on_host(*waiting)
        whole = _by_image(chunks, self._count)
        compact.check_finite(whole, self._program.plan.form)
        return whole

    def _groups(self) -> Iterator[tuple[list[int], int]]:
        """First positions of chunks that run side by side, and their size; a rest comes last."""
        rest = self._count % self._chunk
        whole = range(0, self._count - rest, self._chunk)
        for starts in devices.device_groups(whole, self._devices):
            yield starts, self._chunk
        if rest:
            yield [self._count - rest], rest

    def _draw(self, epoch: int, starts: Sequence[int], size: int) -> Drawn:
        """Views of chunks of a labelled epoch, with leading axes [devices, 1]."""
        plan, shape = self._program.plan, self._pixels.shape[2:]
        layout = drawing.JobLayout(self._devices)
        program = drawing.compiled(self._views, plan.group_size, shape, size, layout)
        chunks = [np.arange(start, start + size, dtype=np.int32) for start in starts]
        positions = devices.stack_jobs(chunks, self._devices)
        wanted = Wanted(self._key, self._pixels, positions)
        return program((), wanted, np.int32(epoch % plan.epochs))


@functools.lru_cache(maxsize=16)
def _label_views(program: _Labelling, shape: tuple[int, ...], num_devices: int) -> Program:
    """Compiles the labelling of views on each of some devices.

    The job of a device: the teachers' variables, and views normalised for the first teacher.

    Args:
      program: what is labelled.
      shape: of the views.
      num_devices: local devices to use.
    """
    del shape  # only tells programs apart

    def label(_, job, __):
        variables, images = job
        logits = mean_logits(program.models, program.normalisations, variables, images)
        plan = program.plan
        return compact.compress(logits, plan.top_k, plan.form, plan.temperature)

    return Program(devices.map_jobs(label, num_devices))


def _on_host(
    starts: Sequence[int], own: jax.Array, labels: Compact
) -> list[tuple[np.ndarray, Compact]]:
    """Images and labels of each chunk of a group."""
    return [(devices.job(own, i), devices.job(labels, i)) for i in range(len(starts))]


def _by_image(chunks: Sequence[tuple[np.ndarray, Compact]], count: int) -> Compact:
    """Puts labels of chunks, which are in the order of the epoch, into the order of the images."""

    def in_order(arrays: Sequence[chex.Array]) -> np.ndarray:
        whole = np.empty((count, arrays[0].shape[1]), arrays[0].dtype)
        for (indices, _), array in zip(chunks, arrays, strict=True):
            whole[indices] = array
        return whole

    values, classes = zip(*(labels for _, labels in chunks), strict=True)
    return Compact(in_order(values), None if classes[0] is None else in_order(classes))
