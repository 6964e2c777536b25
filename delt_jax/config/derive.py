"""Derives from the data the settings that a recipe leaves open with 0, -1 or ""."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delt_jax.config import methods
from delt_jax.config.methods import DataKind
from delt_jax.data import Source
from delt_jax.evaluation import rows
from delt_jax.learned import methods as learned_methods
from delt_jax.learned import setups
from delt_jax.recipe import Recipe

_IPC = 10
_NAMED = 5  # small classes in a sentence
_TEACHER_IMAGES = 20_000  # that a teacher sees in training, roughly
_TEACHER_EPOCHS = (5, 60)
_STUDENT_IMAGES = 10_000
_STUDENT_EPOCHS = (100, 300)
_JITTER = 7  # shifts of a 7th of the side: 32 px of 224 and 4 of 32, as published
_NETWORKS = ((32, "conv3"), (64, "conv4"), (math.inf, "resnet18"))  # by the largest side, px


def complete(recipe: Recipe, source: Source) -> tuple[Recipe, list[str]]:
    """Returns the recipe with everything set, and a sentence about each setting that was derived.

    The rules are ours. `ipc` is 10, or the size of the smallest training class where small ones do
    not repeat. `teacher.model` is
    conv3 to 32 px, conv4 to 64, resnet18 above; students are like the teacher. Epochs are such that
    the teacher sees about 20,000 images (5 to 60 epochs) and a student about 10,000 (100 to 300).
    `recover.jitter` is a seventh of the side. Where there are no training images, what would be
    made of them is left out.
    """
    recipe, notes = _without_training_images(recipe)
    counts = np.bincount(source.train.labels, minlength=len(source.class_names))
    repeat = recipe.select.small_classes == "repeat"
    if not recipe.ipc and recipe.data.has_training_images and not repeat:
        recipe = replace(recipe, ipc=max(1, min(_IPC, int(counts.min()))))
        notes.append(f"ipc {recipe.ipc}: the smallest class has {counts.min()} training images")
    elif not recipe.ipc and recipe.data.has_training_images:
        recipe = replace(recipe, ipc=_IPC)
        notes.append(f"ipc {_IPC}: what DELT's tables have for every data set")
    elif not recipe.ipc:
        recipe = replace(recipe, ipc=_IPC)
        notes.append(f"ipc {_IPC}: there are no training images")
    if recipe.data.has_training_images and repeat:
        notes += _small_classes(counts, recipe.ipc, source.class_names)
    if recipe.synthesis == "learn":
        recipe, learned = _learned(recipe, source)
        notes += learned
    teacher, evaluate = recipe.teacher, recipe.evaluate
    if not teacher.model:
        model = next(name for side, name in _NETWORKS if source.image_size <= side)
        teacher = replace(teacher, model=model)
        notes.append(f"teacher.model {model}: the images have {source.image_size} px")
    if not teacher.epochs and len(source.train):
        count = len(source.train)
        teacher = replace(teacher, epochs=_epochs(_TEACHER_IMAGES, count, _TEACHER_EPOCHS))
        notes.append(f"teacher.epochs {teacher.epochs}: there are {count} training images")
    if "" in evaluate.students:
        students = tuple(name or teacher.model for name in evaluate.students)
        evaluate = replace(evaluate, students=students)
        notes.append(f"evaluate.students {','.join(students)}: like the teacher")
    if evaluate.epochs == 0:
        count = len(source.class_names) * recipe.ipc
        evaluate = replace(evaluate, epochs=_epochs(_STUDENT_IMAGES, count, _STUDENT_EPOCHS))
        notes.append(f"evaluate.epochs {evaluate.epochs}: there are {count} distilled images")
    recover = recipe.recover
    if recover.jitter < 0:
        recover = replace(recover, jitter=source.image_size // _JITTER)
        notes.append(f"recover.jitter {recover.jitter}: the images have {source.image_size} px")
    data = recipe.data
    if data.name in ("folder", "classes"):  # the source's own notes say so
        data = replace(data, image_size=source.image_size, channels=source.channels)
    changed = replace(recipe, data=data, teacher=teacher, recover=recover, evaluate=evaluate)
    return changed, notes


def _learned(recipe: Recipe, source: Source) -> tuple[Recipe, list[str]]:
    """Sets what is left open of `learn` as its method publishes it for these data.

    A batch of real images is at most as large as the smallest class, or as the training set.
    """
    data = DataKind(
        recipe.data.known_as,
        source.image_size,
        recipe.teacher.model,
        source.channels,
        recipe.ipc,
        recipe.learn.small,
    )
    learn = recipe.learn
    by_class = learned_methods.find(learn.method).by_class
    published = methods.of_learning(learn.method, data)
    late = {name: s.value for name, s in published.items() if methods.is_late(name)}
    open_ones = {name.removeprefix("learn."): value for name, value in late.items()}
    learn = replace(
        learn, **{name: v for name, v in open_ones.items() if getattr(learn, name) is None}
    )
    learn = replace(learn, options=_options(late.get("learn.options", ()), learn.options or ()))
    notes = []
    labels = setups.classes_learned_from(replace(recipe, learn=learn), source)
    counts = np.bincount(labels, minlength=len(source.class_names))
    most = int(counts.min()) if by_class else len(labels)
    assert learn.real_batch is not None
    if 0 < most < learn.real_batch:
        what = "the smallest class has" if by_class else "there are"
        learn = replace(learn, real_batch=most)
        notes.append(f"learn.real_batch {most}: {what} {most} training images to learn from")
    return replace(recipe, learn=learn), notes


def _options(published: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """The published numbers of a method, name=value, with one's own in place of some."""
    entries = {entry.partition("=")[0]: entry for entry in (*published, *own)}
    return tuple(entries.values())


def _small_classes(counts: np.ndarray, ipc: int, class_names: tuple[str, ...]) -> list[str]:
    """A sentence that names the classes with fewer training images than `ipc`, if there are any."""
    small = [f"{name!r} ({n})" for name, n in zip(class_names, counts, strict=True) if n < ipc]
    if not small:
        return []
    more = f" and {len(small) - _NAMED} more" if len(small) > _NAMED else ""
    return [
        f"select.small_classes repeat: {', '.join(small[:_NAMED])}{more} have fewer training "
        f"images than ipc, so theirs come more than once"
    ]


def _without_training_images(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Leaves out baselines and neighbours where there are no real images for them."""
    notes: list[str] = []
    evaluate, report = recipe.evaluate, recipe.report
    if recipe.data.has_training_images:
        return recipe, notes
    possible = rows.image_sets(recipe)
    left_out = [name for name in evaluate.images if name not in possible]
    if left_out and possible and recipe.data.has_test_images:
        evaluate = replace(evaluate, images=possible)
        notes.append(
            f"evaluate.images {','.join(possible)}: there are no training images for "
            f"{', '.join(left_out)}"
        )
    if report.nearest:
        report = replace(report, nearest=False)
        notes.append("report.nearest False: there are no training images")
    return replace(recipe, evaluate=evaluate, report=report), notes


def _epochs(num_seen: int, count: int, limits: tuple[int, int]) -> int:
    """Epochs after which a network has seen about `num_seen` of `count` images, within limits."""
    return min(max(round(num_seen / count), limits[0]), limits[1])
