"""Nearest real images against an exhaustive search."""

import csv
import io

import chex
import jax
import numpy as np
import pytest

from delt_jax import models
from delt_jax.data import ArrayExamples, Normalisation
from delt_jax.models import ModelSpec
from delt_jax.reporting import nearest
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

KINDS = ("features_class", "features_any", "pixels_class", "pixels_any")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    spec = ModelSpec("conv3", 3, 8, 1, 4)
    model = models.create(spec)
    variables = model.init(jax.random.key(0), np.zeros((2, 8, 8, 1), np.float32), train=False)
    variables = jax.tree.map(np.asarray, variables)
    variables = {k: variables[k] for k in ("params", "batch_stats")}
    return Teacher(spec, variables, Normalisation((0.5,), (0.25,)), ("a", "b", "c"), 0.5)


def examples(count=50, seed=0) -> ArrayExamples:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, 8, 8, 1), np.uint8)
    labels = draw.integers(0, 3, count).astype(np.int32)
    return ArrayExamples(pixels, labels, [f"picture {i}" for i in range(count)])


def queries(count=12):
    other = examples(count, seed=1)
    return other.pixels, other.labels


def exhaustive(teacher, real, pixels, labels, own=None):
    """All distances: [M, N] by kind, infinite where an image may not be chosen."""

    def unit(images):
        features = teacher_lib.features_of(teacher, images).astype(np.float64)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def apart(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).reshape(len(a), len(b), -1).sum(-1))

    by_features = apart(unit(pixels), unit(real.pixels))
    by_pixels = apart(pixels / 255, real.pixels / 255) / np.sqrt(pixels[0].size)
    other_class = labels[:, None] != real.labels
    itself = np.zeros_like(other_class) if own is None else own[:, None] == np.arange(len(real))
    values = []
    for distances in (by_features, by_pixels):
        values.append(np.where(other_class | itself, np.inf, distances))
        values.append(np.where(itself, np.inf, distances))
    return dict(zip(KINDS, values, strict=True))


def check(found, expected):
    for kind in KINDS:
        ours = getattr(found, kind)
        np.testing.assert_array_equal(ours.indices, expected[kind].argmin(1), err_msg=kind)
        chex.assert_trees_all_close(ours.distances, expected[kind].min(1), atol=1e-6)


@pytest.mark.parametrize("kib", [1, 64 * 1024])  # in small pieces and in one
def test_neighbours_are_those_of_an_exhaustive_search(teacher, monkeypatch, kib):
    monkeypatch.setattr(nearest, "_BYTES", kib * 1024)
    real, (pixels, labels) = examples(), queries()
    seen = []
    found = nearest.find(teacher, real, pixels, labels, on_images=seen.append)
    assert sum(seen) == len(real)
    assert (len(seen) > 1) == (kib == 1)
    check(found, exhaustive(teacher, real, pixels, labels))
    # Looking among more images cannot make the nearest farther.
    assert (found.pixels_any.distances <= found.pixels_class.distances).all()


def test_a_copy_is_found_at_distance_zero(teacher):
    real = examples()
    found = nearest.find(teacher, real, real.pixels[[7, 30]], real.labels[[7, 30]])
    for kind in KINDS:
        assert getattr(found, kind).indices.tolist() == [7, 30]
        assert getattr(found, kind).distances.max() < 1e-6
    assert found.pixels_any.distances.tolist() == [0, 0]
    # Of another class, the same image is only the nearest of any.
    other = nearest.find(teacher, real, real.pixels[[7]], (real.labels[[7]] + 1) % 3)
    assert other.pixels_any.indices.tolist() == [7]
    assert other.pixels_class.indices[0] != 7
    assert other.pixels_class.distances[0] > 0.1


def test_of_equal_images_the_first_is_named(teacher):
    real = examples()
    twice = ArrayExamples(
        np.concatenate([real.pixels, real.pixels]), np.tile(real.labels, 2), ["x"] * 100
    )
    pixels, labels = queries()
    found = nearest.find(teacher, twice, pixels, labels)
    check(found, exhaustive(teacher, real, pixels, labels))


def test_no_image_of_the_class(teacher):
    real = examples()
    found = nearest.find(teacher, real, real.pixels[:1], np.array([5], np.int32))
    assert np.isinf(found.pixels_class.distances[0])
    assert found.pixels_any.distances[0] == 0


def test_real_images_among_themselves_are_the_yardstick(teacher, monkeypatch):
    monkeypatch.setattr(nearest, "_SAMPLE", 20)
    real, (pixels, labels) = examples(), queries()
    ours, sample = nearest.with_yardstick(teacher, real, pixels, labels)
    check(ours, exhaustive(teacher, real, pixels, labels))
    drawn = np.sort(np.random.default_rng(0).permutation(50)[:20])
    check(sample, exhaustive(teacher, real, real.pixels[drawn], real.labels[drawn], drawn))
    assert (sample.pixels_any.distances > 0.1).all()  # none is its own neighbour


def test_summary_counts_near_copies():
    def of(*distances):
        same = nearest.Neighbours(np.zeros(len(distances), int), np.array(distances))
        far = nearest.Neighbours(np.zeros(len(distances), int), np.ones(len(distances)))
        return nearest.Nearest(far, far, far, same)

    assert nearest.summary(of(0.01, 0.04, 0.06, 0.2), of(0.02, 0.3, 0.4)) == {
        "threshold": 0.05,
        "near_copies": 0.5,
        "near_copies_among_real": pytest.approx(1 / 3),
        "median_rms": pytest.approx(0.05),
        "median_rms_among_real": pytest.approx(0.3),
        "real_sample": 3,
    }


def test_list_of_neighbours(teacher):
    real = examples()
    found = nearest.find(teacher, real, real.pixels[[7, 30, 1, 2]], real.labels[[7, 30, 1, 2]])
    text = nearest.as_csv(found, 2, real.names).decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["class"], line["rank"]) for line in lines] == [
        *(("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"))
    ]
    assert [line["pixels_any_name"] for line in lines] == [
        *("picture 7", "picture 30", "picture 1", "picture 2")
    ]
    assert [line["features_class_index"] for line in lines] == ["7", "30", "1", "2"]
    assert {line["pixels_class_distance"] for line in lines} == {"0"}
