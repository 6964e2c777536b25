"""An optimiser of the images: Lion."""

import optax


def lion():
    """Signs of a running mean of the gradients."""
    return optax.scale_by_lion(b1=0.9, b2=0.99)
