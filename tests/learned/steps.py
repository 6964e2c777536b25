"""A small problem for every method, and the networks of the recorded steps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax.learned.method import Learned, Method, Network, Real, Setup
from delt_jax.models import ModelSpec

RECORDED = np.load(Path(__file__).parents[1] / "golden/learned/steps.npz")
CLASSES, IPC = 3, 2


def setup(model="dc_conv3", **changes) -> Setup:
    """Of the recorded problem: grey images of 8 px."""
    values = {
        "spec": ModelSpec(model, CLASSES, 8, 1, 4),
        "num_classes": CLASSES,
        "ipc": IPC,
        "steps": 10,
        "real_batch": 4,
        "more_real": 0,
        "image_rate": 0.1,
        "label_rate": 0.0,
        "network_rate": 0.01,
        "network_steps": 1,
        "lifetime": 10,
        "augment": "",
        "factor": 1,
        "mirrored": False,
        "low": (-1.0,),
        "high": (2.0,),
    }
    return Setup(**(values | changes))


def weights(prefix: str) -> dict:
    """Variables of a recorded network, in our layout."""
    params: dict = {}
    stats: dict = {}
    for name in RECORDED.files:
        network, _, rest = name.partition(".")
        if network != prefix:
            continue
        *path, leaf = rest.split(".")
        value = RECORDED[name]
        module = "_".join(path)
        if module.startswith("norm"):
            module = f"norm_{int(path[1]) + 1}"
        if leaf.startswith("running_"):
            stats.setdefault(module, {})[leaf.removeprefix("running_")] = jnp.asarray(value)
            continue
        if leaf == "weight" and value.ndim > 1:
            value, leaf = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0)), "kernel"
        elif leaf == "weight":
            leaf = "scale"
        params.setdefault(module, {})[leaf] = jnp.asarray(value)
    return {"params": params} | ({"batch_stats": stats} if stats else {})


def nhwc(name: str) -> jax.Array:
    """A recorded array of images, channels last."""
    return jnp.asarray(np.moveaxis(RECORDED[name], -3, -1))


def learned(labels=None) -> Learned:
    one_hot = jax.nn.one_hot(jnp.repeat(jnp.arange(CLASSES), IPC), CLASSES)
    return Learned(nhwc("images"), one_hot if labels is None else jnp.asarray(labels), {})


def network(method: Method, setup: Setup, prefix: str) -> Network:
    variables = weights(prefix)
    state = method.network_optimiser(setup).init(variables["params"])
    return Network(variables, state, jnp.int32(0))


def real(by_class: bool) -> Real:
    images = nhwc("real")
    labels = jnp.repeat(jnp.arange(CLASSES), images.shape[1]).reshape(CLASSES, -1)
    if by_class:
        return Real(images, labels, None)
    return Real(images.reshape(-1, *images.shape[2:]), labels.reshape(-1), None)
