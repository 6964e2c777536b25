"""MTT (arXiv 2203.11932), and FTD, TESLA, DATM and ATT, which differ from it in one thing each.

Networks of the pool are pieces of experts' trainings. FTD is MTT on experts of flat minima, with an
average of the images as result; its experts are made by the setting of the same name.
"""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import optax

from delt_jax.learned import augmentation, expert_walk, limits, networks, students
from delt_jax.learned import matching_trajectories as matching
from delt_jax.learned.matching_trajectories import Segment
from delt_jax.learned.method import Held, Learned, Method, Network, Real, Setup, leave
from delt_jax.learned.students import Step
from delt_jax.learned.unrolled import InnerLoss
from delt_jax.models import forms

_MOMENTUM, _LABEL_MOMENTUM = 0.5, 0.9
_OPTIONS = (
    *expert_walk.OPTIONS,
    ("student_steps", 50.0),  # N
    ("student_batch", 0.0),  # 0 takes all images
    ("student_rate", 0.01),
    ("rate_rate", 1e-5),
    ("largest_loss", 0.0),  # DATM; 0 takes every step
)
_AVERAGED = (*_OPTIONS, ("average_decay", 0.9999))  # 0 takes the last images


def _inner_loss(setup: Setup, is_logits: bool = False) -> InnerLoss:
    """Cross-entropy of a step's batch, whose labels are probabilities or logits (DATM)."""

    def loss(params, learned: Learned, step: Step):
        images, labels = students.batch_of(learned, step)
        targets = jax.nn.softmax(labels) if is_logits else labels
        images = augmentation.each(step.key, setup.augment, images)
        return networks.cross_entropy(params, images, targets, setup.spec)

    return loss


def _drawn(key: chex.PRNGKey, learned: Learned, network: Network, setup: Setup):
    segment = Segment(network.variables["params"], network.variables["target"])
    count, batch = int(setup.option("student_steps")), int(setup.option("student_batch"))
    return segment, students.draw_steps(key, count, len(learned.images), batch)


def held(setup: Setup) -> Held:
    """One step of the student, and the weights before each."""
    return Held(3 * students.batch_size(setup), int(setup.option("student_steps")))


def mtt_gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """The derivative through all steps of the student."""
    del real
    return _whole_gradient(_inner_loss(setup), key, learned, network, setup)


def datm_gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """The same where labels are logits."""
    del real
    return _whole_gradient(_inner_loss(setup, True), key, learned, network, setup)


def _whole_gradient(
    inner: InnerLoss, key: chex.PRNGKey, learned: Learned, network: Network, setup: Setup
) -> tuple[chex.Array, Learned]:
    segment, steps = _drawn(key, learned, network, setup)

    def loss(learned):
        rate = learned.extra["student_rate"]
        return matching.mtt_loss(inner, segment, learned, steps, rate)

    with forms.in_loops():
        value, grads = jax.value_and_grad(loss)(learned)
    return value, _of_small_loss(value, grads, setup)


def _of_small_loss(value: chex.Array, grads: Learned, setup: Setup) -> Learned:
    """Gradients; where losses have a limit, none of a step beyond it, or not finite."""
    if not _skips(setup):
        return grads
    is_small = value <= setup.option("largest_loss")
    return jax.tree.map(lambda g: jnp.where(is_small, g, 0), grads)


def _skips(setup: Setup) -> bool:
    return setup.option("largest_loss") > 0


def tesla_gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """TESLA's other estimate, which needs no checkpoints."""
    del real
    segment, steps = _drawn(key, learned, network, setup)
    rate = learned.extra["student_rate"]
    with forms.in_loops():
        value, grads, of_rate = matching.tesla_gradient(
            _inner_loss(setup), segment, learned, steps, rate
        )
    grads = grads._replace(extra={"student_rate": of_rate})
    return value, _of_small_loss(value, grads, setup)


def att_gradient(
    key: chex.PRNGKey, learned: Learned, network: Network, real: Real, setup: Setup
) -> tuple[chex.Array, Learned]:
    """The derivative through the steps up to the one that is nearest to the expert."""
    del real
    segment, steps = _drawn(key, learned, network, setup)

    def loss(learned):
        rate = learned.extra["student_rate"]
        return matching.att_loss(_inner_loss(setup), segment, learned, steps, rate)[0]

    with forms.in_loops():
        value, grads = jax.value_and_grad(loss)(learned)
    return value, _of_small_loss(value, grads, setup)


def optimiser(setup: Setup) -> optax.GradientTransformation:
    """SGD with momentum for images, labels and the student's rate, each at its own rate."""
    rules = {
        "images": optax.sgd(setup.image_rate, momentum=_MOMENTUM),
        "labels": optax.sgd(setup.label_rate, momentum=_LABEL_MOMENTUM)
        if setup.label_rate
        else optax.set_to_zero(),
        "student_rate": optax.sgd(setup.option("rate_rate"), momentum=_MOMENTUM),
    }
    return optax.partition(rules, Learned("images", "labels", {"student_rate": "student_rate"}))


def _untrained(setup: Setup) -> optax.GradientTransformation:
    del setup
    return optax.set_to_zero()


def passes(setup: Setup) -> float:
    """Of an outer step."""
    learned = setup.num_classes * setup.ipc
    batch = min(int(setup.option("student_batch")) or learned, learned)
    return 12 * setup.option("student_steps") * batch


def att_passes(setup: Setup) -> float:
    """Of an outer step at most: every step is walked, and those to the nearest one once more."""
    return passes(setup) * 15 / 12


def refuse(setup: Setup) -> str:
    """What is wrong where labels are the classes."""
    return limits.fixed_labels(setup) or refuse_walk(setup)


def refuse_walk(setup: Setup) -> str:
    """What is wrong with the numbers of a student or of its experts."""
    return (
        limits.undivided(setup)
        or limits.whole(setup, 1, "student_steps")
        or limits.whole(setup, 0, "student_batch")
        or limits.not_negative(setup, "student_rate", "rate_rate", "largest_loss")
        or expert_walk.refuse(setup)
    )


def refuse_averaged(setup: Setup) -> str:
    """As `refuse`, where images are averaged."""
    return limits.between(setup, "average_decay", 0, 1) or refuse(setup)


MTT = Method(
    name="mtt",
    source="arXiv 2203.11932; GeorgeCazenavette/mtt-distillation @50dccea",
    by_class=False,
    gradient=mtt_gradient,
    train=leave,
    optimiser=optimiser,
    network_optimiser=_untrained,
    passes=passes,
    held=held,
    options=_OPTIONS,
    extra=(("student_rate", "student_rate"),),
    walks_on_experts=True,
    skips=_skips,
    refuse=refuse,
)
_AVERAGING = replace(
    MTT,
    options=_AVERAGED,
    average="average_decay",
    averaged=("images",),
    refuse=refuse_averaged,
)
FTD = replace(_AVERAGING, name="ftd", source="arXiv 2211.11004; AngusDujw/FTD-distillation")
TESLA = replace(
    MTT,
    name="tesla",
    source="arXiv 2211.10586; justincui03/tesla @488842e",
    gradient=tesla_gradient,
    held=lambda setup: Held(3 * students.batch_size(setup)),
)
DATM = replace(
    MTT,
    name="datm",
    source="arXiv 2310.05773; NUS-HPC-AI-Lab/DATM @97ae510",
    gradient=datm_gradient,
    labels="expert_logits",
    refuse=refuse_walk,
)
ATT = replace(
    _AVERAGING,
    name="att",
    source="arXiv 2407.14245; NiaLiu/ATT @eec3176",
    gradient=att_gradient,
    passes=att_passes,
)
METHODS = (MTT, FTD, TESLA, DATM, ATT)
