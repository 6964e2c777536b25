"""Small versions of every architecture, and weights for them."""

import numpy as np
from flax.traverse_util import flatten_dict

from delt_jax.models import ModelSpec, torch_weights

# Small versions: (width, image size) where they are not (8, 32).
SMALL = {
    "alexnet": (8, 64),
    "conv6": (8, 64),
    "dc_conv6": (8, 64),
    "shufflenet_v2_x0_5": (12, 32),
    "shufflenet_v2_x1_0": (12, 32),
    "swin_v2_t": (32, 40),
    "vit_b_16": (64, 32),
}


def small(name: str, dtype: str = "float32") -> ModelSpec:
    width, image_size = SMALL.get(name, (8, 32))
    return ModelSpec(name, 5, image_size, 3, width, dtype)


def random_state(spec: ModelSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {e.name: rng.standard_normal(e.shape, np.float32) for e in torch_weights.entries(spec)}


def assert_same(a: dict, b: dict) -> None:
    a, b = flatten_dict(a), flatten_dict(b)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype == np.float32
        np.testing.assert_array_equal(a[path], b[path])
