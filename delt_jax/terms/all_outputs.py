"""Cross-entropy over all outputs of the weights that a teacher of fewer classes was cut from.

Among a few classes a teacher is soon sure, and then BatchNorm matching alone moves the images on.
It takes more to tell a class from all others that a network knows: a golden retriever from 120
dogs. The term needs no real images.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from delt_jax.core import losses
from delt_jax.errors import UserError
from delt_jax.models import torch_files, torch_weights
from delt_jax.terms import Term


def _prepare(teacher, source, recipe, cache):
    """The whole last layer, float32 [D, outputs] and [outputs], and the outputs of the classes."""
    weights, architecture = recipe.teacher.weights, teacher.spec.name
    if not weights or recipe.teacher.fine_tune or Path(weights).is_dir():
        raise UserError(
            f"The term all_outputs needs a file of weights with more classes than the data have, "
            f"as they are, but teacher.weights is {weights!r} and teacher.fine_tune "
            f"{recipe.teacher.fine_tune}; name such a file, or leave the term out."
        )
    kept, _ = torch_weights.head(
        torch_weights.to_torch(teacher.variables, teacher.spec), architecture
    )
    found = torch_weights.head(torch_files.read(weights), architecture)
    whole, bias = (np.asarray(array, np.float32) for array in found or (kept[:0], kept[:0, 0]))
    places = {row.tobytes(): place for place, row in enumerate(whole)}
    outputs = [places.get(row.tobytes()) for row in kept]
    if None in outputs or len(whole) <= len(kept):
        raise UserError(
            f"The term all_outputs needs the weights that this teacher was cut from, with more "
            f"classes than the data's {len(kept)}, but the last layer of {weights} has "
            f"{len(whole)}; leave the term out."
        )
    return np.ascontiguousarray(whole.T), bias, np.asarray(outputs, np.int32)


def _value(seen, constants, state):
    """Mean over the images."""
    kernel, bias, outputs = constants
    logits = jnp.dot(seen.features, kernel, precision="highest") + bias
    return losses.cross_entropy(logits, jnp.asarray(outputs)[seen.labels]), state


TERM = Term(_value, _prepare)
