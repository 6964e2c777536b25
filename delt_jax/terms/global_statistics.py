"""G-VBSM's matching of BatchNorms and convolutions (arXiv 2311.17950); one half of EDC's.

A batch's running statistics against the teacher's running statistics of every BatchNorm, and
against those of all real images for every convolution, per channel and per cell. As in the
released code, the first layer in forward order, a convolution, has a weight of its own.
"""

import functools

import jax
import numpy as np

from delt_jax.core.losses import Moments
from delt_jax.models.tap import apply_tapped
from delt_jax.teachers import layer_statistics, statistics_matching
from delt_jax.terms import Term


def _value(seen, constants, term_state):
    now = layer_statistics.of_batch(seen.norm_inputs, seen.conv_inputs, seen.images.shape[1])
    return statistics_matching.match(now, constants.real, constants, term_state, seen.key)


def _prepare(teacher, source, recipe, cache):
    real = layer_statistics.over_classes(layer_statistics.of_real_images(teacher, source, cache))
    images = np.zeros((1, source.image_size, source.image_size, source.channels), np.float32)
    tapped = jax.jit(functools.partial(apply_tapped, teacher.model))(teacher.variables, images)
    running = tuple(Moments(*map(np.asarray, moments)) for moments in tapped.running)
    return statistics_matching.target(real._replace(norms=running), recipe.recover)


def _init(constants):
    return statistics_matching.begin(constants.real)


TERM = Term(
    _value,
    _prepare,
    _init,
    reads_images=True,
    reads_convolutions=True,
    parts=statistics_matching.parts,
)
