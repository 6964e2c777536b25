"""Checks settings without data: each against what its field allows, then their combinations."""

import math
from typing import Any

from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS, DataRecipe, Recipe, RecoverRecipe, flatten
from delt_jax.recovery.schedule import check_rounds


def validate(recipe: Recipe) -> None:
    """Checks ranges, choices and combinations of settings.

    Raises:
      UserError: names the first setting that cannot work, and why.
    """
    for name, value in flatten(recipe).items():
        _check_value(name, value)
    _check_data(recipe.data)
    _check_teachers(recipe)
    _check_iterations(recipe.recover)
    _check_recovery(recipe)


def _check_value(name: str, value: Any) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{name} must be finite, not {number}.")
    allowed = SETTINGS[name].allowed
    problem = None if value is None or allowed is None else allowed.problem(value)
    if problem:
        raise UserError(f"{name} {problem}.")


def _check_data(data: DataRecipe) -> None:
    if len(data.mean) != len(data.std):
        raise UserError(
            f"data.mean and data.std need one value per channel each, but have "
            f"{len(data.mean)} and {len(data.std)}."
        )


def _check_teachers(recipe: Recipe) -> None:
    """Checks what teachers and students are made of, and who uses further teachers."""
    heads = recipe.teacher.head_classes
    if heads and not recipe.teacher.weights:
        raise UserError(
            "teacher.head_classes picks outputs of imported weights, but teacher.weights is empty; "
            "set both or neither."
        )
    twice = sorted({c for c in heads if heads.count(c) > 1})
    if twice:
        raise UserError(
            f"teacher.head_classes lists {', '.join(map(str, twice))} more than once; every class "
            f"of the data needs an output of its own."
        )
    if recipe.relabel.ensemble and not recipe.teacher.others:
        raise UserError(
            "relabel.ensemble averages the logits of all the run's teachers, but teacher.others is "
            "empty; name others there, or leave relabel.ensemble off."
        )
    if recipe.recover.round_robin and not recipe.teacher.others:
        raise UserError(
            "recover.round_robin lets the run's teachers take turns, but teacher.others is empty; "
            "name others there, or leave recover.round_robin off."
        )
    if not recipe.evaluate.students:
        raise UserError("evaluate.students is empty; name at least one architecture.")


def _check_iterations(r: RecoverRecipe) -> None:
    """Checks T, R, the classes' least budget and the curriculum's milestone."""
    check_rounds(r.iterations, r.round_iterations)
    if r.min_iterations and not r.round_iterations:
        raise UserError("recover.min_iterations needs recover.round_iterations above 0.")
    if r.milestone > 1:
        raise UserError(f"recover.milestone is a share of the iterations, not {r.milestone}.")
    if r.min_iterations and not r.round_iterations <= r.min_iterations <= r.iterations:
        raise UserError(
            f"recover.min_iterations ({r.min_iterations}) must lie between "
            f"recover.round_iterations ({r.round_iterations}) and recover.iterations "
            f"({r.iterations})."
        )
    if r.min_iterations and r.min_iterations % r.round_iterations:
        raise UserError(
            f"recover.min_iterations ({r.min_iterations}) must be a multiple of "
            f"recover.round_iterations ({r.round_iterations})."
        )


def _check_recovery(recipe: Recipe) -> None:
    """Checks what recovery adds to the objective and to the images."""
    r = recipe.recover
    if r.residual and recipe.select.start == "noise":
        raise UserError(
            f"recover.residual ({r.residual}) mixes real pixels of the start into the images, but "
            f"select.start is 'noise'; set it to 'real' or 'rded', or recover.residual to 0."
        )
    if r.terms:
        from delt_jax import terms  # brings JAX, which takes a second to import

        terms.asked(r.terms)
