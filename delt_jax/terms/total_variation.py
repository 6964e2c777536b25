"""Total variation, a prior for images without noise (Mahendran and Vedaldi, CVPR 2015, section 3).

SRe2L and its siblings leave it out; DeepInversion (CVPR 2020, equation 3) has it. It needs no real
images. For where nothing else keeps pixels smooth: starts from noise.
"""

import jax.numpy as jnp

from delt_jax.terms import Term


def _value(seen, constants, state):
    """Mean squared difference of pixels side by side, down and across, of the viewed images."""
    x = seen.images
    down, across = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
    return jnp.mean(jnp.square(down)) + jnp.mean(jnp.square(across)), state


TERM = Term(_value)
