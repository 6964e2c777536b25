"""DELT in which every image counts its own iterations: none that joins late misses a thing.

Learning rate, curriculum and Adam's bias correction of an image run from its own start to the end.
"""

from delt_jax.config.methods import ours, sibling


def settings(data):
    """DELT's but for the clock."""
    return sibling(__file__, "delt", data) | ours({"recover.clock": "image"})
