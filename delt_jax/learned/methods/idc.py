"""IDC, efficient parameterisation (arXiv 2205.14959): several images of a class in a stored one."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.augment import dsa, mix
from delt_jax.learned import augmentation, limits, matching, networks, optimisers, sharing
from delt_jax.learned.images import by_class, decode
from delt_jax.learned.method import Held, Learned, Method, Network, Real, Setup
from delt_jax.learned.optimisers import Coasting
from delt_jax.models import forms

_MOMENTUM = 0.5
_MOST = 128  # decoded images of a class that a step looks at
_SQUARED_BELOW = 128  # pixels a side: smaller colour sets have squared errors
_NETWORK_MOMENTUM, _DECAY = 0.9, 5e-4
_CUTMIX = 0.5  # probability


def squared(real: Any, learned: Any) -> chex.Array:
    """Sum of squared differences of the gradients of convolutions; all other weights are left out.

    Args:
      real, learned: gradients of the same parameters.
    """
    return sum(((a - b) ** 2).sum() for a, b in _kernels(real, learned))


def absolute(real: Any, learned: Any) -> chex.Array:
    """Sum of absolute differences, as `squared`."""
    return sum(jnp.abs(a - b).sum() for a, b in _kernels(real, learned))


def _kernels(real: Any, learned: Any) -> list[tuple[chex.Array, chex.Array]]:
    pairs = zip(jax.tree.leaves(real), jax.tree.leaves(learned), strict=True)
    return [(a, b) for a, b in pairs if a.ndim == 4]


def _distance(setup: Setup) -> matching.Distance:
    """Absolute on grey and on large images, as the released code has it for each data set."""
    small = setup.spec.channels > 1 and setup.spec.image_size < _SQUARED_BELOW
    return squared if small else absolute


def gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """Distance of both sides' gradients, class by class, and its gradient in the stored images."""
    params = networks.without_batch_norm(network.variables, "IDC")
    augment_key, choice_key = jax.random.split(key)

    def loss(images: chex.Array) -> chex.Array:
        parts = _some(choice_key, decode(images, setup), setup.num_classes)
        return matching.total(augment_key, parts, params, real, setup, _distance(setup))

    value, found = jax.value_and_grad(loss)(learned.images)
    return value, jax.tree.map(jnp.zeros_like, learned)._replace(images=found)


def _some(key: chex.PRNGKey, images: chex.Array, num_classes: int) -> chex.Array:
    """At most `_MOST` images of each class, drawn anew."""
    each = by_class(images, num_classes)
    if each.shape[1] <= _MOST:
        return images
    keys = jax.random.split(key, num_classes)
    chosen = jax.vmap(lambda k, x: x[jax.random.permutation(k, len(x))[:_MOST]])(keys, each)
    return chosen.reshape(-1, *images.shape[1:])


def train(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> Network:
    """Steps of SGD on further real images, augmented and, at half of the steps, cut into pairs.

    The images lose the cutout of the comparison where CutMix takes its place; where that has no
    cutout, there is no CutMix either (MNIST with four images in one).
    """
    del learned
    assert real.more is not None
    params = networks.without_batch_norm(network.variables, "IDC")
    rule = network_optimiser(setup)
    images, labels = (x.reshape(setup.network_steps, -1, *x.shape[1:]) for x in real.more)

    def step(number: chex.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        step_key = jax.random.fold_in(key, number)
        targets = jax.nn.one_hot(labels[number], setup.num_classes)
        batch = sharing.part(_mixed(step_key, images[number], targets, setup))
        found = networks.gradients(state[0], *batch, setup.spec)
        return networks.descend(rule, sharing.mean(found), *state)

    start = params, network.opt_state
    with forms.in_loops():
        params, opt_state = jax.lax.fori_loop(0, setup.network_steps, step, start)
    return network._replace(variables={"params": params}, opt_state=opt_state)


def _mixed(
    key: chex.PRNGKey, images: chex.Array, labels: chex.Array, setup: Setup
) -> tuple[chex.Array, chex.Array]:
    """Augments images [B, S, S, C], each by itself, and mixes them and labels [B, classes]."""
    augment_key, coin_key, order_key, box_key = jax.random.split(key, 4)
    strategy = dsa.parse(setup.augment) if setup.augment else None
    if strategy is None or "cutout" not in strategy.operations:
        return augmentation.each(augment_key, setup.augment, images), labels
    others = tuple(o for o in strategy.operations if o != "cutout")
    left = str(strategy._replace(operations=others)) if others else ""
    images = augmentation.each(augment_key, left, images)
    order = jax.random.permutation(order_key, len(images))
    box = mix.random_box(box_key, images.shape[1], 1.0)
    mixed, share = mix.cutmix(images, images[order], *box)
    is_cut = jax.random.bernoulli(coin_key, _CUTMIX)
    share = jnp.where(is_cut, share, 1.0)
    return jnp.where(is_cut, mixed, images), share * labels + (1 - share) * labels[order]


def _rate(setup: Setup) -> chex.Array:
    """The rate of standardised values that moves pixels in [0, 1] as the given one does.

    A pixel is std times as far from black as its value, and its gradient is 1 / std as large.
    """
    return setup.image_rate * (jnp.asarray(setup.high) - jnp.asarray(setup.low)) ** 2


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """SGD with momentum, a step for every class; its rate is that of pixels in [0, 1]."""
    return optimisers.coasting_sgd(_rate(setup), _MOMENTUM, setup.num_classes)


def ahead(state: Coasting, learned: Learned, setup: Setup) -> Learned:
    """Every class where it is when its turn comes."""
    return optimisers.before_turn(state, learned, _rate(setup), _MOMENTUM, setup.num_classes)


def network_optimiser(setup: Setup) -> optax.GradientTransformation:
    """SGD with momentum and decay, as torch has them."""
    decay = optax.add_decayed_weights(_DECAY)
    return optax.chain(decay, optax.sgd(setup.network_rate, _NETWORK_MOMENTUM))


def passes(setup: Setup) -> float:
    """Of an outer step."""
    learned = setup.num_classes * setup.ipc * setup.factor**2
    trained = setup.more_real * (1 - 1 / setup.lifetime)
    return 3 * setup.real_batch * setup.num_classes + 9 * learned + 3 * trained


def held(setup: Setup) -> Held:
    """As DC, whose classes follow each other."""
    learned = setup.num_classes * setup.ipc * setup.factor**2
    return Held(setup.real_batch + 11 * learned)


IDC = Method(
    name="idc",
    source="arXiv 2205.14959; snu-mllab/Efficient-Dataset-Condensation @ceac95a",
    by_class=True,
    gradient=gradient,
    train=train,
    optimiser=optimiser,
    network_optimiser=network_optimiser,
    passes=passes,
    held=held,
    keeps_bounds=True,
    trains_on_real=True,
    ahead=ahead,
    refuse=limits.fixed_labels,
)
METHODS = (IDC,)
