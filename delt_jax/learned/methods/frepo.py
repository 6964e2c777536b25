"""FRePo, neural feature regression with pooling (arXiv 2206.00719), images and labels."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax import models
from delt_jax.learned import limits, networks, optimisers, sharing
from delt_jax.learned.images import with_mirrored
from delt_jax.learned.method import Held, Learned, Method, Network, Pool, Real, Setup
from delt_jax.models import forms

_RIDGE = 1e-6  # of the kernel's mean eigenvalue
_END = 0.1  # of the rate, at the end of its cosine
_TRAINED_ON = 1000  # learned images of a network's step, at most
_NETWORKS = 10


def regress(
    features: chex.Array, labels: chex.Array, asked: chex.Array, ridge: float = _RIDGE
) -> chex.Array:
    """Predicts by kernel ridge regression on features.

    K = F F^T, and the prediction is A F^T (K + ridge tr(K) / n I)^-1 Y, solved by Cholesky's
    factors in the precision of the features. The trace keeps K positive definite in float32.

    Args:
      features: F, [n, D], of the images whose labels are known.
      labels: Y, [n, classes].
      asked: A, [m, D], features of those that are asked for.
      ridge: share of the mean eigenvalue that is added to all.

    Returns:
      [m, classes].
    """
    kernel = jnp.matmul(features, features.T, precision="highest")
    added = ridge * jnp.trace(kernel) / len(kernel)
    factors = jax.scipy.linalg.cho_factor(kernel + added * jnp.eye(len(kernel), dtype=kernel.dtype))
    weights = jax.scipy.linalg.cho_solve(factors, labels)
    # With few classes the weights of the features cost less than the kernel of both sides.
    head = jnp.matmul(features.T, weights, precision="highest")
    return jnp.matmul(asked, head, precision="highest")


def margin(labels: chex.Array) -> chex.Array:
    """Mean distance of each label's highest value from its next, but at most 1 / classes.

    Args:
      labels: [n, classes].
    """
    first, second = jax.lax.top_k(labels, 2)[0].T
    return jnp.minimum(first - second, 1 / labels.shape[1]).mean()


def squares(predictions: chex.Array, targets: chex.Array) -> chex.Array:
    """Half the sum of squared errors over classes, mean over images; both are [B, classes]."""
    return 0.5 * ((predictions - targets) ** 2).sum(-1).mean()


def centred(labels: chex.Array, num_classes: int) -> chex.Array:
    """Targets of real images, one-hot - 1 / classes, float32 [B, classes]."""
    return jax.nn.one_hot(labels, num_classes) - 1 / num_classes


def gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """Error of real images' labels, regressed from learned ones, less the labels' margin."""
    del key
    spec, variables = setup.spec, network.variables
    targets = centred(real.labels, setup.num_classes)

    def loss(learned: Learned) -> chex.Array:
        images, labels = with_mirrored(learned.images, learned.labels, setup.mirrored)
        known = networks.features(spec, variables, images)
        return squares(regress(known, labels, asked), targets) - margin(learned.labels)

    with forms.in_loops():
        asked = networks.frozen_features(spec, variables, real.images)
        found = jax.value_and_grad(loss)(learned)
    return sharing.mean(found)


def train(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> Network:
    """Steps of Adam on learned images and labels: squared errors, BatchNorm in train mode."""
    del real
    count = len(learned.images)
    for step in range(setup.network_steps):
        images, labels = learned.images, learned.labels
        if count > _TRAINED_ON:
            order = jax.random.permutation(jax.random.fold_in(key, step), count)[:_TRAINED_ON]
            images, labels = images[order], labels[order]
        network = _one_step(network, images, labels, setup)
    return network


def _one_step(network: Network, images: chex.Array, labels: chex.Array, setup: Setup) -> Network:
    model, fixed = models.create(setup.spec), dict(network.variables)
    params = fixed.pop("params")

    def loss(params: Any) -> tuple[chex.Array, dict[str, Any]]:
        logits, changed = model.apply(
            {"params": params, **fixed}, images, train=True, mutable=["batch_stats"]
        )
        return squares(logits, labels), dict(changed)

    with forms.in_loops():
        gradients, changed = jax.grad(loss, has_aux=True)(params)
    params, opt_state = networks.descend(
        network_optimiser(setup), gradients, params, network.opt_state
    )
    return network._replace(variables={"params": params, **fixed, **changed}, opt_state=opt_state)


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """LAMB for images and for labels, whose rates fall to a tenth along a cosine."""

    def lamb(rate: float) -> optax.GradientTransformation:
        return optax.lamb(optax.cosine_decay_schedule(rate, max(setup.steps, 1), _END))

    return optimisers.rated(lamb, setup)


def network_optimiser(setup: Setup) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(setup.network_rate)


def passes(setup: Setup) -> float:
    """Of an outer step."""
    learned = setup.num_classes * setup.ipc
    trained = setup.network_steps * min(learned, _TRAINED_ON)
    return setup.real_batch + 3 * learned * (1 + setup.mirrored) + 3 * trained


def held(setup: Setup) -> Held:
    """Real images have no way back."""
    learned = setup.num_classes * setup.ipc
    return Held(0.3 * setup.real_batch + 2 * learned * (1 + setup.mirrored))


FREPO = Method(
    name="frepo",
    source="arXiv 2206.00719; yongchaoz/FRePo @43e028a",
    by_class=False,
    gradient=gradient,
    train=train,
    optimiser=optimiser,
    network_optimiser=network_optimiser,
    passes=passes,
    held=held,
    labels="centred",
    pool=Pool(_NETWORKS, is_staggered=True),
    refuse=limits.undivided,
)
METHODS = (FREPO,)
