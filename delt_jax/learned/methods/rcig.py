"""RCIG (arXiv 2302.06755): implicit gradients through a linearised network's exact solution.

Read from yolky/RCIG @a9fb1fa. The inner problem and the inverse Hessian are solved by
preconditioned conjugate gradients on the dual system, where the released code takes twenty steps of
Adam for each and searches their step sizes (see `delt_jax.learned.convexified`).
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.core import keys
from delt_jax.learned import convexified, limits, networks, sharing
from delt_jax.learned.convexified import Inner, Linearised
from delt_jax.learned.images import with_mirrored
from delt_jax.learned.method import Held, Learned, Method, Network, Pool, Real, Setup
from delt_jax.models import ModelSpec, forms

_OPTIONS = (
    ("ridge", 5e-4),  # lambda / (IPC classes); 0.05 for depth 5
    ("solver_steps", 100.0),  # at most; the tolerance ends them before
    ("tolerance", convexified.TOLERANCE),
    ("temperature", 0.0),  # where the logarithm starts
    ("temperature_rate", 3e-2),
    ("most_network_steps", 15.0),
)
_USUAL_STEPS = 50  # to the tolerance, at ten and at fifty images per class; at one they are 30


def _is_free(params: Any) -> Any:
    """All weights but the last layer's matrix."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: [getattr(k, "key", "") for k in path[-2:]] != ["classifier", "kernel"],
        params,
    )


def linearised(spec: ModelSpec, params: Any) -> Linearised:
    """A network around its weights, of which the last layer's matrix is solved in closed form."""
    return convexified.linearise(
        lambda p, x: networks.logits(spec, p, x),
        lambda p, x: networks.features(spec, {"params": p}, x),
        params,
        _is_free,
    )


def gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """Direct and implicit derivative of the outer loss; the latter clipped to the former."""
    del key
    linear = linearised(setup.spec, network.variables["params"])
    targets = jax.nn.one_hot(real.labels, setup.num_classes)

    def make_inner(learned):
        images, labels = with_mirrored(learned.images, learned.labels, setup.mirrored)
        ridge = setup.option("ridge") * len(learned.images)  # mirrored copies do not count
        return Inner(linear, images, labels, ridge)

    def outer_loss(learned, inner, delta):
        outputs = jnp.exp(learned.extra["temperature"]) * convexified.predict(
            inner, delta, real.images
        )
        fit = optax.softmax_cross_entropy(outputs, targets).mean()
        return fit - margin(learned.labels)

    steps, tolerance = int(setup.option("solver_steps")), setup.option("tolerance")
    with forms.in_loops():
        found = convexified.outer_gradient(make_inner, outer_loss, learned, steps, tolerance)
    found = sharing.mean(found)
    return found.loss, convexified.clipped_sum(found)


def margin(labels: chex.Array) -> chex.Array:
    """Mean over images of how far the largest label is above the next, up to 1 / (2 classes)."""
    best = jax.lax.top_k(labels, 2)[0]
    return jnp.minimum(best[:, 0] - best[:, 1], 0.5 / labels.shape[1]).mean()


def train(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> Network:
    """1 to 15 steps of Adam on the sum of squares over all learned images, drawn uniformly."""
    del real
    most = int(setup.option("most_network_steps"))
    count = jax.random.randint(keys.derive(key, "count"), (), 1, most + 1)
    images, labels = with_mirrored(learned.images, learned.labels, setup.mirrored)
    rule = network_optimiser(setup)

    def loss(params):
        return 0.5 * jnp.sum((networks.logits(setup.spec, params, images) - labels) ** 2)

    def step(_, state):
        params, opt_state = state
        updates, opt_state = rule.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    begun = (network.variables["params"], network.opt_state)
    with forms.in_loops():
        params, opt_state = jax.lax.fori_loop(0, count, step, begun)
    return network._replace(variables=network.variables | {"params": params}, opt_state=opt_state)


def network_optimiser(setup: Setup) -> optax.GradientTransformation:
    """Adam for the networks."""
    return optax.adam(setup.network_rate)


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """AdaBelief; the temperature has a rate of its own."""
    rules = {
        "images": optax.adabelief(setup.image_rate),
        "labels": optax.adabelief(setup.label_rate) if setup.label_rate else optax.set_to_zero(),
        "temperature": optax.adabelief(setup.option("temperature_rate")),
    }
    return optax.partition(rules, Learned("images", "labels", {"temperature": "temperature"}))


def passes(setup: Setup) -> float:
    """Of an outer step; a product of the dual system is a way back and one forward."""
    learned = setup.num_classes * setup.ipc * (1 + setup.mirrored)
    solved = 2 * 4 * min(setup.option("solver_steps"), _USUAL_STEPS) * learned
    trained = 3 * (1 + setup.option("most_network_steps")) / 2 * learned
    return solved + 5 * setup.real_batch + 18 * learned + trained


def held(setup: Setup) -> Held:
    """Both are linearised, and differentiated once more."""
    learned = setup.num_classes * setup.ipc * (1 + setup.mirrored)
    return Held(4 * setup.real_batch + 5 * learned)


def refuse(setup: Setup) -> str:
    """What is wrong with the numbers of a solution."""
    return (
        limits.undivided(setup)
        or limits.whole(setup, 1, "solver_steps", "most_network_steps")
        or limits.not_negative(setup, "ridge", "temperature_rate")
        or limits.between(setup, "tolerance", 0, 1)
    )


METHOD = Method(
    name="rcig",
    source="arXiv 2302.06755; yolky/RCIG @a9fb1fa",
    by_class=False,
    gradient=gradient,
    train=train,
    optimiser=optimiser,
    network_optimiser=network_optimiser,
    passes=passes,
    held=held,
    labels="shifted",
    pool=Pool(size=30),
    options=_OPTIONS,
    extra=(("temperature", "temperature"),),
    average=0.99,
    keeps_mirrored=True,
    refuse=refuse,
)
METHODS = (METHOD,)
