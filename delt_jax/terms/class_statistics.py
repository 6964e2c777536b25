"""EDC's category residual (arXiv 2404.13733), the other half of its matching.

The running statistics of the whole batch against the real statistics of its classes, averaged over
the batch's labels. Those of a class are of all its pixels; the released code averages those of
single images, whose variances leave out the variance between images.
"""

import jax
import numpy as np

from delt_jax.teachers import layer_statistics, statistics_matching
from delt_jax.terms import Term


def _value(seen, constants, term_state):
    now = layer_statistics.of_batch(seen.norm_inputs, seen.conv_inputs, seen.images.shape[1])
    real = jax.tree.map(lambda x: x[seen.labels].mean(0), constants.real)
    return statistics_matching.match(now, real, constants, term_state, seen.key)


def _prepare(teacher, source, recipe, cache):
    real = layer_statistics.of_real_images(teacher, source, cache)
    return statistics_matching.target(real.by_class, recipe.recover)


def _init(constants):
    one = jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), constants.real)
    return statistics_matching.begin(one)


TERM = Term(
    _value,
    _prepare,
    _init,
    reads_images=True,
    reads_convolutions=True,
    parts=statistics_matching.parts,
)
