"""A protocol: RDED's in a third of the epochs."""

from dataclasses import replace

from delt_jax.training.protocols import named


def brief(setting):
    """The protocol for who is trained on what."""
    return replace(named("rded", setting), epochs=100, eval_every=100)
