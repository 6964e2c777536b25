"""RaT-BPTT (arXiv 2311.07025): back-propagation through a random window of a student's training.

Read from fengyzpku/Simple_Dataset_Distillation @7915c5a. There the place of the window is drawn
once per pass over the real images; here anew for every outer step, as its `complete_random` does.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.core import keys
from delt_jax.learned import augmentation, limits, networks, sharing, students, unrolled
from delt_jax.learned.method import Held, Learned, Method, Network, Real, Setup, leave
from delt_jax.learned.students import Step
from delt_jax.models import forms

_OPTIONS = (
    ("window", 60.0),  # W
    ("unroll", 200.0),  # T
    ("fewest_free", 0.0),  # K_min
    ("student_batch", 0.0),  # equally many of each class; 0 takes all images
    ("student_rate", 1e-3),
)
_DECAY, _LONGEST = 0.9, 2.0  # of the images' gradient: its average length, and times that


def gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """The derivative of the real images' cross-entropy through the window."""
    window, unroll = int(setup.option("window")), int(setup.option("unroll"))
    batch, rate = int(setup.option("student_batch")), setup.option("student_rate")
    fewest, most = int(setup.option("fewest_free")), unroll - window
    free = jax.random.randint(keys.derive(key, "free"), (), fewest, most + 1)

    def draw(number):
        return students.draw_balanced(key, number, setup.num_classes, setup.ipc, batch)

    def inner(params, learned: Learned, step: Step):
        images, labels = students.batch_of(learned, step)
        images = augmentation.each(step.key, setup.augment, images)
        return networks.cross_entropy(params, images, labels, setup.spec)

    fresh = networks.without_batch_norm(network.variables, "RaT-BPTT")
    with forms.in_loops():
        before = unrolled.adam_free(inner, fresh, learned, draw, free, rate)
    steps = jax.vmap(draw)(free + jnp.arange(window))
    views = augmentation.each_of_all(keys.derive(key, "real"), setup.augment, real.images)
    targets = jax.nn.one_hot(real.labels, setup.num_classes)

    def outer(learned):
        params = unrolled.adam_window(inner, before, learned, steps, rate)
        return networks.cross_entropy(params, views, targets, setup.spec)

    with forms.in_loops():
        return sharing.mean(jax.value_and_grad(outer)(learned))


class _Length(NamedTuple):
    """Average length of the gradients so far; 0 before the first that has one."""

    average: chex.Array


def clip_by_average_length() -> optax.GradientTransformation:
    """Clips gradients to twice their average length, which decays by 0.9 a step.

    The average starts at the length of the first gradient, which so stays whole.
    """

    def init(params):
        del params
        return _Length(jnp.float32(0))

    def update(grads, state, params=None):
        del params
        length = optax.tree.norm(grads)
        decayed = _DECAY * state.average + (1 - _DECAY) * length
        average = jnp.where(state.average > 0, decayed, length)
        share = jnp.minimum(1, _LONGEST * average / jnp.maximum(length, 1e-30))
        return jax.tree.map(lambda g: share * g, grads), _Length(average)

    return optax.GradientTransformation(init, update)


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """Adam for images, clipped, and for labels where these are learned."""
    rules = {
        "images": optax.chain(clip_by_average_length(), optax.adam(setup.image_rate)),
        "labels": optax.adam(setup.label_rate) if setup.label_rate else optax.set_to_zero(),
    }
    return optax.partition(rules, Learned("images", "labels", {}))


def not_negative(learned: Learned, setup: Setup) -> Learned:
    """Labels stay at 0 or above; they are not made to sum to 1."""
    del setup
    return learned._replace(labels=jnp.maximum(learned.labels, 0))


def passes(setup: Setup) -> float:
    """Of an outer step."""
    batch = students.batch_size(setup)
    window, unroll = setup.option("window"), setup.option("unroll")
    return batch * (12 * window + 3 * (unroll - window) / 2) + 3 * setup.real_batch


def held(setup: Setup) -> Held:
    """One step of the window, or the real images after it, and each step's weights and moments."""
    images = max(3 * students.batch_size(setup), 1.5 * setup.real_batch)
    return Held(images, 3 * int(setup.option("window")))


def refuse(setup: Setup) -> str:
    """What is wrong with the numbers: the window must lie within the training."""
    wrong = (
        limits.undivided(setup)
        or limits.whole(setup, 1, "window", "unroll")
        or limits.whole(setup, 0, "fewest_free", "student_batch")
        or limits.not_negative(setup, "student_rate")
    )
    window, unroll = setup.option("window"), setup.option("unroll")
    fewest = setup.option("fewest_free")
    if wrong or fewest + window <= unroll:
        return wrong
    return f"window={window:g} after fewest_free={fewest:g} steps is more than unroll={unroll:g}"


METHOD = Method(
    name="ratbptt",
    source="arXiv 2311.07025; fengyzpku/Simple_Dataset_Distillation @7915c5a",
    by_class=False,
    gradient=gradient,
    train=leave,
    optimiser=optimiser,
    network_optimiser=lambda setup: optax.set_to_zero(),
    passes=passes,
    held=held,
    labels="weights",
    options=_OPTIONS,
    project=not_negative,
    refuse=refuse,
)
METHODS = (METHOD,)
