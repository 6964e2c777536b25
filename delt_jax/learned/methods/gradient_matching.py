"""DC and DSA: learned images whose gradients point where those of real ones do.

DC is arXiv 2006.05929; DSA, arXiv 2102.08259, augments both sides alike.
"""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.core import losses
from delt_jax.learned import augmentation, limits, matching, networks, optimisers
from delt_jax.learned.images import decode
from delt_jax.learned.method import Held, Learned, Method, Network, Real, Setup
from delt_jax.models import forms

_MOMENTUM = 0.5
_EPSILON = 1e-6  # added to the product of norms
_BATCH = 256  # learned images of a network's step, at most


def distance(real: Any, learned: Any) -> chex.Array:
    """Sum over layers and their outputs of 1 - cosine of the gradients of an output's weights.

    A row of weights is all that one filter of a convolution, or one output of a linear layer, has.
    Biases and the weights of norms are left out.

    Args:
      real, learned: gradients of the same parameters.
    """
    pairs = zip(jax.tree.leaves(real), jax.tree.leaves(learned), strict=True)
    return sum(
        _rows(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
        for a, b in pairs
        if a.ndim > 1
    )


def _rows(real: chex.Array, learned: chex.Array) -> chex.Array:
    """The same of one layer; an output's weights are a column of [inputs, outputs]."""
    norms = [optax.safe_norm(x, losses.TINY, axis=0) for x in (real, learned)]
    products = (real * learned).sum(0)
    return (1 - products / (norms[0] * norms[1] + _EPSILON)).sum()


def gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """Distance of both sides' gradients, class by class, and its gradient in the images."""
    params = networks.without_batch_norm(network.variables, "Gradient matching")

    def loss(images: chex.Array) -> chex.Array:
        return matching.total(key, decode(images, setup), params, real, setup, distance)

    value, found = jax.value_and_grad(loss)(learned.images)
    return value, jax.tree.map(jnp.zeros_like, learned)._replace(images=found)


def train(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> Network:
    """Epochs of SGD on the learned images, shuffled, each augmented by itself."""
    del real
    params = networks.without_batch_norm(network.variables, "Gradient matching")
    rule, count = network_optimiser(setup), len(learned.images)
    batches = math.ceil(count / _BATCH)

    def epoch(number: chex.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        epoch_key = jax.random.fold_in(key, number)
        order = jax.random.permutation(epoch_key, count)
        for i in range(batches):
            at = order[i * _BATCH : (i + 1) * _BATCH]
            batch_key = jax.random.fold_in(epoch_key, i)
            images = augmentation.each(batch_key, setup.augment, learned.images[at])
            found = networks.gradients(state[0], images, learned.labels[at], setup.spec)
            state = networks.descend(rule, found, *state)
        return state

    start = params, network.opt_state
    with forms.in_loops():
        params, opt_state = jax.lax.fori_loop(0, setup.network_steps, epoch, start)
    return network._replace(variables={"params": params}, opt_state=opt_state)


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """SGD with momentum on images; labels stay."""
    return optimisers.of_parts(optax.sgd(setup.image_rate, _MOMENTUM))


def network_optimiser(setup: Setup) -> optax.GradientTransformation:
    """SGD without momentum."""
    return optax.sgd(setup.network_rate)


def passes(setup: Setup) -> float:
    """Of an outer step."""
    learned = setup.num_classes * setup.ipc * setup.factor**2
    trained = setup.network_steps * learned * (1 - 1 / setup.lifetime)
    return 3 * setup.real_batch * setup.num_classes + 9 * learned + 3 * trained


def held(setup: Setup) -> Held:
    """Real images of one class, and a gradient of gradients of all learned ones."""
    learned = setup.num_classes * setup.ipc * setup.factor**2
    return Held(setup.real_batch + 11 * learned)


def _method(name: str, source: str) -> Method:
    return Method(
        name=name,
        source=f"{source}; VICO-UoE/DatasetCondensation @53f63a6",
        by_class=True,
        gradient=gradient,
        train=train,
        optimiser=optimiser,
        network_optimiser=network_optimiser,
        passes=passes,
        held=held,
        refuse=limits.fixed_labels,
    )


DC = _method("dc", "arXiv 2006.05929")
DSA = _method("dsa", "arXiv 2102.08259")
METHODS = (DC, DSA)
