"""CDA from DELT's real images: what is left of DELT without EarlyLate and its batches.

Students train as the recipe says.
"""

from delt_jax.config.methods import ours, recovery_of, sibling


def settings(data):
    """CDA's but for the start."""
    start = {"select.start": "real", "select.rule": "medium"}
    return recovery_of(sibling(__file__, "cda", data)) | ours(start, "as DELT")
