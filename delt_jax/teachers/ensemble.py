"""The other teachers of a run, `teacher.others`: one recipe for each."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from delt_jax import models
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe, TeacherRecipe
from delt_jax.teachers import teacher as teacher_lib

_WIDEST = 2**16  # channels, as of teacher.width
FOLDER = "teachers"  # in a work directory; holds one folder per teacher


def recipes(recipe: Recipe) -> dict[str, Recipe]:
    """Maps each other teacher's folder name to a recipe with that teacher alone.

    The name is NAME or NAME_WIDTH; the second of the same is NAME-2, the third NAME-3. A teacher
    that is trained here draws from random streams of that name, so it has its own and does not
    depend on which others are trained.

    Raises:
      UserError: if an entry is neither an architecture nor the folder of a teacher.
    """
    alone, counts = {}, Counter[str]()
    for entry in recipe.teacher.others:
        settings, name = _read(entry, recipe.teacher)
        counts[name] += 1
        own = f"{name}-{counts[name]}" if counts[name] > 1 else name
        alone[own] = replace(recipe, teacher=settings)
    return alone


def _read(entry: str, first: TeacherRecipe) -> tuple[TeacherRecipe, str]:
    """An entry's name and settings: those of the first teacher but for what the entry says."""
    plain = replace(first, weights="", head_classes=(), others=(), fine_tune=False)
    model, colon, width = entry.partition(":")
    if model in models.NAMES and not colon:
        return replace(plain, model=model, width=0), model
    if model in models.NAMES and width.isdecimal() and 0 < int(width[:9]) <= _WIDEST:
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
