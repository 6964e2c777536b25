"""How teachers label: their averaged logits, of images as they are and of whole epochs of views."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax.augment.views import EpochPlan, ViewProgram, plan_epoch, student_views
from delt_jax.data import Normalisation, Source
from delt_jax.errors import UserError
from delt_jax.labels import compact
from delt_jax.labels.compact import Compact
from delt_jax.labels.label_store import LabelPlan
from delt_jax.recipe import Recipe
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher


def teachers(
    first: Path,
    more: Sequence[str],
    source: Source,
    say: Callable[[str], None],
    ensemble: bool = False,
) -> tuple[Teacher, ...]:
    """Loads the run's teacher and more of them, and checks each against the data.

    Args:
      first: folder of the run's teacher.
      more: folders of others, as `relabel.teachers` lists them.
      source: the data.
      say: tells the user about each check.
      ensemble: whether the run's other teachers are among them, after the first.

    Raises:
      UserError: naming the folder of a teacher that is missing, damaged or of other classes.
    """
    teachers = [teacher_lib.load(first), *(teacher_lib.load_others(first) if ensemble else ())]
    for teacher in teachers:
        teacher_lib.check_against(teacher, source, say)
    for folder in more:
        with _named(folder):
            teachers.append(teacher_lib.load(Path(folder)))
            teacher_lib.check_against(teachers[-1], source, say)
    return tuple(teachers)


def described(more: Sequence[str], source: Source) -> list[Teacher]:
    """More teachers without their variables.

    Raises:
      UserError: naming the folder of one that is missing or of other classes.
    """
    teachers = []
    for folder in more:
        with _named(folder):
            teachers.append(teacher_lib.describe(Path(folder)))
            teacher_lib.check_class_names("The teacher", teachers[-1].class_names, source)
    return teachers


def ensemble_inputs(recipe: Recipe, workdir: WorkDir) -> dict[str, Any]:
    """Hashes of the run's other teachers, where `relabel.ensemble` lets them label.

    Raises:
      UserError: if the run has none yet.
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
    """Says of a teacher that is refused which it is."""
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
    """Logits averaged over teachers, float32 [B, classes]; a pure function.

    Args:
      models: of the teachers.
      normalisations: of their inputs.
      variables: theirs.
      images: float32 [B, S, S, C], normalised for the first of them.
    """
    logits: list[chex.Array] = [
        model.apply(own, _renormalised(images, normalisations[0], normalisation), train=False)
        for model, normalisation, own in zip(models, normalisations, variables, strict=True)
    ]
    return sum(logits[1:], logits[0]) / len(logits)


def _renormalised(images: chex.Array, before: Normalisation, after: Normalisation) -> chex.Array:
    """Images that are normalised for one teacher, as another takes them."""
    if before == after:
        return images
    unit = images * jnp.asarray(before.std) + jnp.asarray(before.mean)
    return (unit - jnp.asarray(after.mean)) / jnp.asarray(after.std)


def fixed_logits(teachers: Sequence[Teacher], pixels: np.ndarray) -> np.ndarray:
    """Averaged logits float32 [N, classes] of pixels uint8 [N, S, S, C] as they are."""
    logits = [teacher_lib.logits_of(teacher, pixels) for teacher in teachers]
    return np.mean(np.stack(logits), axis=0)


class EpochLabeller:
    """Labels whole epochs of views; teachers and images stay on the device."""

    def __init__(self, teachers: Sequence[Teacher], pixels: np.ndarray, plan: LabelPlan):
        """Takes the teachers, the set uint8 [N, S, S, C] and what is to be labelled."""
        self._teachers, self._plan = teachers, plan
        self._models = tuple(teacher.model for teacher in teachers)
        self._normalisations = tuple(teacher.normalisation for teacher in teachers)
        self._variables = jax.device_put([teacher.variables for teacher in teachers])
        self._pixels = jax.device_put(pixels)
        # Chunks of whole groups, where they are not too large: partners' views are drawn once.
        most, group = teacher_lib.batch_size(pixels.shape[1]), plan.group_size
        self._aligned = group <= most
        self._chunk = most // group * group if self._aligned else most

    def label(self, epoch: int, on_images: Callable[[int], None]) -> Compact:
        """Labels of an epoch by index of the image, host arrays.

        Args:
          epoch: number of the labelled epoch.
          on_images: told how many more views have labels.

        Raises:
          UserError: if a teacher's logits are not finite, or too large to be stored.
        """
        count, plan = len(self._pixels), self._plan
        key, _, group_size = plan.epoch(epoch)
        drawn = _plan_epoch(key, count, group_size)
        order, pieces = np.asarray(drawn.order), []
        for start in range(0, count, self._chunk):
            size = min(self._chunk, count - start)
            labels = _label(
                self._variables,
                self._pixels,
                key,
                drawn,
                start,
                models=self._models,
                normalisations=self._normalisations,
                plan=plan,
                size=size,
                aligned=self._aligned,
            )
            pieces.append((order[start : start + size], labels))
            if len(pieces) > 1:  # while the device is at work on the latest one
                jax.block_until_ready(pieces[-2][1])
            on_images(size)
        whole = _by_image(pieces, count)
        compact.check_finite(whole, plan.form)
        return whole


_plan_epoch = jax.jit(plan_epoch, static_argnums=(1, 2))


@functools.partial(jax.jit, static_argnames=("models", "normalisations", "plan", "size", "aligned"))
def _label(
    variables: Sequence[dict[str, Any]],
    pixels: chex.Array,
    key: chex.PRNGKey,
    drawn: EpochPlan,
    start: chex.Array,
    *,
    models: tuple[nn.Module, ...],
    normalisations: tuple[Normalisation, ...],
    plan: LabelPlan,
    size: int,
    aligned: bool,
) -> Compact:
    """Labels of the views at positions start..start + size of an epoch."""
    drawing = ViewProgram(plan.views, normalisations[0], aligned)
    mixed = student_views(key, pixels, drawn, start, size, drawing)
    logits = mean_logits(models, normalisations, variables, mixed.images)
    return compact.compress(logits, plan.top_k, plan.form, plan.temperature)


def _by_image(pieces: Sequence[tuple[np.ndarray, Compact]], count: int) -> Compact:
    """Puts labels of chunks in the places of their images."""

    def whole(parts: Sequence[chex.Array]) -> np.ndarray:
        places = np.empty((count, parts[0].shape[1]), parts[0].dtype)
        for (indices, _), part in zip(pieces, parts, strict=True):
            places[indices] = part
        return places

    values, classes = zip(*(labels for _, labels in pieces), strict=True)
    return Compact(whole(values), None if classes[0] is None else whole(classes))
