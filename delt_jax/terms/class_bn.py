"""WMDD's BN matching per class (arXiv 2311.18531).

Moments of the input of every BatchNorm over the batch's images of a class, against those of the
real images of that class: mean over the batch's classes, sum over layers.
"""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
import numpy as np
import optax

from delt_jax.core.losses import TINY, Moments
from delt_jax.teachers import layer_statistics
from delt_jax.terms import TeacherOutputs, Term


def layer_terms(seen: TeacherOutputs, constants: Sequence[Moments]) -> chex.Array:
    """Means over the batch's classes, float32 [layers].

    Args:
      seen: of the batch.
      constants: of every BatchNorm's input, of each class: [classes, channels].
    """
    classes = np.array(seen.classes)
    members = classes == np.arange(classes.max() + 1)[:, None]  # [classes of the batch, images]
    share = jnp.asarray(members / members.sum(1, keepdims=True), jnp.float32)
    labels = seen.labels[members.argmax(1)]  # of each class, that of its first image

    def off(alone: Moments, real: Moments):
        mean = share @ alone.mean
        # The law of total variance: within images, and between them.
        variance = share @ (alone.variance + (alone.mean - mean[classes]) ** 2)
        norms = [
            optax.safe_norm(ours - theirs[labels], TINY, axis=-1)
            for ours, theirs in ((mean, real.mean), (variance, real.variance))
        ]
        return sum(norms).mean()

    alone = layer_statistics.of_images(seen.norm_inputs, (), 1).norms
    return jnp.stack([off(a, b) for a, b in zip(alone, constants, strict=True)])


def _value(seen, constants, term_state):
    return layer_terms(seen, constants).sum(), term_state


def _prepare(teacher, source, recipe, cache):
    return layer_statistics.of_real_images(teacher, source, cache).by_class.norms


TERM = Term(_value, _prepare, reads_images=True)
