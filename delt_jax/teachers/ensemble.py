"""What `teacher.others` asks for: each of the run's other teachers as a recipe of its own."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from delt_jax import models
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe, TeacherRecipe
from delt_jax.teachers import teacher as teacher_lib

FOLDER = "teachers"  # of a work directory, with a folder for each


def recipes(recipe: Recipe) -> dict[str, Recipe]:
    """For each other teacher the recipe of which it is the only one, by its folder's name.

    The name is NAME or NAME_WIDTH; the second of the same is NAME-2, the third NAME-3. A teacher
    that is trained draws from streams of that name, so it neither shares those of the first
    teacher, nor depends on which others there are.

    Raises:
      UserError: for an entry that is neither an architecture nor the folder of a teacher.
    """
    alone, counts = {}, Counter[str]()
    for entry in recipe.teacher.others:
        settings, name = _read(entry, recipe.teacher)
        counts[name] += 1
        own = f"{name}-{counts[name]}" if counts[name] > 1 else name
        alone[own] = replace(recipe, teacher=settings)
    return alone


def _read(entry: str, first: TeacherRecipe) -> tuple[TeacherRecipe, str]:
    """An entry's settings, which are those of the first but for what it says, and its name."""
    plain = replace(first, weights="", head_classes=(), others=())
    model, colon, width = entry.partition(":")
    if model in models.NAMES and not colon:
        return replace(plain, model=model, width=0), model
    if model in models.NAMES and width.isdecimal() and int(width):
        return replace(plain, model=model, width=int(width)), f"{model}_{int(width)}"
    if entry and Path(entry).is_dir():
        try:
            spec = teacher_lib.describe(Path(entry)).spec
        except UserError as e:
            raise UserError(f"teacher.others lists {entry}: {e}") from e
        return replace(plain, weights=entry), f"{spec.name}_{spec.width}".removesuffix("_0")
    if model in models.NAMES:
        raise UserError(
            f"teacher.others lists {entry!r}, but a width is a whole number from 1; write for "
            f"instance {model}:64."
        )
    raise UserError(
        f"teacher.others lists {entry!r}, which is neither the folder of a finished teacher nor "
        f"an architecture; the zoo has {', '.join(models.NAMES)}, each also as NAME:WIDTH."
    )
