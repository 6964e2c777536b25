"""Fine-tuning: a teacher that begins with another network's weights and a last layer of its own.

Few pictures teach a network from scratch little. One that has seen many others has features
already, and learns the new classes in a few epochs.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from delt_jax.data import Normalisation, Source, measure_normalisation
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import Recipe
from delt_jax.teachers import teacher as teacher_lib


def spec_of(recipe: Recipe, source: Source) -> ModelSpec:
    """Architecture of the teacher: that of the weights' folder, or as configured, for the data."""
    weights = recipe.teacher.weights
    model, width = recipe.teacher.model, recipe.teacher.width
    if Path(weights).is_dir():
        taken = teacher_lib.describe(Path(weights)).spec
        model, width = taken.name, taken.width
    return ModelSpec(model, len(source.class_names), source.image_size, source.channels, width)


def normalisation_of(recipe: Recipe, source: Source) -> Normalisation:
    """Of the teacher's inputs: that of the weights' folder, or `data.mean` and `data.std`."""
    weights = Path(recipe.teacher.weights)
    if weights.is_dir():
        return teacher_lib.describe(weights).normalisation
    return measure_normalisation(recipe.data, source)


def taken_over(
    recipe: Recipe, source: Source, say: Callable[[str], None] = lambda line: None
) -> dict[tuple[str, ...], np.ndarray]:
    """What a teacher begins with: arrays of `teacher.weights` by their path in its variables.

    The last layer is left out, unless the weights are a folder's whose classes are the data's, in
    their order.

    Args:
      recipe: has `teacher.weights`.
      source: the data.
      say: gets a line on what of a file was chosen.

    Raises:
      UserError: if the weights cannot be read, or are another architecture's.
    """
    spec, weights = spec_of(recipe, source), recipe.teacher.weights
    keeps_head = False
    if Path(weights).is_dir():
        teacher = teacher_lib.load(Path(weights))
        state = torch_weights.to_torch(teacher.variables, teacher.spec)
        keeps_head = teacher.class_names == source.class_names
        keeps_head &= teacher.spec.image_size == spec.image_size
    else:
        state = torch_files.read(weights, say)
    if not keeps_head:
        state = torch_weights.without_head(state, spec)
    try:
        variables = flatten_dict(torch_weights.from_torch(state, spec))
    except UserError as e:
        raise UserError(f"teacher.weights {weights} cannot be fine-tuned: {e}") from e
    return {
        path: array
        for path, array in variables.items()
        if keeps_head or not torch_weights.is_head(path, spec)
    }


def begin(variables: dict[str, Any], taken: dict[tuple[str, ...], np.ndarray]) -> dict[str, Any]:
    """Fresh variables with what is taken over in its place."""
    return unflatten_dict(flatten_dict(variables) | taken)


def slower_body(spec: ModelSpec, body_rate: float) -> optax.GradientTransformation:
    """Scales the updates of all layers but the last.

    Args:
      spec: of the network.
      body_rate: their learning rate, as a share of the last layer's.
    """

    def is_body(params: Any) -> Any:
        flat = flatten_dict({"params": params})
        return unflatten_dict({p: not torch_weights.is_head(p, spec) for p in flat})["params"]

    return optax.masked(optax.scale(body_rate), is_body)


def recipe_for(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with the constants that the weights were trained with."""
    constants = normalisation_of(recipe, source)
    data = replace(recipe.data, mean=tuple(constants.mean), std=tuple(constants.std))
    return replace(recipe, data=data)
