"""Images on the device: the same pixels, for what fits."""

import jax
import numpy as np
import pytest

from delt_jax import main
from delt_jax.data import ArrayExamples, Source, batches, device_budget, put_on_device, read
from delt_jax.data.on_device import OnDeviceExamples
from delt_jax.models import ModelSpec, create
from delt_jax.recovery.ranking import TABLE
from delt_jax.teachers import prediction
from delt_jax.teachers import teacher as teacher_lib


def examples(count: int) -> ArrayExamples:
    draw = np.random.default_rng(count)
    pixels = draw.integers(0, 256, (count, 8, 8, 1), np.uint8)
    return ArrayExamples(
        pixels, np.arange(count, dtype=np.int32) % 3, [str(i) for i in range(count)]
    )


@pytest.fixture
def source() -> Source:
    return Source("noise", ("a", "b", "c"), 8, 1, examples(50), examples(20), "fingerprint")


@pytest.mark.parametrize(
    ("images", "train", "test"),
    [(0, False, False), (19, False, False), (69, False, True), (70, True, True)],
)
def test_what_fits_goes_to_the_device_the_test_split_first(source, images, train, test):
    on_device = put_on_device(source, images * 64)
    assert isinstance(on_device.train, OnDeviceExamples) == train
    assert isinstance(on_device.test, OnDeviceExamples) == test


def test_pixels_on_the_device_are_the_same_and_stay_there(source):
    on_device = put_on_device(source, 10**6)
    order = np.random.default_rng(0).permutation(50)
    assert isinstance(on_device.train.images(order), jax.Array)
    for (i, ours), (j, theirs) in zip(
        batches(on_device.train, 16, order), batches(source.train, 16, order), strict=True
    ):
        np.testing.assert_array_equal(i, j)
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(read(on_device.train, order), source.train.pixels[order])
    np.testing.assert_array_equal(on_device.test.labels, source.test.labels)
    assert list(on_device.test.names) == source.test.names


def test_a_teacher_sees_images_on_the_device_alike(source):
    model = create(ModelSpec("conv3", 3, 8, 1, 4))
    variables = jax.jit(lambda k: model.init(k, np.zeros((1, 8, 8, 1)), train=False))(
        jax.random.key(0)
    )
    normalisation = teacher_lib.Normalisation((0.5,), (0.25,))
    seen = [
        prediction.predict(model, variables, normalisation, (p for _, p in batches(s.test, 8)))
        for s in (source, put_on_device(source, 10**6))
    ]
    np.testing.assert_array_equal(*(logits for logits, _ in seen))
    np.testing.assert_array_equal(*(features for _, features in seen))


@pytest.mark.exhaustive  # a teacher sees them alike below
def test_a_run_on_images_on_the_device_makes_the_same_teacher_and_ranking(tmp_path, monkeypatch):
    made = []
    for name, budget in (("host", 0), ("device", 10**9)):
        monkeypatch.setattr("delt_jax.data.device_budget", lambda budget=budget: budget)
        run = tmp_path / name
        flags = ["--config=configs/digits.py", f"--workdir={run}", "--config.teacher.epochs=1"]
        assert main.main(["delt_jax", *flags, "--stages=squeeze,rank"]) == 0
        made.append(
            [(run / name).read_bytes() for name in (f"teacher/{teacher_lib.WEIGHTS}", TABLE)]
        )
    assert made[0] == made[1]


def test_cpus_keep_images_where_they_are():
    assert device_budget() == 0
