"""Parquet files with pictures in them, as the Hugging Face Hub has data sets."""

import json
import os

import chex
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delt_jax.data import open_source, read
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import pictures

NAMES = ("cat", "cow", "dog")


def images_of(count, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8), np.arange(count) % len(NAMES)


def write(path, images, labels, column="label", features=True, rows=4):
    """A file as `datasets` writes it, in small row groups."""
    cells = [
        {"bytes": pictures.encode(image), "path": f"{i}.png"} for i, image in enumerate(images)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), column: pa.array(labels, pa.int64())})
    if features:
        described = {
            "image": {"_type": "Image"},
            column: {"_type": "ClassLabel", "names": list(NAMES)},
        }
        stored = json.dumps({"info": {"features": described}})
        table = table.replace_schema_metadata({"huggingface": stored})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)


def opened(path, **more):
    return open_source(DataRecipe(name="parquet", path=str(path), **more))


@pytest.fixture
def folder(tmp_path):
    """Two shards of a training split, and a test split."""
    images, labels = images_of(21)
    write(tmp_path / "set/data/train-00000-of-00002.parquet", images[:12], labels[:12])
    write(tmp_path / "set/data/train-00001-of-00002.parquet", images[12:], labels[12:])
    write(tmp_path / "set/data/test-00000-of-00001.parquet", *images_of(6, 1))
    return tmp_path / "set"


def test_rows_of_all_shards_are_read_in_any_order(folder):
    source = opened(folder)
    images, labels = images_of(21)
    assert (source.name, source.class_names, source.channels) == ("set", NAMES, 3)
    assert source.image_size == 6
    chex.assert_trees_all_equal(source.train.labels, labels.astype(np.int32))
    order = np.random.default_rng(0).permutation(21)
    chex.assert_trees_all_equal(read(source.train, order), images[order])
    chex.assert_trees_all_equal(read(source.test, np.arange(6)), images_of(6, 1)[0])


def test_without_a_test_split_a_share_of_each_class_is_drawn(tmp_path):
    write(tmp_path / "all.parquet", *images_of(30))
    for path in (tmp_path, tmp_path / "all.parquet"):
        source = opened(path, test_share=0.2)
        assert np.bincount(source.test.labels).tolist() == [2, 2, 2]
        assert np.bincount(source.train.labels).tolist() == [8, 8, 8]


def test_hidden_test_labels_count_as_none(tmp_path, folder):
    images, labels = images_of(6, 1)
    write(folder / "data/test-00000-of-00001.parquet", images, np.full(len(labels), -1))
    source = opened(folder, test_share=0.3)
    assert len(source.train) + len(source.test) == 21


def test_one_file_is_read_without_its_neighbours(tmp_path):
    write(tmp_path / "some.parquet", *images_of(12))
    write(tmp_path / "others.parquet", *images_of(30))
    source = opened(tmp_path / "some.parquet")
    assert len(source.train) + len(source.test) == 12


def test_rows_without_a_class_are_said(tmp_path):
    images, labels = images_of(13)
    labels[12] = -1
    write(tmp_path / "train.parquet", images, labels)
    source = opened(tmp_path)
    assert len(source.train) + len(source.test) == 12
    assert any("1 samples of" in note and "have no class" in note for note in source.notes)


@pytest.mark.parametrize("label", [2**31, -2])
def test_labels_that_are_no_classes_are_refused(tmp_path, label):
    images, labels = images_of(12)
    labels[3] = label
    write(tmp_path / "train.parquet", images, labels)
    with pytest.raises(UserError, match=f"has labels from .*{label}"):
        opened(tmp_path)


def test_several_sets_in_a_folder_are_not_mixed(tmp_path):
    for name in ("plain", "odd/train"):
        write(tmp_path / name / "0000.parquet", *images_of(12))
    with pytest.raises(UserError, match=r"holds the files of 2 sets \(odd, plain\)"):
        opened(tmp_path)
    assert len(opened(tmp_path / "odd").class_names) == 3


def test_damage_is_one_sentence(folder):
    file = folder / "data/train-00000-of-00002.parquet"
    whole, draw = file.read_bytes(), np.random.default_rng(0)
    said: list[str] = []
    for _ in range(60):
        spoilt = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            spoilt[place] ^= int(draw.integers(1, 256))
        file.write_bytes(spoilt)
        try:
            source = opened(folder)
            read(source.train, np.arange(len(source.train)))
        except UserError as e:
            said.append(str(e))
    assert len(said) > 20
    assert not [sentence for sentence in said if "\n" in sentence]


def test_a_file_that_claims_more_than_it_holds_is_not_read(tmp_path):
    labels = pa.array(np.tile([0, 1], 2**24))
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2**25, np.int8)), pa.array([b"x"]))
    table = pa.table({"image": cells, "label": labels})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(UserError, match="it claims"):
        opened(tmp_path)


def test_columns_and_classes_are_chosen(tmp_path):
    images, labels = images_of(12)
    write(tmp_path / "train.parquet", images, labels, column="fine", features=False)
    with pytest.raises(UserError, match=r"columns image, fine, but none called label or .*dataset"):
        opened(tmp_path)
    source = opened(tmp_path, dataset="fine", class_names=NAMES, test_share=0.25)
    assert source.class_names == NAMES
    (tmp_path / "two.txt").write_text("dog\ncat\n")
    source = opened(tmp_path, dataset="fine", class_names=NAMES, classes=str(tmp_path / "two.txt"))
    assert source.class_names == ("dog", "cat")
    dogs = images[labels == 2]
    ours = read(source.train, np.flatnonzero(source.train.labels == 0))
    assert all((dogs == image).all((1, 2, 3)).any() for image in ours)


def test_the_fingerprint_is_that_of_the_content(folder, tmp_path):
    first = opened(folder).fingerprint
    for file in folder.rglob("*.parquet"):
        os.utime(file, (1, 1))
    assert opened(folder).fingerprint == first
    images, labels = images_of(21)
    images[0, 0, 0, 0] ^= 1
    write(folder / "data/train-00000-of-00002.parquet", images[:12], labels[:12])
    assert opened(folder).fingerprint != first


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: [file.unlink() for file in f.rglob("*.parquet")], "holds no parquet files"),
        (lambda f: (f / "data/test-00000-of-00001.parquet").write_bytes(b"no"), "no parquet file"),
        (lambda f: [f.unlink() for f in f.rglob("train*")], "but none of train"),
        (lambda f: write(f / "data/train-00001-of-00002.parquet", *images_of(3), "odd"), "no colu"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as e:
        opened(folder)
    assert "\n" not in str(e.value)


def test_a_path_in_place_of_a_picture_is_told(tmp_path):
    cells = [{"bytes": None, "path": "/etc/passwd"}] * 6
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array([0, 1] * 3)})
    pq.write_table(table, tmp_path / "train.parquet")
    source = opened(tmp_path, image_size=6, channels=3)
    with pytest.raises(UserError, match="has a path in its place, and not the picture"):
        read(source.train, np.arange(2))


def test_a_data_set_of_the_hub(folder, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision, allow_patterns))
        return str(folder if revision else tmp_path / "empty")

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = opened("hf:owner/set")
    assert (source.name, len(source.train)) == ("owner-set", 21)
    assert [revision for _, _, revision, _ in asked] == [None, "refs/convert/parquet"]

    def refuse(*args, **more):
        raise RuntimeError("404 Client Error\nno such set")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        UserError, match=r"hf:owner/set cannot be had .* \(404 Client Error no such"
    ):
        opened("hf:owner/set")
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        opened("hf:set")
