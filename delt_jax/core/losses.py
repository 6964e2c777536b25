"""Losses of images and students: pure functions of arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

# Below this a norm's gradient is taken as zero, as torch does at exactly zero.
TINY = 1e-30


class Moments(NamedTuple):
    """Mean and biased variance of a layer's input, each [channels]."""

    mean: chex.Array
    variance: chex.Array


def cross_entropy(
    logits: chex.Array, labels: chex.Array, weights: chex.Array | None = None
) -> chex.Array:
    """Mean cross-entropy of logits [B, C] with integer labels [B].

    Args:
      logits: of a network.
      labels: integers.
      weights: of the images in the mean, [B], which sum to 1; None for equal ones.
    """
    chex.assert_rank([logits, labels], [2, 1])
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return each.mean() if weights is None else (weights * each).sum()


def bn_terms(
    batch: Sequence[Moments], running: Sequence[Moments], variance_weight: float = 1.0
) -> chex.Array:
    """BN matching, layer by layer (SRe2L, arXiv 2306.13092; kept by CDA and DELT).

    R_l = w_var ||running_var_l - var_l||_2 + ||running_mean_l - mean_l||_2, plain norms, with the
    gradient at zero defined as zero. DWA (arXiv 2409.17612) weighs the variances by w_var.

    Args:
      batch: moments of the images' activations, one per layer in forward order.
      running: the teacher's running statistics, in the same order.
      variance_weight: w_var, static; 1 adds no operation.

    Returns:
      float32 [layers].
    """
    chex.assert_equal(len(batch), len(running))
    chex.assert_trees_all_equal_shapes(tuple(batch), tuple(running))

    def weighted(variances):
        return variances if variance_weight == 1 else variance_weight * variances

    return jnp.stack(
        [
            weighted(distance(b.variance, r.variance)) + distance(b.mean, r.mean)
            for b, r in zip(batch, running, strict=True)
        ]
    )


def distance(a: chex.Array, b: chex.Array) -> chex.Array:
    """||a - b||_2, not squared, with the gradient at zero defined as zero."""
    return optax.safe_norm(a - b, TINY)


def bn_matching(terms: chex.Array, first_multiplier: float) -> chex.Array:
    """Weighted sum of `bn_terms`: the first layer counts `first_multiplier` times."""
    return terms.sum() + (first_multiplier - 1.0) * terms[0]


def kl_divergence(logits: chex.Array, targets: chex.Array, temperature: float) -> chex.Array:
    """KL(targets || softmax(logits / T)), summed over classes, mean over images.

    As the SRe2L family uses it there is no T^2 factor. With T = 1 and one-hot targets this is
    the cross-entropy.

    Args:
      logits: student logits [B, C].
      targets: probabilities [B, C], already at temperature T.
      temperature: T.
    """
    chex.assert_equal_shape([logits, targets])
    log_predictions = jax.nn.log_softmax(logits / temperature)
    return optax.losses.kl_divergence(log_predictions, targets).mean()


def logit_error(logits: chex.Array, targets: chex.Array, temperature: float) -> chex.Array:
    """Mean squared error of student and teacher logits (G-VBSM, arXiv 2311.17950; EDC).

    Both are centred over the classes first, because soft labels fix logits but for a constant.

    Args:
      logits: student logits [B, C].
      targets: the teacher's probabilities [B, C] at temperature T.
      temperature: T.
    """
    chex.assert_equal_shape([logits, targets])
    taught = temperature * jnp.log(jnp.maximum(targets, TINY))

    def centred(z):
        return z - z.mean(-1, keepdims=True)

    return jnp.mean((centred(logits) - centred(taught)) ** 2)


def squared_error(logits: chex.Array, values: chex.Array) -> chex.Array:
    """Half the squared distance of logits and label values [B, C], mean over images (FRePo)."""
    chex.assert_equal_shape([logits, values])
    return (0.5 * (logits - values) ** 2).sum(-1).mean()


def label_values(probabilities: chex.Array) -> chex.Array:
    """Values that stand for probabilities [B, C] in a squared error: (p - 1 / C) / sqrt(C / 10).

    So FRePo (arXiv 2206.00719) starts its learned labels at those of classes.
    """
    classes = probabilities.shape[-1]
    return (probabilities - 1 / classes) / (classes / 10) ** 0.5
