"""SRe2L with EarlyLate and without real images, of DELT's Table 3.

T, R and how students train are the recipe's.
"""

from delt_jax.config.methods import EARLY_LATE, recovery_of, sibling, without


def settings(data):
    """SRe2L's but for the recipe's EarlyLate."""
    return without(recovery_of(sibling(__file__, "sre2l", data)), EARLY_LATE)
