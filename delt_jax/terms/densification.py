"""Data densification (G-VBSM, arXiv 2311.17950): images of a class span many directions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.models.layers import adaptive_average_pool
from delt_jax.terms import TeacherOutputs, Term

_SIDE = 32  # px; larger images are averaged down to it
_TEMPERATURE = 4.0  # softens the spectrum that is the target


@jax.custom_jvp
def eigenvalues(matrix: chex.Array) -> chex.Array:
    """Eigenvalues [n] of a symmetric matrix [n, n], ascending.

    The derivative of each is v^T dM v with its eigenvector v. It is finite where eigenvalues
    coincide; JAX's own rule divides by their differences.
    """
    return jnp.linalg.eigvalsh(matrix)


@eigenvalues.defjvp
def _change(primals, tangents):
    values, vectors = jnp.linalg.eigh(primals[0])
    change = jnp.einsum(
        "ki,kl,li->i", vectors, tangents[0], vectors, precision=jax.lax.Precision.HIGHEST
    )
    return values, change


def densification(rows: chex.Array) -> chex.Array:
    """KL divergence of a Gram matrix's spectrum from its softened copy, which is held fixed.

    Args:
      rows: [n, D], one row per image.

    Returns:
      float32 scalar; 0 for a single image.
    """
    spectrum = eigenvalues(jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST))
    target = jax.nn.log_softmax(jax.lax.stop_gradient(spectrum) / _TEMPERATURE)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(spectrum)))


def value(seen: TeacherOutputs, constants: tuple, term_state: tuple) -> tuple[chex.Array, tuple]:
    """Sum of `densification` over the classes of the batch, of the images' pixels as viewed."""
    images = seen.images
    if images.shape[1] > _SIDE:
        images = adaptive_average_pool(images, _SIDE)
    rows, of_class = images.reshape(len(images), -1), np.array(seen.classes)
    members = [np.flatnonzero(of_class == c) for c in sorted(set(seen.classes))]
    return sum((densification(rows[m]) for m in members), jnp.float32(0.0)), term_state


TERM = Term(value)
