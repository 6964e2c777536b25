"""Total variation, a prior for images without noise (Mahendran and Vedaldi, CVPR 2015, section 3).

SRe2L and its siblings leave it out; DeepInversion (CVPR 2020, equation 3) has it. It needs no real
images, and is for starts from noise, where nothing else keeps pixels smooth.

Matching a batch's statistics asks for fine detail, and one image can bring it for all. So images
are not averaged: their root mean square counts, which is least where they share the detail evenly.
"""

import jax.numpy as jnp

from delt_jax.terms import Term

_LEAST = 1e-12  # added under the root, whose derivative at 0 is infinite


def _value(seen, constants, state):
    """Squared differences of pixels side by side, down and across, of the viewed images."""
    x = seen.images
    down, across = jnp.square(x[:, 1:] - x[:, :-1]), jnp.square(x[:, :, 1:] - x[:, :, :-1])
    each = down.mean((1, 2, 3)) + across.mean((1, 2, 3))
    return jnp.sqrt(jnp.mean(jnp.square(each)) + _LEAST), state


TERM = Term(_value)
