"""Extra loss terms of recovery, beside cross-entropy and BN matching.

Each term is a file of this package that defines `TERM`, or a plug-in. A recipe names terms and
weights, as in ``config.recover.terms = ("barycentre=1.0",)``; a name alone has weight 1. May import
`teachers` and the floors below them.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex

from delt_jax.core import plugins
from delt_jax.data import Source
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe
from delt_jax.teachers.teacher import Teacher


class TeacherOutputs(NamedTuple):
    """What a teacher computes of the active images of a batch, beside their labels and ranks.

    Attributes:
      images: normalised float32 [n, S, S, C], as viewed.
      labels: int32 [n].
      ranks: int32 [n], position of each image among the synthetic images of its class.
      classes: static tuple, numbers the classes of these images from 0.
      logits: float32 [n, classes].
      features: float32 [n, D], input of the last layer.
      norm_inputs, conv_inputs: input of every BatchNorm and every convolution, [n, h, w, c] each,
        in forward order, in the type of the activations.
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
      value: ``(seen, constants, state) -> (value, state)``, a pure function that compiled steps
        call: returns a float32 scalar, and the state for the next iteration with this teacher.
      prepare: ``(teacher, source, recipe, cache) -> constants``, called once per teacher: returns a
        pytree of numpy arrays that all batches share. The folder `cache` is for what takes long.
      init: ``(constants) -> state``, a pytree of numpy arrays before a batch's first iteration;
        `value` must keep its shapes and dtypes.
      version: part of the images' identity; raise it when the term's values change.
      reads_images: whether `prepare` reads the training images.
      reads_convolutions: whether the teacher must have convolutions of images.
      parts: ``recipe -> versions`` by name of what the term uses under some recipes only; part of
        the images' identity, too.
      check: raises a UserError before a run where a package is missing that the term needs.
    """

    value: Callable[[TeacherOutputs, Any, Any], tuple[chex.Array, Any]]
    prepare: Callable[[Teacher, Source, Recipe, Path], Any] = lambda *_: ()
    init: Callable[[Any], Any] = lambda constants: ()
    version: int = 1
    reads_images: bool = False
    reads_convolutions: bool = False
    parts: Callable[[Recipe], Mapping[str, int]] = lambda recipe: {}
    check: Callable[[], None] = lambda: None


def names() -> list[str]:
    """Names of our own terms, which are the files of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Term:
    """The term of this name, our own or a plug-in.

    Raises:
      UserError: if there is no such term.
    """
    found = plugins.find(plugins.TERMS, name, dict.fromkeys(names()))
    if found is None:
        return importlib.import_module(f"{__name__}.{name}").TERM
    return plugins.checked(plugins.TERMS, name, found, Term, "a delt_jax.terms.Term")


def parts(name: str, recipe: Recipe) -> dict[str, int]:
    """Versions of what a term is made by, part of the images' identity."""
    term = find(name)
    raised = 0 if name in names() else plugins.version(plugins.TERMS, name) - 1
    return {f"term.{name}": term.version + raised, **term.parts(recipe)}


def asked(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parses the entries of ``recover.terms`` to names and weights.

    >>> asked(("barycentre=0.5", "densification"))
    (('barycentre', 0.5), ('densification', 1.0))

    Raises:
      UserError: if a name is unknown or comes twice, or a weight is no finite number above 0.
    """
    found: dict[str, float] = {}
    for entry in entries:
        name, equals, written = entry.partition("=")
        find(name)
        try:
            weight = float(written) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not 1e-37 <= weight <= 1e37:  # others are 0 or infinite in float32
            raise UserError(
                f"recover.terms has {entry!r}, whose weight must be a finite number above 0; write "
                f"name=weight, or the name alone for weight 1."
            )
        if name in found:
            raise UserError(f"recover.terms names {name!r} twice; give each term one weight.")
        found[name] = weight
    return tuple(found.items())
