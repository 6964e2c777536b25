"""npz files, and the class lists that come with the package."""

import contextlib
import io
import resource
from pathlib import Path

import numpy as np
import pytest
from forged_npz import FORGED
from hypothesis import given, settings
from hypothesis import strategies as st

from delt_jax.data import Source, open_source
from delt_jax.data.classes import positions, wanted_classes
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import foreign


def arrays(count=10, shape=(8, 8, 3), classes=2) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(count)
    return {
        "images": draw.integers(0, 256, (count, *shape), np.uint8),
        "labels": np.arange(count) % classes,
    }


def open_npz(folder: Path, content: dict, **settings) -> Source:
    np.savez(folder / "set.npz", **content)
    return open_source(DataRecipe(name="npz", path=str(folder / "set.npz"), **settings))


def test_npz_with_one_split(tmp_path):
    content = arrays()
    source = open_npz(tmp_path, content)
    assert (source.name, source.class_names) == ("set", ("0", "1"))
    assert (source.image_size, source.channels) == (8, 3)
    assert (len(source.train), len(source.test)) == (8, 2)
    for split in (source.train, source.test):
        numbers = [int(name.split("/")[1]) for name in split.names]
        pixels = split.images(np.arange(len(split)))
        np.testing.assert_array_equal(pixels, content["images"][numbers])
        np.testing.assert_array_equal(split.labels, content["labels"][numbers])
    changed = content["images"].copy()
    changed[0, 0, 0, 0] += 1
    again = open_npz(tmp_path, content | {"images": changed})
    assert again.fingerprint != source.fingerprint


@pytest.mark.parametrize("keys", ["train_images train_labels test_images test_labels", "x y X Y"])
def test_npz_with_two_splits_and_names(tmp_path, keys):
    keys = keys if "_" in keys else "x_train y_train x_test y_test"
    train, test = arrays(10, (8, 8)), arrays(4, (8, 8))
    values = (train["images"], train["labels"][:, None], test["images"], test["labels"])
    named = dict(zip(keys.split(), values, strict=True)) | {"class_names": np.array(["a", "b"])}
    source = open_npz(tmp_path, named)
    assert source.class_names == ("a", "b")
    assert source.channels == 1
    np.testing.assert_array_equal(source.test.images(np.arange(4))[..., 0], test["images"])
    listed = tmp_path / "list.txt"
    listed.write_text("b\n")
    only = open_npz(tmp_path, named, classes=str(listed))
    assert only.class_names == ("b",)
    np.testing.assert_array_equal(only.test.images(np.arange(2))[..., 0], test["images"][1::2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": None}, "holds images, but it needs images and labels"),
        ({"images": np.zeros((10, 8, 8), np.float32)}, "images float32 .* do not fit"),
        ({"images": np.zeros((9, 8, 8), np.uint8)}, r"\(9, 8, 8\) and labels .* do not fit"),
        ({"labels": np.full(10, -1)}, "do not fit"),
        ({"labels": np.arange(10) / 2}, "labels float64"),
        ({"class_names": np.array(["a"])}, "2 classes and the class names a"),
        ({"class_names": np.array(["a", "a"])}, "name each class once"),
        ({"labels": np.arange(10) == 1}, "labels bool"),
        ({"labels": np.array(list("0101010101"))}, "labels <U1"),
        ({"labels": np.arange(10) + 2**32}, "has the label 4294967305, but there are 10 training"),
        ({"labels": np.arange(10, dtype=np.uint64) + 2**63}, "has the label 9223372036854775817"),
        ({"labels": np.array([0] * 9 + [10**9])}, "has the label 1000000000, but there are 10"),
        ({"labels": np.array([0] * 9 + [np.nan])}, "labels float64"),
        ({"images": np.zeros((10, 8, 0), np.uint8)}, "do not fit"),
        ({"images": np.zeros((10, 8, 8, 2), np.uint8)}, "do not fit"),
        ({"images": np.full((10, 8, 8), np.nan)}, "images float64 .* do not fit"),
        ({"class_names": np.array([1, 2])}, "class_names int64 .* must be text"),
        ({"class_names": np.array([["a", "b"]])}, "must be text"),
        ({"class_names": np.array(["a", ""])}, "not empty for each class"),
        ({"class_names": np.array([b"a", b"\xff"])}, "not UTF-8"),
        ({"class_names": np.array([], str)}, "must be text"),
        ({"labels": np.array([{}] * 10)}, "cannot be read"),  # an object array stays pickled
    ],
)
def test_npz_that_does_not_fit(tmp_path, change, sentence):
    content = {k: v for k, v in (arrays() | change).items() if v is not None}
    with pytest.raises(UserError, match=sentence) as e:
        open_npz(tmp_path, content)
    assert "set.npz" in str(e.value)
    assert "\n" not in str(e.value)


def test_npz_that_is_none(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4")
    for path, sentence in (("cut.npz", "cannot be read"), ("none.npz", r"is no \.npz file")):
        with pytest.raises(UserError, match=sentence):
            open_source(DataRecipe(name="npz", path=str(tmp_path / path)))


@pytest.mark.parametrize("kind", FORGED)
def test_forged_archives(tmp_path, kind):
    path = tmp_path / "set.npz"
    FORGED[kind](path)
    with pytest.raises(UserError, match=r"set\.npz cannot be read \(.*numpy\.savez") as e:
        open_source(DataRecipe(name="npz", path=str(path)))
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 500


def test_arrays_beyond_memory_are_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "available_bytes", lambda: 2000)
    with pytest.raises(UserError, match=r"claims 2[0-9]+ bytes, more than the 1600 that memory"):
        open_npz(tmp_path, arrays())


def test_memory_that_is_left(monkeypatch):
    free = foreign.available_bytes()
    assert 2**20 < free < 2**60
    limit = free // 2 + 2**40
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert foreign.available_bytes() <= limit
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, 2**20))
    assert foreign.available_bytes() == 0  # this process has more than a MiB


def test_other_arrays_of_the_file_are_not_read(tmp_path):
    source = open_npz(tmp_path, arrays() | {"paths": np.array([{}])})
    assert len(source.train) == 8


def test_arrays_in_any_order_and_byte_order(tmp_path):
    plain = open_npz(tmp_path, arrays())
    changed = arrays()
    changed["images"] = np.asfortranarray(changed["images"])
    changed["labels"] = changed["labels"].astype(">u2")
    changed["class_names"] = np.array([b"0", b"1"])
    other = open_npz(tmp_path, changed)
    assert other.fingerprint == plain.fingerprint
    assert other.class_names == ("0", "1")


@settings(max_examples=80, deadline=None)
@given(cut=st.floats(0.3, 1), flips=st.lists(
    st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4))  # fmt: skip
def test_damaged_archives_end_in_a_sentence(tmp_path_factory, cut, flips):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays())
    content = bytearray(buffer.getvalue())
    for place, value in flips:
        content[int(place * len(content))] = value
    path = tmp_path_factory.mktemp("damaged") / "set.npz"
    path.write_bytes(content[: int(cut * len(content))])
    with contextlib.suppress(UserError):  # anything else fails the test
        open_source(DataRecipe(name="npz", path=str(path)))


# --- class lists ---


def test_shipped_lists():
    imagenet = wanted_classes("imagenet")
    assert len(imagenet) == 1000
    assert list(imagenet) == sorted(imagenet)
    assert positions(wanted_classes("imagenette"), wanted_classes("imagenet")) == (
        *(0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    )
    woof = positions(wanted_classes("imagewoof"), wanted_classes("imagenet"))
    assert woof == (155, 159, 162, 167, 182, 193, 207, 229, 258, 273)
    hundred = wanted_classes("imagenet100")
    assert len(hundred) == 100
    assert wanted_classes("imagenet10") == hundred[:10]
    assert positions(hundred, wanted_classes("imagenet")) is not None
    assert positions(("n01440764", "cat"), wanted_classes("imagenet")) is None


def test_lists_are_for_sources_with_classes():
    with pytest.raises(UserError, match=r"data\.classes 'imagenette' does nothing for .* 'digits'"):
        open_source(DataRecipe(classes="imagenette"))


def test_a_class_without_test_images_is_refused(tmp_path):
    """As folders and shards do: a class of one image has none for a test split."""
    content = arrays(11, classes=3) | {"labels": np.array([0] * 5 + [1] * 5 + [2])}
    with pytest.raises(UserError, match=r"set\.npz: no test image of class '2' is left; add some"):
        open_npz(tmp_path, content)
    (tmp_path / "classes.txt").write_text("0\n1\n")
    source = open_npz(tmp_path, content, classes=str(tmp_path / "classes.txt"))
    assert set(source.test.labels) == {0, 1}


@pytest.mark.parametrize(("split", "what"), [("train", "training"), ("test", "test")])
def test_a_split_without_a_class_is_refused(tmp_path, split, what):
    both = {f"{name}_{key}": v for name in ("train", "test") for key, v in arrays().items()}
    both |= {"class_names": np.array(["a", "b"]), f"{split}_labels": np.zeros(10, int)}
    with pytest.raises(UserError, match=f"no {what} image of class 'b' is left"):
        open_npz(tmp_path, both)
