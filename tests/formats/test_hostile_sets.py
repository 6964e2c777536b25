"""Distilled sets that are damaged or forged: a sentence each, and nothing runs."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forged_npz import FORGED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tfds_sets import examples, features, prepare
from torch_pickles import dictionary, storage, tensor, write_pth

import delt_jax
from delt_jax import export
from delt_jax.errors import UserError
from delt_jax.store import foreign

PIXELS = np.zeros((2, 4, 4, 3), np.uint8)


def refuse(path: Path, says: str = "") -> str:
    with pytest.raises(UserError, match=says) as e:
        delt_jax.load(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 700
    return str(e.value)


# --- npz and pt ---


@pytest.mark.parametrize("kind", FORGED)
def test_forged_npz(tmp_path, kind):
    FORGED[kind](tmp_path / "x.npz")
    refuse(tmp_path / "x.npz", r"x\.npz cannot be read \(.*damaged or no \.npz of plain arrays")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"labels": np.array([0, 2**32 + 1])}, "has the label 4294967297, but 2 images"),
        ({"labels": np.array([0, 2**63 + 1], np.uint64)}, "has the label 9223372036854775809"),
        ({"labels": np.array([0, 10**9])}, "has the label 1000000000, but 2 images"),
        ({"labels": [False, True]}, "type bool"),
        ({"labels": [0.5, 1]}, "type float64"),
        ({"labels": ["0", "1"]}, "type <U1"),
        ({"images": np.zeros((2, 8, 0, 3), np.uint8)}, "which is no set"),
        ({"images": PIXELS.astype(bool)}, "pixels in .* are bool"),
        ({"images": PIXELS.astype(np.complex64)}, "type complex64|pixels in .* are complex64"),
        ({"images": np.zeros((2, 4), np.uint8)}, "have the shape"),
        ({"class_names": [1, 2]}, "class_names in .* no list of texts"),
        ({"class_names": ["a", ""]}, "no list of texts"),
        ({"class_names": [["a"], ["b"]]}, "no list of texts"),
        ({"manifest": "[]"}, "the manifest is a list"),
        ({"manifest": '"x"'}, "the manifest is a str"),
        ({"manifest": "[" * 100_000}, "nested more than 64 deep"),
        ({"manifest": '{"a":' * 100_000}, "nested more than 64 deep"),
        ({"soft_labels": [[0, np.nan], [1, 0]]}, "not finite for image 0"),
        ({"soft_labels": [[0, 1], [np.inf, 0]]}, "not finite for image 1"),
        ({"soft_labels": [[0, 1], [1e300, 0]]}, "not finite for image 1"),
        ({"soft_labels": [["a", "b"], ["c", "d"]]}, "must be numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_npz_with_odd_entries(tmp_path, changed, says):
    sound = {"images": PIXELS, "labels": [0, 1]}
    np.savez(tmp_path / "x.npz", **(sound | changed))
    refuse(tmp_path / "x.npz", says)
    # Nor does export write any of it.
    with pytest.raises(UserError, match=says):
        export.run(export.ExportOptions(tmp_path / "x.npz", "folder", tmp_path / "out"))
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"class_names": b"]I1\na"}, "no list of texts"),
        ({"class_names": b"I1\n"}, "no list of texts"),
        ({"manifest": b"I1\n"}, "the manifest is a int"),
        ({"manifest": b"V[]\n"}, "the manifest is a list"),
        ({"soft_labels": b"Vx\n"}, "soft_labels that are no tensor"),
        ({"x": b"cos\nsystem\n"}, "refers to os.system"),
        ({"x": b"cmodels\nNet\n)R"}, "refers to models.Net"),
    ],
)
def test_pt_with_odd_entries(tmp_path, more, says):
    images = tensor(storage("ByteStorage", count=6), (2, 1, 1, 3), (3, 3, 3, 1))
    labels = tensor(storage("ByteStorage", count=6), (2,), (1,))
    content = dictionary(images=images, labels=labels, **more)
    path = write_pth(tmp_path / "x.pt", content, np.arange(6, dtype=np.uint8))
    refuse(path, says)


# --- parquet ---


def encoded(level: int, size=4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(labels, images=None, metadata=None, **columns) -> pa.Table:
    images = [encoded(i) for i in range(len(labels))] if images is None else images
    rows = [None if i is None else {"bytes": i, "path": None} for i in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    made = pa.table({"image": pa.array(rows, kind), "label": labels, **columns})
    return made.replace_schema_metadata(metadata)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: table(pa.array([0.5, 1.7])), "label is double"),
        (lambda: table(pa.array(["0", "1"])), "label is string"),
        (lambda: table(pa.array([True, False])), "label is bool"),
        (lambda: table(pa.array([0, None])), "row 1 has the label None"),
        (lambda: table(pa.array([0, -1])), "row 1 has the label -1"),
        (lambda: table(pa.array([0, 2**32 + 1])), "row 1 has the label 4294967297"),
        (lambda: table(pa.array([2**63, 0], pa.uint64())), "row 0 has the label 9223372036"),
        (lambda: table(pa.array([0, 10**9])), "has the label 1000000000"),
        (lambda: table([0, 1], [encoded(0), None]), "row 1 is no picture"),
        (lambda: table([0, 1], [encoded(0), b"no"]), "row 1 is no picture"),
        (lambda: table([0, 1], [encoded(0), encoded(1, 5)]), "row 1 is 5x5 px"),
        (lambda: pa.table({"image": [1, 2], "label": [0, 1]}), "image is int64"),
        (lambda: pa.table({"image": ["a", "b"], "label": [0, 1]}), "image is string"),
        (lambda: pa.table({"image": [{"bytes": "a"}], "label": [0]}), "not in the Hub's layout"),
        (lambda: table([0, 1], soft_label=[1.0, 2.0]), "soft_label column of double"),
        (lambda: table([0, 1], soft_label=[["a"], ["b"]]), "soft_label column of list"),
        (lambda: table([0, 1], soft_label=[[1.0, 2.0], [1.0]]), "row 1 has 1 soft labels"),
        (lambda: table([0, 1], soft_label=[[1.0, 2.0], None]), "row 1 has 0 soft labels"),
        (lambda: table([0, 1], soft_label=[[1.0, None], [1.0, 2.0]]), "row 0 has 0 soft labels"),
        (lambda: table([0, 1], soft_label=[[1.0, np.nan], [1.0, 2.0]]), "not finite for image 0"),
        (lambda: table([0, 1], metadata={"huggingface": "no"}), "is not JSON"),
        (lambda: table([0, 1], metadata={"huggingface": "[]"}), "do not describe features"),
        (lambda: table([0, 1], metadata={"huggingface": '{"info": 3}'}), "do not describe"),
        (lambda: table([0, 1], metadata={"huggingface": b"\xff\xfe"}), "is not JSON"),
        (lambda: table([0, 1], metadata={"huggingface": "[" * 10**5}), "nested more than 64"),
        (lambda: table([0, 1], metadata={"delt_jax": "[1]"}), "manifest is a list"),
        (lambda: table([0, 1], metadata={"huggingface": json.dumps(
            {"info": {"features": {"label": {"names": {"a": 1}}}}})}), "no list of texts"),
        (lambda: table([0, 1], metadata={"huggingface": json.dumps(
            {"info": {"features": {"label": {"names": [1, 2]}}}})}), "no list of texts"),
    ],
)  # fmt: skip
def test_parquet_that_does_not_fit(tmp_path, made, says):
    pq.write_table(made(), tmp_path / "x.parquet")
    refuse(tmp_path / "x.parquet", says)


def write_shards(folder: Path, *tables: pa.Table) -> Path:
    (folder / "data").mkdir()
    for i, shard in enumerate(tables):
        pq.write_table(shard, folder / f"data/train-{i:05}-of-{len(tables):05}.parquet")
    return folder


def test_a_damaged_row_names_its_own_shard_and_row(tmp_path):
    good = table([0, 1, 0])
    bad = table([1, 0], [encoded(0), b"no"])
    said = refuse(write_shards(tmp_path, good, bad), "row 1 is no picture")
    assert "train-00001-of-00002.parquet, row 1" in said


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint64(), pa.uint8()])
def test_shards_of_other_whole_numbers_fit_together(tmp_path, kind):
    folder = write_shards(tmp_path, table([0, 1]), table(pa.array([0, 1], kind)))
    content = delt_jax.load(folder)
    assert content.labels.tolist() == [0, 0, 1, 1]
    assert content.images[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


def test_shards_that_disagree(tmp_path):
    soft = table([0, 1], soft_label=[[0.0, 1.0], [1.0, 0.0]])
    folder = write_shards(tmp_path, soft, table([0, 1]))
    refuse(folder, "only one has the column soft_label")
    wider = table([0, 1], soft_label=[[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]])
    pq.write_table(wider, folder / "data/train-00001-of-00002.parquet")
    refuse(folder, "train-00001-of-00002.parquet has another number of soft labels a row")
    pq.write_table(pa.table({"image": [1]}), folder / "data/train-00001-of-00002.parquet")
    refuse(folder, "train-00001-of-00002.parquet has the columns image but no label")


def test_a_parquet_file_that_claims_much(tmp_path):
    count = 17_000_000
    zeros = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int8)), pa.array([b"x"], pa.binary())
    ).cast(pa.binary())
    images = pa.StructArray.from_arrays([zeros], ["bytes"])
    labels = pa.array(np.zeros(count, np.int8))
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    refuse(tmp_path / "x.parquet", "claims [0-9]+ bytes from")


def test_one_picture_for_many_rows_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "available_bytes", lambda: 100_000)
    picture = encoded(0, 100)  # 30,000 bytes of pixels
    pq.write_table(table([0] * 9, [picture] * 9), tmp_path / "x.parquet")
    refuse(tmp_path / "x.parquet", "its images as pixels claims 270000 bytes")


@settings(max_examples=100, deadline=None)
@given(cut=st.floats(0.5, 1), flips=st.lists(
    st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4))  # fmt: skip
def test_damaged_parquet_ends_in_a_sentence(tmp_path_factory, cut, flips):
    path = tmp_path_factory.mktemp("damaged") / "x.parquet"
    pq.write_table(table([0, 1]), path)
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(cut * len(content))])
    with contextlib.suppress(UserError):  # anything else fails the test
        delt_jax.load(path)


def test_a_flipped_label_of_our_own_file_is_noticed(tmp_path):
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=[0, 1])
    export.run(export.ExportOptions(tmp_path / "x.npz", "parquet", tmp_path / "out"))
    path = tmp_path / "out/data/train-00000-of-00001.parquet"
    content = path.read_bytes()
    place = content.rindex(b"\1" + bytes(7), 0, content.rindex(b"label"))  # the second label
    for at in range(place - 8, place + 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 2]) + content[at + 1 :])
        with contextlib.suppress(UserError):
            assert delt_jax.load(path).labels.tolist() == [0, 1]


# --- TFDS ---


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "tiny", features(), {"train": examples(range(3))})
    return folder / "tiny/1.0.0"


CLASS = "tensorflow_datasets.core.features.image_feature.Image"
EVIL = {"pythonClassName": "runs.evil.Feature", "image": {}}
LEGACY = {"type": "runs.evil.Feature", "content": {}}
DICTIONARY = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


@pytest.mark.parametrize(
    "change",
    [
        EVIL,
        LEGACY,
        {"python_class_name": "runs.evil.Feature"},
        {"pythonClassName": "os.Feature"},
        {"pythonClassName": CLASS + "s"},
        {"featuresDict": {"features": {"image": EVIL}}},
        {"featuresDict": {"features": {"x": {"sequence": {"feature": EVIL}}}}},
        {"jsonFeature": {"json": json.dumps({"x": LEGACY})}},
        {"type": DICTIONARY, "content": json.dumps({"x": EVIL})},
        {"type": DICTIONARY, "content": {"x": LEGACY}},
        {"type": CLASS, "content": {}, "proto_cls": "evil.Proto"},
    ],
)
def test_nothing_that_data_name_is_imported(prepared, tmp_path, monkeypatch, change):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/__init__.py").write_text("open('ran', 'w')")
    (tmp_path / "runs/evil.py").write_text("class Feature: pass")
    folder = copied(prepared, tmp_path)
    about = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(about | change))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    refuse(folder, r"features\.json is refused: it names the (class|type)")
    assert not (tmp_path / "ran").exists()
    assert "runs" not in sys.modules


def copied(prepared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in prepared.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("features.json", "no", "is not JSON"),
        ("features.json", "[]", "holds no dictionary"),
        ("features.json", "[" * 10**5, "nested more than 64"),
        ("features.json", '{"classLabel": {"numClasses": "1000000000"}}', "numClasses is 10000"),
        ("features.json", '{"image": {"shape": {"dimensions": ["1e9"]}}}', "dimensions is 1e9"),
        ("dataset_info.json", '{"splits": [{"shardLengths": ["1000000000000"]}]}', "claims 10000"),
        ("dataset_info.json", '{"splits": [{"shardLengths": ["x"]}]}', "whole number"),
        ("dataset_info.json", '{"splits": {"train": 1}}', "no list of dictionaries"),
        ("dataset_info.json", '{"a":' * 10**5, "nested more than 64"),
        ("dataset_info.json", "{}", "is not a readable TFDS directory"),
        ("metadata.json", "[" * 10**5, "nested more than 64"),
    ],
)
def test_forged_metadata_of_tfds(prepared, tmp_path, name, content, says):
    folder = copied(prepared, tmp_path)
    (folder / name).write_text(content)
    refuse(folder, says)


# --- sidecars ---


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": "ab"},
        {"class_names": [1, 2]},
        {"class_names": {"a": 1, "b": 2}},
        {"class_names": None},
        {"manifest": []},
        {"manifest": None},
        {"format": 3},
        {"format": []},
    ],
)
def test_odd_sidecars(tmp_path, change):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}/0.png").write_bytes(encoded(3))
    about = {"format": "delt_jax export, version 1", "class_names": ["a", "b"], "manifest": {}}
    (tmp_path / "delt_jax.json").write_text(json.dumps(about))
    assert delt_jax.load(tmp_path).class_names == ("a", "b")
    (tmp_path / "delt_jax.json").write_text(json.dumps(about | change))
    refuse(tmp_path, r"delt_jax\.json is damaged \(.*; export again")


@pytest.mark.parametrize("content", ["[" * 10**5, "\xff", "{" * 10, '{"a":' * 10**5])
def test_sidecars_that_are_no_json(tmp_path, content):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").write_bytes(encoded(3))
    (tmp_path / "delt_jax.json").write_bytes(content.encode("latin-1"))
    refuse(tmp_path, "is damaged")


def test_a_pipe_among_the_pictures_is_not_waited_for(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a/0.png")
    refuse(tmp_path, "a named pipe, not a file")


def test_soft_labels_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").write_bytes(encoded(3))
    np.savez(tmp_path / "soft_labels.npz", x=np.zeros((1, 1)))
    refuse(tmp_path, "has no array logits")
    np.savez(tmp_path / "soft_labels.npz", logits=np.full((1, 1), np.nan))
    refuse(tmp_path, "not finite")


# --- class names ---


def names(tmp_path: Path, content: bytes | None) -> tuple[str, ...]:
    """Class names of an export with this file of names."""
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=[0, 1])
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    options = export.ExportOptions(
        tmp_path / "x.npz", "npz", tmp_path / "out.npz", class_names=tmp_path / "names"
    )
    try:
        export.run(options)
    except UserError as e:
        assert not (tmp_path / "out.npz").exists()
        assert "\n" not in str(e)  # noqa: PT017
        raise
    return delt_jax.load(tmp_path / "out.npz").class_names


@pytest.mark.parametrize("content", ["\ufeffant\nbee\n", "ant\r\nbee\r\n", " ant \nbee"])
def test_a_file_of_names_as_editors_write_it(tmp_path, content):
    assert names(tmp_path, content.encode()) == ("ant", "bee")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"ant\nant\n", "has the class name 'ant' 2 times"),
        (b"ant\n", "has the label 1, but 2 images and 1 class names"),
        (b"ant\nbee\ncat\n", r"0 of class 2 \(cat\)"),
        ("ä\nb\n".encode("latin-1"), "no text in UTF-8"),
        ("ant\nbee\n".encode("utf-16"), "no text in UTF-8"),
        (b"ant\0\nbee", r"holds the character U\+0000"),
        (b"\n", "is empty or has an empty line"),
        (b"", "is empty or has an empty line"),
    ],
)
def test_files_of_names_that_do_not_fit(tmp_path, content, says):
    with pytest.raises(UserError, match=says):
        names(tmp_path, content)


@pytest.mark.parametrize("kind", ["folder", "pipe", "large"])
def test_files_of_names_that_are_none(tmp_path, kind):
    if kind == "folder":
        (tmp_path / "names").mkdir()
    elif kind == "pipe":
        os.mkfifo(tmp_path / "names")
    else:
        with open(tmp_path / "names", "wb") as f:
            f.truncate(2**30)
    with pytest.raises(UserError, match=r"--class_names=.* cannot be read"):
        names(tmp_path, None)
