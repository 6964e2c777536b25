"""Checks settings without data: each against what its field allows, then their combinations."""

import math
import re
from typing import Any

from delt_jax.core import plugins
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS, DataRecipe, Recipe, RecoverRecipe, flatten, units
from delt_jax.recipe.fields import OneOf
from delt_jax.recovery.schedule import check_rounds

# Of float32, which everything is computed in; below the smallest, processors take 0.
_LARGEST, _SMALLEST = 3.4028235e38, 1.1754944e-38
_SEEDS = ("seed", "data.split_seed")  # have their own largest value
_LONGEST = 4000  # characters of a text
_ANY_CHARACTER = ("data.class_names",)
_CONSTANTS = ("data.mean", "data.std")
# Rows of the table of scores: one that is there twice would count its students twice.
_DISTINCT = (
    "evaluate.students",
    "evaluate.images",
    "evaluate.regimes",
    "evaluate.learning_rates",
    "evaluate.smaller",
)


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
    if recipe.synthesis == "learn":
        _check_learning(recipe)


def _check_value(name: str, value: Any) -> None:
    for each in value if isinstance(value, tuple) else (value,):
        problem = _problem_of_type(name, each)
        if problem:
            raise UserError(f"{name} {problem}.")
    if name in _CONSTANTS and (high := units.too_large(value)):
        raise UserError(f"{name} {high}.")
    _check_plugins(name, value)
    allowed = SETTINGS[name].allowed
    is_open = isinstance(allowed, OneOf) and allowed.with_plugins
    problem = None if value is None or allowed is None or is_open else allowed.problem(value)
    problem = problem or _problem_of_precision(name, value)
    if problem:
        raise UserError(f"{name} {problem}.")
    if name in _DISTINCT:
        twice = next((each for each in value if value.count(each) > 1), None)
        if twice is not None:
            raise UserError(f"{name} lists {twice!r} more than once; list it once.")


def _check_plugins(name: str, value: Any) -> None:
    """Takes note of the plug-ins that a setting names; raises a UserError for an unknown name."""
    group = plugins.group_of(name)
    if group is None:
        return
    choices = SETTINGS[name].choices
    for each in value if isinstance(value, tuple) else (value,):
        if each not in choices:
            plugins.allow(group, re.sub(r"=.*|:\d+$", "", each))  # without a weight or width
    if choices and value not in choices and not plugins.is_allowed(group, value):
        known = [*choices, *plugins.names(group)]
        raise UserError(
            f"{name} must be one of {', '.join(map(repr, known))}, or a plug-in as "
            f"package.module:name, not {value!r}{nearest(value, known)}"
        )


def _problem_of_type(name: str, value: Any) -> str | None:
    """What no setting of a value's type may have, as "must be finite, not nan"."""
    if isinstance(value, str):
        return _problem_of_text(name, value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be finite, not {value}"
    if isinstance(value, float) and abs(value) > _LARGEST:
        return f"must be a number that float32 can hold, at most {_LARGEST:.4g}, not {value:g}"
    return None


def _problem_of_precision(name: str, value: Any) -> str | None:
    """Says that a number is beyond the 32 bits in which devices count and compute."""
    for each in value if isinstance(value, tuple) else (value,):
        if type(each) is int and each >= 2**31 and name not in _SEEDS:
            return f"must be at most {2**31 - 1}, not {each}"
        if isinstance(each, float) and 0 < abs(each) < _SMALLEST:
            return f"must be 0 or at least {_SMALLEST:.4g}, which float32 can hold, not {each:g}"
    return None


def _problem_of_text(name: str, text: str) -> str | None:
    """What no text may hold, as "holds a control character"; names of classes may have any."""
    if len(text) > _LONGEST:
        return f"has {len(text):,} characters; at most {_LONGEST:,} are taken"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return f"holds {text!a}, which UTF-8 cannot write; rename it"
    if "\0" in text or (name not in _ANY_CHARACTER and any(c < 32 or c == 127 for c in encoded)):
        return f"holds a control character: {text!a}"
    return None


def _check_data(data: DataRecipe) -> None:
    if len(data.mean) != len(data.std):
        raise UserError(
            f"data.mean and data.std need one value per channel each, but have "
            f"{len(data.mean)} and {len(data.std)}."
        )


def _check_fine_tuning(recipe: Recipe) -> None:
    """Checks that there is something to tune, and pictures to tune it on."""
    if not recipe.teacher.weights:
        raise UserError(
            "teacher.fine_tune trains weights on, but teacher.weights is empty; name a teacher's "
            "folder or a file of weights there."
        )
    if recipe.teacher.head_classes:
        raise UserError(
            "teacher.head_classes keeps outputs of the weights, but teacher.fine_tune gives them a "
            "new last layer; leave one of the two out."
        )
    if not recipe.data.has_training_images:
        raise UserError(
            f"teacher.fine_tune needs training images, but data.name {recipe.data.name!r} has "
            f"none; leave it out."
        )


def _check_teachers(recipe: Recipe) -> None:
    """Checks what teachers and students are made of, and who uses further teachers."""
    heads = recipe.teacher.head_classes
    if heads and not recipe.teacher.weights:
        raise UserError(
            "teacher.head_classes picks outputs of imported weights, but teacher.weights is empty; "
            "set both or neither."
        )
    if recipe.teacher.fine_tune:
        _check_fine_tuning(recipe)
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


def _check_learning(recipe: Recipe) -> None:
    """Checks what a learned set is made of, and what is asked of it."""
    learn = recipe.learn
    if learn.keep == "best" and not learn.validate_every:
        raise UserError(
            "learn.keep 'best' compares sets on validation images, but learn.validate_every is 0; "
            "set it to a number of steps, or learn.keep to 'last'."
        )
    if not recipe.data.has_training_images:
        raise UserError(
            f"synthesis 'learn' learns from training images, but data.name {recipe.data.name!r} "
            f"has none; set synthesis to 'recover'."
        )
