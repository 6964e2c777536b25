"""DELT without EarlyLate, else the same: every image takes part in all iterations."""

from delt_jax.config.methods import ours, sibling


def settings(data):
    """DELT's but for EarlyLate."""
    none = {"recover.round_iterations": 0, "recover.min_iterations": 0}
    return sibling(__file__, "delt", data) | ours(none)
