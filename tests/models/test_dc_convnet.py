"""The DC ConvNet beside numbers of torch: its outputs, its start, and students that it becomes."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from seeded import seeded_state

from delt_jax import models
from delt_jax.core import losses
from delt_jax.models import ModelSpec, torch_weights
from delt_jax.training import state as state_lib
from delt_jax.training.state import Trainer
from delt_jax.training.student_step import LearnProgram, make_optimiser

FOLDER = Path(__file__).parents[1] / "golden/dc"
RECORDED = np.load(FOLDER / "networks.npz")
SPECS = {
    "grey": ModelSpec("dc_conv3", 10, 28, 1, 8),
    "colour": ModelSpec("dc_conv4", 5, 32, 3, 6),
}


def given(name):
    spec = SPECS[name]
    variables = torch_weights.from_torch(seeded_state(FOLDER / f"{name}.state_dict.json", 3), spec)
    draw = np.random.default_rng([3, spec.image_size])
    shape = (6, spec.channels, spec.image_size, spec.image_size)
    images = draw.standard_normal(shape).astype(np.float32).transpose(0, 2, 3, 1)
    return spec, variables, jnp.asarray(images), jnp.arange(6) % spec.num_classes


@pytest.mark.parametrize("name", SPECS)
def test_recorded_numbers(name):
    spec, variables, images, labels = given(name)
    model = models.create(spec)

    @jax.jit
    def loss(images):
        logits = model.apply(variables, images, train=False)
        return losses.cross_entropy(logits, labels), logits

    (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(images)
    np.testing.assert_allclose(logits, RECORDED[f"{name}_logits"], atol=1e-4)
    corner = np.asarray(gradient)[:, :6, :6].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(corner, RECORDED[f"{name}_gradient"], atol=1e-6)


def test_sgd_takes_torchs_steps():
    """Five, the rate falling after three: decay in the gradients of all weights, and a velocity
    that knows nothing of rates.
    """
    spec, variables, images, labels = given("grey")
    optimiser = make_optimiser(LearnProgram(spec, 5e-4, 1, 0.0, "kl", False, optimiser="sgd"))
    trainer, params = Trainer(models.create(spec), optimiser), variables["params"]
    state = state_lib.TrainState(jnp.int32(0), params, {}, optimiser.init(params))

    @jax.jit
    def step(state, rate):
        outcome = state_lib.gradients(
            trainer, state, images, lambda z: losses.cross_entropy(z, labels)
        )
        return state_lib.apply_gradients(trainer, state, outcome, rate)

    taken = []
    for rate in (0.05, 0.05, 0.05, 0.005, 0.005):
        state, value = step(state, rate)
        taken.append(value)
    np.testing.assert_allclose(taken, RECORDED["grey_losses"], rtol=1e-4)
    after = trainer.model.apply(state.variables, images, train=False)
    np.testing.assert_allclose(after, RECORDED["grey_trained"], atol=1e-3)


def test_names_are_the_released_ones():
    names = [e.name for e in torch_weights.entries(SPECS["grey"])]
    expected = [f"features.{i}.{leaf}" for i in (0, 1, 4, 5, 8, 9) for leaf in ("weight", "bias")]
    assert sorted(names) == sorted([*expected, "classifier.weight", "classifier.bias"])
    listed = json.loads((FOLDER / "grey.state_dict.json").read_text())
    assert {(n, tuple(shape)) for _, n, shape in listed} == {
        (e.name, e.shape) for e in torch_weights.entries(SPECS["grey"])
    }


def test_parameters_of_the_paper():
    """As DC's network of width 128 has on CIFAR-10, and on grey images of 28 px."""

    def count(spec):
        return sum(int(np.prod(e.shape)) for e in torch_weights.entries(spec))

    assert count(ModelSpec("dc_conv3", 10, 32, 3)) == 320_010
    assert count(ModelSpec("dc_conv3", 10, 28, 1)) == 317_706


def test_weights_start_as_torchs():
    """Uniform within one by the root of the inputs, biases too; norms at one and zero."""
    spec = replace(SPECS["colour"], width=64)
    model = models.create(spec)
    state = state_lib.init_state(model, optax.sgd(1.0), jax.random.key(0), (32, 32, 3))
    for place, fan_in in ((0, 27), (4, 576), (8, 576), (12, 576)):
        layer = state.params[f"features_{place}"]
        for values in layer.values():
            bound = fan_in**-0.5
            drawn = np.asarray(values).ravel()
            assert (
                scipy.stats.kstest(drawn, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4
            )
        norm = state.params[f"features_{place + 1}"]
        assert (norm["scale"] == 1).all()
        assert (norm["bias"] == 0).all()
    head = state.params["classifier"]
    assert abs(np.abs(head["kernel"]).max() * np.sqrt(len(head["kernel"])) - 1) < 0.01
    assert 0 < np.abs(head["bias"]).max() <= len(head["kernel"]) ** -0.5
