"""Float sets of others: labels that came with them, constants, names, and shards."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import delt_jax
from delt_jax.errors import UserError
from delt_jax.formats import torch_zip

SPACE = {"mean": (0.5,), "std": (0.2,)}


def floats(path, **more):
    """A set of others, four images of two classes."""
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    np.savez(path, images=images, labels=[0, 0, 1, 1], **more)
    return path


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros(4, np.float32), r"have the shape \(4,\), but there are 4 images"),
        (np.zeros((6, 2), np.float32), r"have the shape \(6, 2\), but there are 4 images"),
        (np.zeros((2, 2), np.float32), r"have the shape \(2, 2\), but there are 4 images"),
        (np.zeros((4, 2, 1), np.float32), r"have the shape \(4, 2, 1\)"),
        (np.array([["a", "b"]] * 4), "are <U1; they must be numbers"),
        (np.full((4, 2), np.nan), "not finite"),
        (np.zeros((4, 3)), "are of 3 classes instead of 2"),
    ],
)
def test_learned_labels_that_do_not_fit_are_one_sentence(tmp_path, labels, says):
    path = floats(tmp_path / "set.npz", learned_labels=labels)
    with pytest.raises(UserError, match=says) as e:
        delt_jax.load(path, **SPACE)
    assert "\n" not in str(e.value)


def test_learned_labels_of_torch_are_checked_alike(tmp_path):
    values = {
        "images": np.zeros((4, 3, 2, 2), np.float32),
        "labels": np.array([0, 0, 1, 1]),
        "learned_labels": np.zeros((6, 2), np.float32),
    }
    (tmp_path / "set.pt").write_bytes(torch_zip.dumps(values))
    with pytest.raises(UserError, match=r"have the shape \(6, 2\), but there are 4 images"):
        delt_jax.load(tmp_path / "set.pt", **SPACE)


def test_learned_labels_of_whole_numbers_are_taken(tmp_path):
    rows = np.array([[3, 0], [2, 1], [0, 3], [1, 2]])
    found = delt_jax.load(floats(tmp_path / "set.npz", learned_labels=rows), **SPACE)
    assert found.learned_labels.dtype == np.float32
    np.testing.assert_array_equal(found.learned_labels, rows)


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_constants_that_are_not_finite_are_refused_at_once(tmp_path, name, value):
    path = floats(tmp_path / "set.npz")
    for given in (SPACE | {name: (value,)}, SPACE | {name: (0.5, value, 0.5)}):
        with pytest.raises(UserError, match=r"give the mean and std \(finite"):
            delt_jax.load(path, **given)
        with pytest.raises(UserError, match=r"give the mean and std \(finite"):
            delt_jax.export_set(path, "npz", tmp_path / "out.npz", **given)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_std_that_is_not_positive_is_refused(tmp_path, value):
    with pytest.raises(UserError, match=r"std above 0"):
        delt_jax.load(floats(tmp_path / "set.npz"), mean=(0.5,), std=(0.5, value, 0.5))


_ONE = "data/train-00000-of-00001.parquet"


def sharded(tmp_path):
    """A float set as one parquet file, and the folder and table of two files to be made of it."""
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    path = floats(tmp_path / "set.npz", learned_labels=rows, soft_labels=-rows)
    whole = delt_jax.export_set(path, "parquet", tmp_path / "whole", **SPACE)
    (tmp_path / "two").mkdir()
    return whole, tmp_path / "two", pq.read_table(whole / _ONE)


def test_all_files_of_a_float_set_are_read(tmp_path):
    whole, two, table = sharded(tmp_path)
    pq.write_table(table.take([0, 2, 3]), two / "train-00000-of-00002.parquet")
    pq.write_table(table.take([1]), two / "train-00001-of-00002.parquet")
    one, found = delt_jax.load(whole), delt_jax.load(two)
    for name in ("images", "labels", "learned_labels", "soft_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))
    assert found.manifest == one.manifest
    assert found.preprocessing.as_dict() == one.preprocessing.as_dict()


def _other_record(table):
    return table.replace_schema_metadata(table.schema.metadata | {b"delt_jax": b'{"a": 1}'})


def _without_soft_labels(table):
    return table.drop_columns(["soft_label"])


def _other_names(table):
    about = table.schema.metadata[b"huggingface"].replace(b'"1"', b'"b"')
    return table.replace_schema_metadata(table.schema.metadata | {b"huggingface": about})


def _pictures(table):
    return pa.table({"image": [{"bytes": b"x"}], "label": [0]})


@pytest.mark.parametrize("change", [_without_soft_labels, _other_names, _pictures])
def test_files_of_several_float_sets_are_refused(tmp_path, change):
    _, two, table = sharded(tmp_path)
    pq.write_table(table.take([0, 2]), two / "a.parquet")
    pq.write_table(change(table.take([1, 3])), two / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet is not of the set of float images in .*a\.pa"):
        delt_jax.load(two)


def test_a_damaged_later_file_of_a_float_set_is_named(tmp_path):
    _, two, table = sharded(tmp_path)
    pq.write_table(table.take([0, 2]), two / "a.parquet")
    pq.write_table(_other_record(table.take([1, 3])), two / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet cannot be read"):
        delt_jax.load(two)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a", "a"), "class_names has the class name 'a' 2 times"),
        ("ab", "class_names is 'ab'; give a list of texts"),
        ((0, 1), r"class_names is \(0, 1\); give a list of texts"),
        (("a", ""), "name of class 1 in class_names, '', is empty"),
        (("a", "b\n"), "holds the character U"),
    ],
)
def test_names_that_are_given_are_checked(tmp_path, names, says):
    path = floats(tmp_path / "set.npz")
    with pytest.raises(UserError, match=says) as e:
        delt_jax.load(path, class_names=names, **SPACE)
    assert "\n" not in str(e.value)
    if not isinstance(names, str):  # which is the path of a file here
        with pytest.raises(UserError, match=says):
            delt_jax.export_set(path, "npz", tmp_path / "out.npz", class_names=names, **SPACE)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_names_may_be_any_sequence(tmp_path, kind):
    found = delt_jax.load(floats(tmp_path / "set.npz"), class_names=kind(["b", "a"]), **SPACE)
    assert found.class_names == ("b", "a")
