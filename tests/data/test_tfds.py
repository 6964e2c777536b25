"""The TFDS source, on tiny data sets that are prepared here without TensorFlow."""

import io
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import chex
import numpy as np
import pytest
from PIL import Image
from tfds_sets import NAMES, examples, features, pixels_of, prepare, tfds

from delt_jax.data import Source, batches, cache_in_memory, measure_normalisation, open_source
from delt_jax.data import tfds as tfds_source
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder,
        "tiny_animals",
        features(),
        {"train": examples(range(9)), "test": examples(range(9, 14))},
    )
    return folder


def open_tfds(folder: Path, dataset: str = "tiny_animals", **settings) -> Source:
    settings = {"name": "tfds", "path": str(folder), "dataset": dataset} | settings
    return open_source(DataRecipe(**settings))


def check_split(split, numbers, fit=lambda pixels: pixels):
    """Every number once, with its own label and pixels, whatever the order on disk."""
    images = split.images(np.arange(len(split)))
    found = [int(i) for i in images[..., 0].reshape(len(split), -1).max(1)]
    assert sorted(found) == sorted(numbers)
    np.testing.assert_array_equal(split.labels, np.array(found) % 3)
    assert split.labels.dtype == np.int32
    for number, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(image, fit(pixels_of(number)), strict=True)


def test_reads_images_labels_and_names(prepared):
    source = open_tfds(prepared, image_size=8, fit="pad")
    assert source.name == "tiny_animals"
    assert source.class_names == NAMES
    assert (source.image_size, source.channels) == (8, 3)
    assert (len(source.train), len(source.test)) == (9, 5)

    def pad(pixels):
        return np.pad(pixels, ((1, 1), (0, 0), (0, 0)))

    check_split(source.train, range(9), pad)
    check_split(source.test, range(9, 14), pad)
    names = [*source.train.names, *source.test.names]
    assert len(set(names)) == 14


def test_default_size_is_the_features_height(prepared):
    source = open_tfds(prepared)  # 6 x 8 px: the shorter side fits, the centre is kept
    assert source.image_size == 6
    check_split(source.train, range(9), lambda pixels: pixels[:, 1:-1])


def test_images_by_index_follow_the_order_asked_for(prepared):
    train = open_tfds(prepared).train
    everything = train.images(np.arange(9))
    asked = np.array([7, 0, 7, 3])
    np.testing.assert_array_equal(train.images(asked), everything[asked], strict=True)


def test_grey(prepared):
    source = open_tfds(prepared, channels=1)
    images = source.test.images(np.arange(5))
    chex.assert_shape(images, (5, 6, 6, 1))
    assert len(measure_normalisation(DataRecipe(), source).mean) == 1


def test_fingerprint(prepared):
    source = open_tfds(prepared)
    assert open_tfds(prepared).fingerprint == source.fingerprint
    others = [open_tfds(prepared, **s).fingerprint for s in ({"image_size": 5}, {"channels": 1})]
    assert len({source.fingerprint, *others}) == 3


def test_fingerprint_follows_the_labels(prepared, tmp_path):
    swapped = [e | {"label": 2 - e["label"]} for e in examples(range(9))]
    prepare(
        tmp_path, "tiny_animals", features(), {"train": swapped, "test": examples(range(9, 14))}
    )
    # Same name, version, number of examples and number of bytes.
    assert open_tfds(tmp_path).fingerprint != open_tfds(prepared).fingerprint


def test_class_names_can_be_given(prepared):
    assert open_tfds(prepared, class_names=("a", "b", "c")).class_names == ("a", "b", "c")
    with pytest.raises(UserError, match=r"data\.class_names has 2 names, but tiny_animals has 3"):
        open_tfds(prepared, class_names=("a", "b"))


def test_grey_images_of_any_size_and_validation_as_test(tmp_path):
    splits = {
        "train": examples(range(6), (4, 4, 1)) + examples(range(6, 9), (7, 7, 1)),
        "validation": examples(range(3), (4, 5, 1)),
    }
    prepare(tmp_path, "tiny_grey", features((None, None, 1)), splits)
    with pytest.raises(UserError, match=r"no common size \(None, None, 1\); set data\.image_size"):
        open_tfds(tmp_path, "tiny_grey")
    source = open_tfds(tmp_path, "tiny_grey", image_size=4)
    assert source.channels == 1
    chex.assert_shape(source.train.images(np.arange(9)), (9, 4, 4, 1))
    assert all(name.startswith("validation/") for name in source.test.names)
    np.testing.assert_array_equal(np.sort(source.test.labels), [0, 1, 2])


def test_alpha_is_dropped(tmp_path):
    rgba = {"train": examples(range(3), (4, 4, 4)), "test": examples(range(3), (4, 4, 4))}
    prepare(tmp_path, "tiny_rgba", features((4, 4, 4)), rgba)
    source = open_tfds(tmp_path, "tiny_rgba")
    assert source.channels == 3
    image = source.train.images(np.array([0]))[0]
    np.testing.assert_array_equal(image, pixels_of(int(image[0, 0, 0]), (4, 4, 4))[..., :3])


def test_the_test_split_comes_before_the_validation_split(tmp_path):
    splits = {"train": range(6), "validation": range(6, 9), "test": range(9, 13)}
    prepare(tmp_path, "tiny_three", features(), {k: examples(v) for k, v in splits.items()})
    source = open_tfds(tmp_path, "tiny_three")
    check_split(source.test, range(9, 13), lambda pixels: pixels[:, 1:-1])


def test_a_test_split_with_hidden_labels_is_passed_over(tmp_path):
    hidden = [e | {"label": -1} for e in examples(range(4))]
    splits = {"train": examples(range(6)), "validation": examples(range(6, 9)), "test": hidden}
    prepare(tmp_path, "tiny_hidden", features(), splits)
    source = open_tfds(tmp_path, "tiny_hidden")
    check_split(source.test, range(6, 9), lambda pixels: pixels[:, 1:-1])

    prepare(tmp_path, "all_hidden", features(), {"train": examples(range(6)), "test": hidden})
    with pytest.raises(UserError, match=r"labels of all_hidden's test split are hidden"):
        open_tfds(tmp_path, "all_hidden")


def test_neither_tensorflow_nor_the_network_is_needed(prepared):
    script = f"""
        import socket, sys

        calls = []
        socket.socket.connect = lambda *a: calls.append(a)
        from delt_jax.data import open_source
        from delt_jax.recipe import DataRecipe

        source = open_source(
            DataRecipe(name="tfds", dataset="tiny_animals", path={str(prepared)!r})
        )
        print(source.train.images([0, 1]).shape, calls)
        print([name for name in sys.modules if name.split(".")[0] == "tensorflow"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(2, 6, 6, 3) []", "[]"]


def test_a_class_list_chooses_and_orders(prepared, tmp_path):
    listed = tmp_path / "order.txt"
    listed.write_text("cat\nant\n")
    source = open_tfds(prepared, classes=str(listed))
    assert source.class_names == ("cat", "ant")
    assert (len(source.train), len(source.test)) == (6, 3)
    for split in (source.train, source.test):
        numbers = split.images(np.arange(len(split)))[..., 0].reshape(len(split), -1).max(1)
        np.testing.assert_array_equal(numbers % 3, np.array([2, 0])[split.labels])
    assert source.fingerprint != open_tfds(prepared).fingerprint
    assert set(source.train.names) < set(open_tfds(prepared).train.names)
    listed.write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"tiny_animals lacks 1 of the 2 classes .*\(dog\)"):
        open_tfds(prepared, classes=str(listed))


def test_labels_are_read_once(prepared, tmp_path, monkeypatch):
    first = open_tfds(prepared)
    cache_in_memory(first, 0, tmp_path / "cache")
    monkeypatch.setattr("delt_jax.data.tfds.batches", None)
    recipe = DataRecipe(name="tfds", path=str(prepared), dataset="tiny_animals")
    again = open_source(recipe, tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.train.labels, first.train.labels)


def test_an_unreadable_image_stops_or_is_skipped(tmp_path):
    splits = {"train": examples(range(9)), "test": examples(range(9, 15))}
    splits["train"][4]["image"] = io.BytesIO(b"\x89PNG\r\n\x1a\n, then nothing")
    prepare(tmp_path, "tiny_broken", features(), splits)
    source = open_tfds(tmp_path, "tiny_broken")
    with pytest.raises(UserError, match=r"tiny_broken train/0000000\d cannot be read as an image"):
        source.train.images(np.arange(9))
    skipped = open_tfds(tmp_path, "tiny_broken", unreadable="skip")
    check_split(skipped.train, [n for n in range(9) if n != 4], lambda pixels: pixels[:, 1:-1])
    assert skipped.notes[0].startswith("1 unreadable files are left out: tiny_broken train/")


@pytest.mark.exhaustive  # as in test_folder.py
def test_workers_read_the_same(prepared, monkeypatch):
    monkeypatch.setattr("delt_jax.data.stream.SECONDS_WORTH_WORKERS", 0.0)
    order = np.tile(np.arange(9)[::-1], 12)
    helped = open_tfds(prepared, workers=2).train
    images = np.concatenate([pixels for _, pixels in batches(helped, 50, order)])
    np.testing.assert_array_equal(images, open_tfds(prepared, workers=0).train.images(order))


# --- what cannot be opened ---


def test_preparing_needs_tensorflow_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs TensorFlow \(pip install tensorflow-cpu"):
        open_tfds(tmp_path, "cifar10")


def test_unknown_data_set(prepared):
    with pytest.raises(UserError, match=r"TFDS has no data set 'tiny_anmals'") as e:
        open_tfds(prepared, "tiny_anmals")
    assert str(prepared) in str(e.value)
    assert "\n" not in str(e.value)  # tfds itself lists a thousand names
    assert len(str(e.value)) < 500


def test_known_but_not_prepared(tmp_path):
    with pytest.raises(UserError, match="cifar10 is not prepared in") as e:
        open_tfds(tmp_path, "cifar10")
    assert str(tmp_path) in str(e.value)
    assert "tfds build cifar10 --file_format=array_record" in str(e.value)


def test_stored_as_tfrecord(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    info = tmp_path / "copy/tiny_animals/1.0.0/dataset_info.json"
    content = json.loads(info.read_text())
    assert content["fileFormat"] == "array_record"
    info.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="not stored as array_record; prepare it"):
        open_tfds(tmp_path / "copy")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["missing", "cut", "altered"])
def test_damaged_records(prepared, tmp_path, split, kind):
    shutil.copytree(prepared, tmp_path / "copy")
    (shard,) = (tmp_path / "copy/tiny_animals/1.0.0").glob(f"*-{split}.array_record*")
    content = bytearray(shard.read_bytes())
    if kind == "missing":
        shard.unlink()
    elif kind == "cut":
        shard.write_bytes(content[:-100])
    else:
        middle = len(content) // 2
        content[middle : middle + 8] = bytes(b ^ 0xFF for b in content[middle : middle + 8])
        shard.write_bytes(content)
    with pytest.raises(UserError, match=f"The {split} split in .* is missing or damaged"):
        open_tfds(tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "change", "splits"),
    [
        ("no_test_split", {}, ("train",)),
        ("no_image", {"image": None}, ("train", "test")),
        ("no_label", {"label": None}, ("train", "test")),
        ("label_is_a_number", {"label": np.int64}, ("train", "test")),
    ],
)
def test_unsuitable_features(tmp_path, name, change, splits):
    wanted = {k: v for k, v in (features() | change).items() if v is not None}
    made = [{k: e[k] for k in wanted} for e in examples(range(3))]
    prepare(tmp_path, name, wanted, {s: examples_again(made) for s in splits})
    with pytest.raises(UserError, match=f"{name} needs a test or validation split and") as e:
        open_tfds(tmp_path, name)
    assert str(sorted(splits)) in str(e.value)
    for feature in wanted:
        assert f"{feature} (" in str(e.value)


def examples_again(made: list[dict]) -> list[dict]:
    """The examples with file objects of their own, because preparing a split uses them up."""
    return [
        {k: io.BytesIO(v.getvalue()) if isinstance(v, io.BytesIO) else v for k, v in e.items()}
        for e in made
    ]


def test_16_bit_images_are_refused(tmp_path):
    wanted = features() | {"image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)}
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(buffer, "PNG")
    made = [{"image": buffer, "label": 0}]
    splits = {s: examples_again(made) for s in ("train", "test")}
    prepare(tmp_path, "deep", wanted, splits)
    with pytest.raises(UserError, match=r"image \(8 bits\)"):
        open_tfds(tmp_path, "deep")


@pytest.mark.parametrize("label", [3, 99, -2, 2**32 + 1, 2**40])
def test_labels_without_a_class(tmp_path, monkeypatch, label):
    splits = {"train": examples(range(9)), "test": examples(range(9, 14))}
    prepare(tmp_path, "tiny_odd", features(), splits)
    read = tfds_source.Records.records

    def with_odd_label(records, indices):
        found = read(records, indices)
        return [e | {"label": np.int64(label)} if e["label"] == 2 else e for e in found]

    # TFDS itself writes only labels that have a class.
    monkeypatch.setattr(tfds_source.Records, "records", with_odd_label)
    with pytest.raises(UserError, match=r"has the label -?[0-9]+ at record [0-9], but 3 classes"):
        open_tfds(tmp_path, "tiny_odd")


# --- metadata that would run code ---


@pytest.mark.parametrize(
    "name",
    [
        "huggingface:mnist",
        "kaggle:my_set",
        "my_namespace:tiny_animals",
        "tiny_animals/..",
        "../tiny_animals",
        "tiny_animals/a=1",
        "runs.theirs",
        "./script.py",
        "tiny animals",
        "tiny_animals:1",
        "a" * 3 + "\n",
    ],
)
def test_names_that_tfds_would_look_up_elsewhere(prepared, name):
    with pytest.raises(UserError, match="is no name of a data set; write name"):
        open_tfds(prepared, name)


@pytest.mark.parametrize("name", ["tiny_animals", "TinyAnimals", "tiny_animals:1.0.0"])
def test_names_of_prepared_sets(prepared, name):
    assert len(open_tfds(prepared, name).train) == 9


@pytest.mark.parametrize("feature", ["runs.evil.Feature", "os.path", "tensorflow_datasets.evil.X"])
@pytest.mark.parametrize("place", ["1.0.0", "config/1.0.0"])
def test_no_class_that_metadata_name_is_imported(prepared, tmp_path, monkeypatch, feature, place):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/evil.py").write_text("open('ran', 'w')\nclass Feature: pass")
    shutil.copytree(
        prepared / "tiny_animals/1.0.0", tmp_path / f"data/tiny_animals/{place}", dirs_exist_ok=True
    )
    path = tmp_path / f"data/tiny_animals/{place}/features.json"
    about = json.loads(path.read_text())
    about["featuresDict"]["features"]["image"]["pythonClassName"] = feature
    path.write_text(json.dumps(about))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"features\.json is refused: it names the class") as e:
        open_tfds(tmp_path / "data")
    assert feature in str(e.value)
    assert not (tmp_path / "ran").exists()
    assert "runs" not in sys.modules


@pytest.mark.parametrize("default", ["../../elsewhere", "..", "a/b", 3, ["a"], ""])
def test_a_default_configuration_leads_nowhere_else(prepared, tmp_path, default):
    shutil.copytree(prepared, tmp_path / "data")
    common = tmp_path / "data/tiny_animals/.config/metadata.json"
    common.parent.mkdir()
    common.write_text(json.dumps({"default_config_name": default}))
    with pytest.raises(UserError, match=r"metadata\.json is refused: its default configuration"):
        open_tfds(tmp_path / "data")


def test_a_script_beside_the_data_does_not_run(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "data")
    for name in ("tiny_animals.py", "tiny_animals/tiny_animals.py", "tiny_animals/builder.py"):
        (tmp_path / "data" / name).write_text("raise SystemExit('ran')")
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.syspath_prepend(tmp_path / "data")
    assert len(open_tfds(tmp_path / "data").train) == 9


def test_examples_that_no_file_could_hold(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    path = tmp_path / "data/tiny_animals/1.0.0/dataset_info.json"
    about = json.loads(path.read_text())
    about["splits"][0]["shardLengths"] = [str(10**12)]
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match="claims 1000000000000 examples"):
        open_tfds(tmp_path / "data")
