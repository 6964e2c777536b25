"""A softplus network of two layers in float64, small enough for exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np

INPUTS, UNITS, CLASSES = 5, 4, 3


def weights(seed=0):
    """Weights of layers `body` and `head`."""
    draw = np.random.default_rng(seed).standard_normal
    return {
        "body": {"kernel": draw((INPUTS, UNITS)), "bias": 0.3 * draw(UNITS)},
        "head": {"kernel": draw((UNITS, CLASSES)), "bias": 0.3 * draw(CLASSES)},
    }


def features(params, images):
    """Softplus units, [n, UNITS]."""
    return jax.nn.softplus(images @ params["body"]["kernel"] + params["body"]["bias"])


def logits(params, images):
    """[n, CLASSES]."""
    return features(params, images) @ params["head"]["kernel"] + params["head"]["bias"]


def cross_entropy(params, images, labels):
    """Mean over images, with probabilities as labels."""
    return -(labels * jax.nn.log_softmax(logits(params, images))).sum(-1).mean()


def images_and_labels(count, seed=1):
    """Images [count, INPUTS] and one-hot labels [count, CLASSES]."""
    images = np.random.default_rng(seed).standard_normal((count, INPUTS))
    return images, np.eye(CLASSES)[np.arange(count) % CLASSES]


def flat(tree):
    """All numbers of a pytree in one row."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def slope(function, tree, direction, step=1e-6):
    """Derivative of a function along a direction, by central differences."""
    ahead = jax.tree.map(lambda t, d: t + step * d, tree, direction)
    behind = jax.tree.map(lambda t, d: t - step * d, tree, direction)
    return float((function(ahead) - function(behind)) / (2 * step))


def along(gradient, direction):
    """Inner product of two pytrees."""
    return float(
        sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
    )
