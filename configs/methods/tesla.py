"""TESLA (arXiv 2211.10586): MTT by an estimate of its gradient that needs little memory."""

from delt_jax.config.methods import published, sibling

CODE = "justincui03/tesla @488842e"


def settings(data):
    """MTT's; it is another estimator, and its hyper-parameters were tuned with it."""
    return sibling(__file__, "mtt", data) | published(CODE, {"learn.method": "tesla"})
