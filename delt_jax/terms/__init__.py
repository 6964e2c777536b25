"""Further terms of recovery's objective, beside the cross-entropy and BN matching.

A term is a file of this package with a `TERM`; recipes ask for it by the file's name and a
weight, as in ``config.recover.terms = ("barycentre=1.0",)``; a name alone has weight 1.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex

from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe
from delt_jax.teachers.teacher import Teacher


class TeacherOutputs(NamedTuple):
    """A teacher's look at the active images of a batch.

    Attributes:
      images: normalised float32 [n, S, S, C], as viewed.
      labels: int32 [n].
      ranks: int32 [n], position of each image among those of its class.
      classes: static, a number from 0 for each image, equal for those of one class of the batch.
      logits: float32 [n, classes].
      features: float32 [n, D], input of the last layer.
      norm_inputs, conv_inputs: what goes into every BatchNorm and every convolution, [n, h, w, c]
        each, in forward order.
      key: typed PRNG key of the batch and the iteration.
    """

    images: chex.Array
    labels: chex.Array
    ranks: chex.Array
    classes: tuple[int, ...]
    logits: chex.Array
    features: chex.Array
    norm_inputs: tuple[chex.Array, ...]
    conv_inputs: tuple[chex.Array, ...]
    key: chex.PRNGKey


class Term(NamedTuple):
    """A term of the objective.

    Attributes:
      value: ``(seen, constants, carried) -> (value, carried)``, pure; a float32 scalar, and what
        the next iteration with this teacher is given.
      prepare: ``(teacher, source, recipe, cache) -> constants``, a pytree of numpy arrays that all
        batches share, once per teacher; what takes long is kept in the folder `cache`.
      init: ``(constants) -> carried`` before a batch's first iteration, a pytree of arrays of
        numpy's own types, whose shapes and types stay as they are.
      version: part of the identity of the images; raise it when the term's values change.
    """

    value: Callable[[TeacherOutputs, Any, Any], tuple[chex.Array, Any]]
    prepare: Callable[[Teacher, Source, Recipe, Path], Any] = lambda *_: ()
    init: Callable[[Any], Any] = lambda constants: ()
    version: int = 1


def names() -> list[str]:
    """Of all terms, the files of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Term:
    """The term of a name.

    Raises:
      UserError: if there is none.
    """
    if name not in names():
        raise UserError(
            f"There is no term {name!r} for recover.terms; there are {', '.join(names())}."
        )
    return importlib.import_module(f"{__name__}.{name}").TERM


def asked(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Names and weights that ``recover.terms`` asks for.

    >>> asked(("barycentre=0.5", "densification"))
    (('barycentre', 0.5), ('densification', 1.0))

    Raises:
      UserError: for a name that is not known or comes twice, or a weight that is none.
    """
    found: dict[str, float] = {}
    for entry in entries:
        name, equals, written = entry.partition("=")
        find(name)
        try:
            weight = float(written) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(
                f"recover.terms has {entry!r}, whose weight must be a finite number above 0; write "
                f"name=weight, or the name alone for weight 1."
            )
        if name in found:
            raise UserError(f"recover.terms names {name!r} twice; give each term one weight.")
        found[name] = weight
    return tuple(found.items())
