"""SRe2L from DELT's real images; students train as the recipe says."""

from delt_jax.config.methods import ours, recovery_of, sibling


def settings(data):
    """SRe2L's but for the start."""
    start = {"select.start": "real", "select.rule": "medium"}
    return recovery_of(sibling(__file__, "sre2l", data)) | ours(start, "as DELT")
