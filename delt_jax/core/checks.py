"""Checks on the results of computations."""

import chex
import jax
import numpy as np

from delt_jax.errors import UserError


def finite(tree: chex.ArrayTree, sentence: str) -> None:
    """Raises a UserError with the sentence if a float array of the tree holds NaN or infinity."""
    for leaf in jax.tree.leaves(tree):
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise UserError(sentence)
