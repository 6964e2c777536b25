"""Operations are counted on every device, also where its own client cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delt_jax.models import ModelSpec
from delt_jax.runtime import counting
from delt_jax.teachers import cost

MATRIX = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def product(x):
    return x @ x.T


def test_a_product_has_two_operations_for_each_of_its_terms():
    assert counting.flops(product, MATRIX) == 2 * 8 * 8 * 16
    assert counting.flops(product, np.zeros((8, 16), np.float32)) == 2 * 8 * 8 * 16


@pytest.mark.parametrize("has_cpu", [True, False])
def test_a_client_without_an_estimate_is_asked_for_the_compiled_program(monkeypatch, has_cpu):
    """As GPUs' clients do; JAX_PLATFORMS=cuda takes the CPU's away."""
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda lowered: None)
    if not has_cpu:

        def absent(backend):
            raise RuntimeError(f"Unknown backend {backend}")

        monkeypatch.setattr(jax, "local_devices", absent)
    assert counting.flops(product, MATRIX) == pytest.approx(2 * 8 * 8 * 16, rel=0.1)
    cost.model_cost.cache_clear()
    assert 1e4 < cost.model_cost(ModelSpec("conv3", 10, 8, 1, 8)).forward_flops < 1e5
    cost.model_cost.cache_clear()
