"""Students of float images and learned labels: what they see, learn, and are tested on."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from delt_jax.config import default_config, from_config
from delt_jax.core import losses
from delt_jax.core.normalisation import Normalisation
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.data import ArrayExamples
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec
from delt_jax.training import learned_labels, learned_score, state
from delt_jax.training.learned_score import Exam
from delt_jax.training.protocols import EvalSetting, resolve
from delt_jax.training.student_program import LabelledImages

CLASSES, SIZE = 2, 8


def protocol(name="frepo", **changes):
    config = default_config()
    config.evaluate.protocol = name
    changes = {f"evaluate.{k}": v for k, v in changes.items()} | {"relabel.dsa": ""}
    config.update_from_flattened_dict(changes)
    return resolve(from_config(config), EvalSetting("conv3", CLASSES, 4, SIZE, 1))


def whitening():
    """A space in which images are negatives: what is bright in one class is so in the other."""
    constants = Normalisation((0.4,), (0.2,))
    negative, centre = -np.eye(SIZE**2), np.full(SIZE**2, 0.1)
    return Preprocessing("zca", constants, np.float32(negative), np.float32(centre))


def pixels(count):
    """Class 0 is bright above, class 1 below; uint8 [2 * count, 8, 8, 1], and labels."""
    draw = np.random.default_rng(count)
    images = draw.integers(0, 100, (2 * count, SIZE, SIZE, 1))
    images[:count, : SIZE // 2] += 100
    images[count:, SIZE // 2 :] += 100
    return images.astype(np.uint8), np.repeat(np.arange(2, dtype=np.int32), count)


def exam(**changes):
    images, labels = pixels(50)
    test = ArrayExamples(images, labels, [""] * len(labels))
    spec = ModelSpec("conv3", CLASSES, SIZE, 1, 8)
    asked = {"epochs": 30} | changes.pop("asked", {})
    trained = replace(protocol(**asked), learning_rate=0.01)
    return Exam(spec, trained, whitening(), test, **changes)


def score(exam, labels=None, images=None):
    shown, classes = pixels(4)
    floats = np.asarray(exam.preprocessing(shown)) if images is None else images
    if labels is None:
        labels = learned_labels.of_classes(classes, CLASSES, True)
    return learned_score.accuracies(exam, LabelledImages(floats, classes, None, labels))


def test_students_learn_in_the_space_and_are_tested_there():
    assert score(exam())[0] > 0.9
    # Images that did not go through the preprocessing teach nothing of those that did.
    shown, _ = pixels(4)
    assert score(exam(), images=(shown / 255 - 0.4).astype(np.float32) / 0.2)[0] < 0.1


def test_learned_labels_are_what_is_learned():
    _, classes = pixels(4)
    swapped = learned_labels.of_classes(1 - classes, CLASSES, True)
    assert score(exam(), swapped)[0] < 0.1
    assert score(exam(regime="hard"), swapped)[0] > 0.9  # which looks at the classes alone


def test_hard_labels_are_those_that_frepo_starts_from():
    """The regime "hard" and learned labels as they start are the same training."""
    learned, hard = score(exam()), score(exam(regime="hard"))
    assert learned == hard
    starts = learned_labels.of_classes(np.array([1]), 4, True)
    np.testing.assert_allclose(starts, (np.eye(4)[[1]] - 1 / 4) / np.sqrt(4 / 10), rtol=1e-6)


def test_squared_error_is_frepos():
    logits, values = np.random.default_rng(0).normal(size=(2, 5, 3))
    by_hand = np.mean([sum(0.5 * (a - b) ** 2) for a, b in zip(logits, values, strict=True)])
    assert float(losses.squared_error(logits, values)) == pytest.approx(by_hand, rel=1e-5)


def test_forms_of_labels():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        learned_labels.targets(logits, "logits", False), softmax(logits, axis=1), rtol=1e-5
    )
    assert learned_labels.targets(logits, "centred", True) is logits  # bit for bit
    with pytest.raises(UserError, match="frepo"):
        learned_labels.targets(logits, "centred", False)
    for form in ("one_hot", "probabilities"):
        with pytest.raises(UserError, match="no probabilities"):
            learned_labels.targets(logits, form, False)


def test_pixels_alone_know_rand_augment():
    config = default_config()
    config.evaluate.protocol = "delt"
    delt = resolve(from_config(config), EvalSetting("conv3", CLASSES, 4, SIZE, 1))
    spec = ModelSpec("conv3", CLASSES, SIZE, 1, 8)
    with pytest.raises(UserError, match=r"relabel\.rand_augment") as e:
        score(Exam(spec, delt, whitening(), exam().test))
    offered = re.search("without it: (.*)\\.", str(e.value))[1].replace(" or ", ", ").split(", ")
    assert {"mtt", "ratbptt", "rcig"} < set(offered)
    for name in offered:
        assert protocol(name).views.rand_augment == ""


@pytest.mark.parametrize(
    ("classes", "ipc", "epochs"),
    [
        *((10, 1, 1000), (10, 10, 2000), (200, 1, 20000), (10, 50, 5000), (100, 10, 5000)),
        *((10, 5, 2000), (200, 10, 10000), (1000, 10, 2000)),  # of no listed number, or beyond
    ],
)
def test_frepo_trains_for_steps_by_number_of_images(classes, ipc, epochs):
    config = default_config()
    config.evaluate.protocol = "frepo"
    found = resolve(from_config(config), EvalSetting("conv3", classes, ipc, 32))
    assert found.epochs == epochs
    assert found.batch_size == min(classes * ipc, 500)
    assert found.eval_every == epochs


def test_warm_cosine():
    rate = state.warm_cosine(2.0, 1000, 2)
    assert float(rate(0)) == 0
    assert float(rate(250)) == pytest.approx(1)
    assert float(rate(500)) == pytest.approx(2)
    assert float(rate(1250)) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert float(rate(2000)) == pytest.approx(0.02)
