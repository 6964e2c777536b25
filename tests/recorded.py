"""Networks in eval mode beside the numbers that were recorded from torch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from delt_jax import models
from delt_jax.core import losses as losses_lib
from delt_jax.models import ModelSpec
from delt_jax.models.tap import apply_tapped

TOLERANCE = 1e-3


def deviation(measured, recorded) -> float:
    """Largest difference relative to the largest recorded magnitude."""
    return float(np.abs(np.asarray(measured) - recorded).max() / np.abs(recorded).max())


def seeded_images(recorded: Mapping[str, Any]) -> np.ndarray:
    """The recorded input, float32 [2, S, S, 3]."""
    size = int(recorded["input_size"])
    rng = np.random.default_rng([int(recorded["seed"]), 10**6])
    return rng.standard_normal((2, 3, size, size)).astype(np.float32).transpose(0, 2, 3, 1)


def network(spec: ModelSpec, labels: np.ndarray) -> Callable[..., Any]:
    """The recorded loss of (images, variables), a compiled function.

    It returns (loss, (logits, BN terms, cross-entropy)) and the gradient of the images.
    """
    model = models.create(spec)

    def forward(x, variables):
        if "batch_stats" not in variables:
            logits = model.apply(variables, x, train=False)
            cross_entropy = losses_lib.cross_entropy(logits, labels)
            return cross_entropy, (logits, jnp.zeros(0), cross_entropy)
        logits, batch, running, *_ = apply_tapped(model, variables, x)
        terms = losses_lib.bn_terms(batch, running)
        cross_entropy = losses_lib.cross_entropy(logits, labels)
        loss = cross_entropy + 0.01 * losses_lib.bn_matching(terms, 10.0)
        return loss, (logits, terms, cross_entropy)

    # Convolutions are library calls: optimising the rest costs more than it saves in one run.
    # The products of attention are not, and crawl without it.
    options = {"xla_backend_optimization_level": 3 if spec.name.startswith("vit") else 0}
    return jax.jit(jax.value_and_grad(forward, has_aux=True), compiler_options=options)


def check(recorded: Mapping[str, Any], results: Any) -> None:
    """Compares what `network` made of the recorded input with the recorded numbers."""
    (_, (logits, terms, cross_entropy)), gradient = results
    gradient = np.asarray(gradient).transpose(0, 3, 1, 2)
    corner = recorded["input_grad_corner"]
    assert deviation(logits, recorded["logits"]) < TOLERANCE
    assert deviation(cross_entropy, recorded["cross_entropy"]) < TOLERANCE
    assert deviation(np.linalg.norm(gradient), recorded["input_grad_norm"]) < TOLERANCE
    assert deviation(gradient[:, :, : corner.shape[2], : corner.shape[3]], corner) < TOLERANCE
    np.testing.assert_allclose(terms, recorded["bn_terms"], rtol=TOLERANCE)
