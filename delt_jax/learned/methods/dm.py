"""DM, distribution matching (arXiv 2110.04181): classes alike in the features of new networks."""

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.learned import augmentation, limits, networks, optimisers, sharing
from delt_jax.learned.images import by_class, decode
from delt_jax.learned.method import Held, Learned, Method, Network, Real, Setup, leave
from delt_jax.models import forms

_MOMENTUM = 0.5


def distance(real: chex.Array, learned: chex.Array) -> chex.Array:
    """Squared distance of the classes' mean features, [classes, D] each, summed over classes."""
    return ((real - learned) ** 2).sum()


def gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """Distance of classes in the features of a network in train mode, both sides augmented alike.

    All classes go through the network at once, so that BatchNorm, where there is one, takes the
    moments of them all, as the released code has it.
    """

    def augmented(images: chex.Array) -> chex.Array:
        """Class by class, [classes, B, S, S, C]."""
        keys = jax.random.split(key, setup.num_classes)
        alike = jax.vmap(lambda k, x: augmentation.alike(k, setup.augment, x)[0])
        return alike(keys, by_class(images, setup.num_classes))

    def means(images: chex.Array) -> chex.Array:
        """Mean features of every class, [classes, D]."""
        flat = augmented(images).reshape(images.shape)
        found = networks.trained_features(setup.spec, network.variables, flat)
        return by_class(found, setup.num_classes).mean(1)

    everything = real.images.reshape(-1, *real.images.shape[2:])

    def loss(images: chex.Array) -> chex.Array:
        return distance(wanted, means(decode(images, setup)))

    with forms.in_loops():
        wanted = jax.lax.stop_gradient(sharing.mean(means(everything)))
        value, found = jax.value_and_grad(loss)(learned.images)
    return value, jax.tree.map(jnp.zeros_like, learned)._replace(images=found)


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """SGD with momentum on images; labels stay."""
    return optimisers.of_parts(optax.sgd(setup.image_rate, _MOMENTUM))


def network_optimiser(setup: Setup) -> optax.GradientTransformation:
    """None."""
    del setup
    return optax.identity()


def passes(setup: Setup) -> float:
    """Of an outer step."""
    learned = setup.num_classes * setup.ipc * setup.factor**2
    return setup.real_batch * setup.num_classes + 3 * learned


def held(setup: Setup) -> Held:
    """Real images have no way back."""
    learned = setup.num_classes * setup.ipc * setup.factor**2
    return Held(0.4 * setup.real_batch * setup.num_classes + 3 * learned)


DM = Method(
    name="dm",
    source="arXiv 2110.04181; VICO-UoE/DatasetCondensation @53f63a6",
    by_class=True,
    gradient=gradient,
    train=leave,
    optimiser=optimiser,
    network_optimiser=network_optimiser,
    passes=passes,
    held=held,
    refuse=limits.fixed_labels,
)
METHODS = (DM,)
