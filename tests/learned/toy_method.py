"""A method of learned sets that is quick, and whose every part shows in its result."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from delt_jax.core import keys
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import ArrayExamples
from delt_jax.learned.driver import LearnTask
from delt_jax.learned.method import Learned, Method, Pool, Setup
from delt_jax.learned.program import SetProgram
from delt_jax.models import ModelSpec
from delt_jax.runtime.devices import AXIS
from delt_jax.store.log import MetricsLog

NORMALISATION = Normalisation((0.5,), (0.25,))


def gradient(key, learned, network, real, setup):
    """Pulls the images towards noisy real ones, as far as the network's bias says."""
    bias = network.variables["params"]["features_0"]["bias"].mean()
    target = jax.lax.pmean(real.images.mean((-4, -3, -2, -1)).mean(), AXIS)
    target += 0.1 * jax.random.normal(key) + bias

    def loss(learned):
        return ((learned.images - target) ** 2).mean() + ((learned.labels - bias) ** 2).mean()

    return jax.value_and_grad(loss)(learned)


def train(key, learned, network, real, setup):
    params = network.variables["params"]
    bias = (
        params["features_0"]["bias"] + 0.1 * learned.images.mean() + 0.01 * jax.random.normal(key)
    )
    params = params | {"features_0": params["features_0"] | {"bias": bias}}
    return network._replace(variables=network.variables | {"params": params})


METHOD = Method(
    name="toy",
    source="",
    by_class=False,
    gradient=gradient,
    train=train,
    optimiser=lambda setup: optax.sgd(setup.image_rate, momentum=0.5),
    network_optimiser=lambda setup: optax.adam(setup.network_rate),
    pool=Pool(3, is_staggered=True),
)
SETUP = Setup(
    spec=ModelSpec("dc_conv3", 3, 8, 1, 2),
    num_classes=3,
    ipc=2,
    steps=12,
    real_batch=8,
    more_real=0,
    image_rate=3.0,
    label_rate=0.0,
    network_rate=0.1,
    network_steps=1,
    lifetime=3,
    augment="",
    factor=1,
    mirrored=False,
    low=(-2.0,),
    high=(2.0,),
)


def task(folder, method=METHOD, setup=SETUP, **changes):
    """A task on random images of three classes."""
    draw = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 3
    pixels = draw.integers(0, 256, (60, 8, 8, 1), np.uint8)
    start = Learned(
        draw.normal(size=(6, 8, 8, 1)).astype(np.float32),
        np.eye(3, dtype=np.float32)[np.arange(6) // 2],
        {},
    )
    folder.mkdir(exist_ok=True)
    return LearnTask(
        SetProgram(method, setup, NORMALISATION),
        0,
        start,
        Preprocessing("standardise", NORMALISATION),
        ArrayExamples(pixels, labels, tuple(map(str, range(60)))),
        folder,
        MetricsLog(None),
        **changes,
    )


def key_of_step(step):
    """As the engine derives it."""
    return keys.derive(keys.stream(0, "learn"), jnp.int32(step))
