"""A validation split: what is held out, that nothing else is left, and what reports call it."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from delt_jax import main
from delt_jax.config import default_config, from_config
from delt_jax.data import batches, cache_in_memory, describe_source, open_source, put_on_device
from delt_jax.data.in_memory import InMemoryExamples
from delt_jax.data.source import EncodedExamples
from delt_jax.data.validation import SCORED, hold_out
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.reporting import tables
from delt_jax.store import files

CLASSES, PER_CLASS, SIDE = 3, 8, 6


@pytest.fixture
def folder(tmp_path):
    """Class folders of pictures that are all different: one grey level each."""
    for c in range(CLASSES):
        for i in range(PER_CLASS):
            path = tmp_path / "images" / f"class{c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (SIDE, SIDE), 40 * c + i).save(path)
    return DataRecipe(name="folder", path=str(tmp_path / "images"), image_size=SIDE, channels=1)


def levels(examples) -> list[int]:
    """The grey level of each picture, read as every stage reads them."""
    return [int(v) for _, images in batches(examples, 4) for v in images[:, 0, 0, 0]]


def test_a_share_of_every_class_moves_from_training_into_the_place_of_the_test_images(folder):
    whole = open_source(folder)
    part = open_source(dataclasses.replace(folder, validation_share=0.5))
    assert sorted(levels(part.train) + levels(part.test)) == sorted(levels(whole.train))
    assert not {*levels(part.test)} & {*levels(whole.test)}  # no test image anywhere
    for c in range(CLASSES):
        assert (part.test.labels == c).sum() == (whole.train.labels == c).sum() / 2
    for split in (part.train, part.test):
        assert [level // 40 for level in levels(split)] == split.labels.tolist()
        assert [f"class{v // 40}/{v % 40}.png" for v in levels(split)] == list(split.names)
    assert part.fingerprint != whole.fingerprint
    assert part.scored == SCORED
    assert whole.scored == "test images"
    assert any("are held out to validate on" in note for note in part.notes)


def test_the_draw_is_the_seeds_alone(folder):
    def opened(seed, share=0.5):
        return open_source(dataclasses.replace(folder, validation_share=share, split_seed=seed))

    one = opened(0)
    assert opened(0).fingerprint == one.fingerprint
    assert list(opened(0).test.names) == list(one.test.names)
    assert opened(0, 0.3).fingerprint != one.fingerprint
    # Another draw from equal training images is another set of data.
    whole = open_source(folder)
    parts = [hold_out(whole, 0.5, seed) for seed in (0, 1)]
    assert list(parts[0].test.names) != list(parts[1].test.names)
    assert parts[0].fingerprint != parts[1].fingerprint


def test_without_a_share_nothing_changes():
    assert DIGITS.fingerprint == "cffbae7e6b12b7e5"  # as before there was a choice
    assert DIGITS.scored == "test images"
    assert DIGITS.notes == ()


def test_files_stay_lazy_travel_to_workers_and_can_be_cached(folder, tmp_path):
    source = open_source(dataclasses.replace(folder, validation_share=0.5))
    assert isinstance(source.train, EncodedExamples)
    copy = pickle.loads(pickle.dumps(source.train))
    assert levels(copy) == levels(source.train)
    cached = cache_in_memory(source, 1, tmp_path / "cache")
    assert isinstance(cached.test, InMemoryExamples)
    assert levels(cached.train) == levels(source.train)
    assert levels(cached.test) == levels(source.test)
    assert levels(put_on_device(cached, 10**6).test) == levels(source.test)
    (bad,) = [i for i, v in enumerate(levels(source.test)) if v == levels(source.test)[0]]
    named = source.test.names[bad]
    (tmp_path / "images" / named).write_bytes(b"broken")
    with pytest.raises(UserError, match=named):
        source.test.images(np.array([bad]))


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_every_class_keeps_images_on_both_sides(share, seed):
    source = hold_out(DIGITS, share, seed)
    assert len(source.train) + len(source.test) == len(DIGITS.train)
    for split in (source.train, source.test):
        assert np.bincount(split.labels, minlength=10).min() >= 1
        np.testing.assert_array_equal(
            DIGITS.train.images(np.array([PLACES[n] for n in split.names])),
            split.images(np.arange(len(split))),
        )


DIGITS = open_source(DataRecipe(name="digits"))
PLACES = {name: i for i, name in enumerate(DIGITS.train.names)}


def test_a_class_of_one_image_cannot_be_parted(tmp_path):
    images = np.zeros((5, 8, 8), np.uint8)
    labels = np.array([0, 0, 1, 0, 1])
    path = tmp_path / "few.npz"
    np.savez(path, x_train=images, y_train=labels[[0, 1, 2, 3, 3]], x_test=images, y_test=labels)
    recipe = DataRecipe(name="npz", path=str(path), validation_share=0.5)
    with pytest.raises(UserError, match=r"two training images of every class, but '1' of few has"):
        open_source(recipe)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_a_share(share):
    config = default_config()
    config.data.validation_share = share
    with pytest.raises(UserError, match=r"validation_share must be in \[0, 1\)"):
        from_config(config)


def test_published_numbers_are_parted_too():
    source = describe_source(DataRecipe(name="tfds", known_as="cifar10", validation_share=0.2))
    assert (len(source.train), len(source.test), source.scored) == (40_000, 10_000, SCORED)


TINY = {
    "data.name": "digits",
    "data.flip": False,
    "data.validation_share": 0.25,
    "ipc": 1,
    "teacher.width": 8,
    "teacher.epochs": 1,
    "recover.iterations": 0,
    "recover.round_iterations": 0,
    "evaluate.width": 8,
    "evaluate.epochs": 1,
    "evaluate.seeds": 1,
    "evaluate.regimes": ("hard",),
    "evaluate.images": ("recovered",),
    "relabel.rand_augment": "",  # fewer operations to compile
    "relabel.mix": "none",
    "report.nearest": False,
}


def test_a_run_says_what_its_scores_are_of(tmp_path, capsys):
    config = default_config()
    config.update_from_flattened_dict(TINY)
    main.run(config, str(tmp_path))
    said = capsys.readouterr()
    text = said.out + said.err
    count = sum(round(0.25 * n) for n in np.bincount(DIGITS.train.labels))
    assert f"of {count} {SCORED}" in text
    assert f"Accuracy on {SCORED}, in %" in text
    assert files.read_json(tmp_path / "summary.json")["scored_on"] == SCORED
    page = (tmp_path / "report/report.html").read_text()
    assert f"% of the {SCORED}" in page
    assert not any(words in page for words in ("test images", "Test accuracy"))
    confusion = files.read_json(tmp_path / "evaluation/scores.json")[0]["confusion"]
    assert np.sum(confusion) == count


def test_what_accuracies_are_called():
    assert tables.accuracy_on("test images") == "Test accuracy"
    assert tables.accuracy_on(SCORED) == f"Accuracy on {SCORED},"
