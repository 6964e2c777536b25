"""From what a layout holds to a set: order, pixels, names and balance, each by hand."""

from pathlib import Path

import numpy as np
import pytest

from delt_jax import formats
from delt_jax.errors import UserError
from delt_jax.formats import distilled, own
from delt_jax.formats.distilled import DistilledSet
from delt_jax.formats.stored import (
    SIDECAR,
    Stored,
    channels_last,
    read_sidecar,
    to_set,
    write_sidecar,
)
from delt_jax.models import torch_files
from delt_jax.store import files


def images(*numbers, side=2, channels=1, dtype=np.uint8):
    """Flat images of these levels."""
    flat = np.array(numbers, dtype)[:, None, None, None]
    return np.broadcast_to(flat, (len(numbers), side, side, channels)).copy()


def levels(content):
    return content.images[:, 0, 0, 0].tolist()


def a_set(ipc=3, classes=2, soft=True, **manifest):
    count = ipc * classes
    return DistilledSet(
        images(*range(count)),
        np.repeat(np.arange(classes, dtype=np.int32), ipc),
        tuple("abcdefgh"[:classes]),
        manifest,
        np.arange(count * classes, dtype=np.float32).reshape(count, classes) if soft else None,
    )


# --- axes ---


@pytest.mark.parametrize(
    ("shape", "first", "expected"),
    [
        ((5, 4, 6), False, (5, 4, 6, 1)),
        ((5, 4, 6), True, (5, 4, 6, 1)),
        ((5, 4, 6, 3), False, (5, 4, 6, 3)),
        ((5, 4, 6, 1), True, (5, 4, 6, 1)),
        ((5, 3, 4, 6), False, (5, 4, 6, 3)),
        ((5, 1, 4, 6), True, (5, 4, 6, 1)),
        ((5, 3, 4, 1), False, (5, 3, 4, 1)),  # both ends could be channels
        ((5, 3, 4, 1), True, (5, 4, 1, 3)),
        ((5, 1, 4, 3), False, (5, 1, 4, 3)),
        ((5, 1, 4, 3), True, (5, 4, 3, 1)),
    ],
)
def test_channels_come_last(shape, first, expected):
    values = np.arange(np.prod(shape)).reshape(shape)
    made = channels_last(values, first, "x")
    assert made.shape == expected
    if len(shape) == 3 or made.shape == shape:
        np.testing.assert_array_equal(made.reshape(shape), values)
    else:
        np.testing.assert_array_equal(made[1, 2, 0, 0], values[1, 0, 2, 0])


@pytest.mark.parametrize("shape", [(5, 2, 4, 6), (5, 4), (5, 4, 4, 3, 1), (5, 4, 4, 4)])
def test_images_without_channels_are_told(shape):
    with pytest.raises(UserError, match="images, height, width and 1 or 3 channels"):
        channels_last(np.zeros(shape), False, "x")


# --- a set ---


def test_images_are_sorted_by_class_and_keep_their_order():
    stored = Stored(
        images(9, 8, 7, 6), np.array([1, 0, 1, 0]), soft_labels=np.arange(8).reshape(4, 2)
    )
    made = to_set(stored, "x")
    assert levels(made) == [8, 6, 9, 7]
    assert made.labels.tolist() == [0, 0, 1, 1]
    assert made.soft_labels.tolist() == [[2, 3], [6, 7], [0, 1], [4, 5]]
    assert made.class_names == ("0", "1")
    assert (made.images.dtype, made.labels.dtype) == (np.uint8, np.int32)
    assert made.soft_labels.dtype == np.float32
    assert made.images.flags.c_contiguous
    assert made.ipc == 2


def test_grey_images_may_lack_their_channel():
    assert to_set(Stored(images(1, 2)[..., 0], np.array([0, 1])), "x").images.shape == (2, 2, 2, 1)


def test_names_given_go_before_the_layouts_own():
    stored = Stored(images(1, 2), np.array([1, 0]), ("a", "b"))
    assert to_set(stored, "x").class_names == ("a", "b")
    assert to_set(stored, "x", ["c", "d"]).class_names == ("c", "d")


@pytest.mark.parametrize("values", [(0, 255), (255, 0), (1, 254)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint32])
def test_whole_numbers_from_0_to_255_are_pixels(values, dtype):
    made = to_set(Stored(images(*values, dtype=dtype), np.array([0, 1])), "x")
    assert levels(made) == list(values)


@pytest.mark.parametrize("values", [(0, 256), (-1, 255)])
def test_other_whole_numbers_are_not(values):
    with pytest.raises(UserError, match="beyond 0 to 255"):
        to_set(Stored(images(*values, dtype=np.int16), np.array([0, 1])), "x")


def test_normalised_floats_are_brought_back_by_hand():
    """255 (x std + mean), rounded to even, cut to 0..255; shares of what was cut."""
    floats = images(-1.0, 0.0, 1.0, 2.0, dtype=np.float32)
    made = to_set(Stored(floats, np.arange(4)), "x", mean=[0.5], std=[0.25]).rounded()
    assert levels(made) == [64, 128, 191, 255]  # 63.75, 127.5, 191.25, 255
    assert made.manifest["clipped"] == 0.0
    assert made.manifest["normalisation"] == {"mean": [0.5], "std": [0.25]}
    cut = to_set(Stored(floats, np.arange(4)), "x", mean=[0.5], std=[0.5]).rounded()
    assert levels(cut) == [0, 128, 255, 255]  # 0, 127.5, 255, and 382.5
    assert cut.manifest["clipped"] == 0.25
    below = to_set(Stored(floats, np.arange(4)), "x", mean=[0.0], std=[0.1]).rounded()
    assert levels(below) == [0, 0, 26, 51]  # -25.5, 0, 25.5, 51
    assert below.manifest["clipped"] == 0.25


def test_constants_of_each_channel():
    floats = np.ones((2, 1, 1, 3), np.float32)
    constants = {"mean": [0.0, 0.2, 0.4], "std": [0.2, 0.4, 0.6]}
    made = to_set(Stored(floats, np.array([0, 1])), "x", **constants).rounded()
    assert made.images[1, 0, 0].tolist() == [51, 153, 255]
    for wrong in (
        ([0.5], [0.5, 0.5]),
        ([0.5, 0.5], [0.5]),
        ([0.5], [0.0]),
        ([0.5], [-1.0]),
        ([], []),
    ):
        with pytest.raises(UserError, match="one value or 3 each"):
            to_set(Stored(floats, np.array([0, 1])), "x", mean=wrong[0], std=wrong[1])


@pytest.mark.parametrize("constants", [{"mean": [0.5]}, {"std": [0.5]}])
def test_constants_of_pixels_are_refused(constants):
    with pytest.raises(UserError, match="has whole pixels"):
        to_set(Stored(images(1, 2), np.array([0, 1])), "x", **constants)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite(odd):
    floats = images(0.0, odd, dtype=np.float32)
    with pytest.raises(UserError, match="not finite"):
        to_set(Stored(floats, np.array([0, 1])), "x", mean=[0], std=[1])


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        ([0, 0, 1], (), "2 images of class 0 (0) but 1 of class 1 (1)"),
        ([0, 1, 1], ("a", "b"), "2 images of class 1 (b) but 1 of class 0 (a)"),
        ([0, 1, 2], ("a", "b"), "the label 2, but 3 images and 2 class names"),
        ([0, 1, 3], (), "the label 3, but 3 images and 0 class names"),
        ([0, 1, 2], ("a", "b", "c", "d"), "1 images of class 0 (a) but 0 of class 3 (d)"),
        ([-1, 0, 1], (), "the label -1; labels count from 0"),
    ],
)
def test_labels_that_make_no_set(labels, names, says):
    with pytest.raises(UserError) as error:
        to_set(Stored(images(1, 2, 3), np.array(labels), names), "here")
    assert says in str(error.value)
    assert "here" in str(error.value)


def test_as_many_classes_as_images_need_no_names():
    assert to_set(Stored(images(1, 2, 3), np.array([2, 1, 0])), "x").class_names == ("0", "1", "2")


@pytest.mark.parametrize("shape", [(2, 3), (4, 2), (2,), (2, 2, 1)])
def test_soft_labels_have_a_row_of_all_classes_for_every_image(shape):
    with pytest.raises(UserError, match=r"instead of \(2, 2\), images and classes"):
        to_set(Stored(images(1, 2), np.array([0, 1]), soft_labels=np.zeros(shape)), "x")


# --- the sidecar ---


def test_a_sidecar_keeps_names_and_manifest(tmp_path):
    assert read_sidecar(tmp_path) == ((), {})
    write_sidecar(tmp_path, a_set(made="ü"))
    assert read_sidecar(tmp_path) == (("a", "b"), {"made": "ü"})
    about = files.read_json(tmp_path / SIDECAR)
    assert {name: about[name] for name in ("format", "class_names", "manifest")} == {
        "format": "delt_jax export, version 1",
        "class_names": ["a", "b"],
        "manifest": {"made": "ü"},
    }
    files.write_json(tmp_path / SIDECAR, about | {"format": "delt_jax export, version 2"})
    with pytest.raises(UserError, match="is damaged"):
        read_sidecar(tmp_path)


# --- smaller sets ---


def test_the_first_images_of_every_class_are_a_set():
    content = a_set(hash="x", ipc=3)
    two = content.per_class(2)
    assert levels(two) == [0, 1, 3, 4]
    assert two.labels.tolist() == [0, 0, 1, 1]
    assert two.soft_labels.tolist() == [[0, 1], [2, 3], [6, 7], [8, 9]]
    assert two.manifest == {"ipc": 2, "first_of": 3}
    assert two.ipc == 2
    assert levels(content.per_class(1)) == [0, 3]
    assert content.per_class(3) is content
    assert a_set(soft=False).per_class(1).soft_labels is None
    for wrong in (0, 4, -1):
        with pytest.raises(UserError, match=f"from 1 to 3, .* not {wrong}"):
            content.per_class(wrong)


# --- our own layout ---


def test_images_lie_by_class_and_rank(tmp_path):
    content = a_set(ipc=3, classes=2)
    known = distilled.write_images(tmp_path, content.images, 3)
    paths = [tmp_path / f"images/{c:05}/{r:05}.png" for c in (0, 1) for r in (0, 1, 2)]
    assert sorted(tmp_path.rglob("*.png")) == paths
    assert known == files.content_hash(*(path.read_bytes() for path in paths))
    manifest = {"class_names": ["a", "b"], "ipc": 3, "storage": "png", "hash": known}
    assert distilled.is_whole(tmp_path, manifest)
    assert not distilled.is_whole(tmp_path, manifest | {"ipc": 2})
    assert not distilled.is_whole(tmp_path, manifest | {"storage": "jpeg75"})
    assert not distilled.is_set(tmp_path)
    files.write_json(tmp_path / "manifest.json", manifest)
    assert distilled.is_set(tmp_path)
    np.testing.assert_array_equal(
        distilled.read_images(tmp_path, [4, 0]), content.images[[4, 0]], strict=True
    )
    read = distilled.read(tmp_path)
    np.testing.assert_array_equal(read.images, content.images, strict=True)
    np.testing.assert_array_equal(read.labels, content.labels, strict=True)
    paths[-1].unlink()
    assert not distilled.is_whole(tmp_path, manifest)


def test_jpeg_has_its_own_ending_and_quality(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    distilled.write_images(tmp_path, noise, 1, "jpeg75")
    paths = sorted(tmp_path.rglob("*.*"))
    assert [p.name for p in paths] == ["00000.jpg", "00000.jpg"]
    from PIL import Image

    tables = [Image.open(path).quantization for path in paths]
    assert tables[0][0][0] == 8  # 16 x 50 / 100: the first step of luminance at quality 75


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_names": []},
        {"class_names": "ab"},
        {"ipc": 0},
        {"ipc": -1},
        {"ipc": "3"},
        {"storage": "gif"},
        {"storage": None},
        {"hash": 3},
    ],
)
def test_other_manifests_are_refused(tmp_path, wrong):
    good = {"class_names": ["a"], "ipc": 1, "storage": "png", "hash": "x"}
    files.write_json(tmp_path / "manifest.json", good)
    assert distilled.read_manifest(tmp_path) == good
    files.write_json(tmp_path / "manifest.json", good | wrong)
    with pytest.raises(UserError, match="is not a distilled set's"):
        distilled.read_manifest(tmp_path)


def test_an_imported_set_says_what_it_is(tmp_path):
    own.write(tmp_path, a_set(imported={"layout": "npz"}, seed=3), 0)
    manifest = files.read_json(tmp_path / "manifest.json")
    expected = {
        "imported": {"layout": "npz"},
        "seed": 3,
        "inputs": {"imported": {"layout": "npz"}},
        "storage": "png",
        "class_names": ["a", "b"],
        "ipc": 3,
        "image_size": 2,
        "channels": 1,
    }
    assert {name: manifest[name] for name in expected} == expected
    (tmp_path / "bare").mkdir()
    own.write(tmp_path / "bare", a_set(), 0)
    bare = files.read_json(tmp_path / "bare/manifest.json")
    assert (bare["imported"], bare["inputs"]) == ({}, {"imported": {}})
    wide = DistilledSet(np.zeros((2, 2, 3, 1), np.uint8), np.arange(2), ("a", "b"), {})
    with pytest.raises(UserError, match="3x2 px, and the stages take square ones"):
        own.write(tmp_path, wide, 0)


# --- names of files ---


@pytest.mark.parametrize(
    ("classes", "ipc", "first", "last"),
    [
        (2, 3, "new000/class000_id000", "new001/class001_id002"),
        (1, 1000, "new000/class000_id000", "new000/class000_id999"),
        (1, 1001, "new00000/class00000_id00000", "new00000/class00000_id01000"),
    ],
)
def test_names_of_new000(tmp_path, classes, ipc, first, last):
    content = DistilledSet(
        np.zeros((classes * ipc, 1, 1, 1), np.uint8),
        np.repeat(np.arange(classes, dtype=np.int32), ipc),
        tuple("ab"[:classes]),
        {},
    )
    formats.FORMATS["new000"].write(tmp_path, content, 0)
    found = sorted(str(p.relative_to(tmp_path).with_suffix("")) for p in tmp_path.rglob("*.png"))
    assert (found[0], found[-1], len(found)) == (first, last, classes * ipc)


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    """id10 comes after id9, and whole names decide between equal numbers."""
    from PIL import Image

    for c in ("0", "1"):
        (tmp_path / c).mkdir()
        for level, name in enumerate(("id2.png", "id9.png", "id010.png", "id10.png")):
            Image.fromarray(np.full((2, 2), level, np.uint8)).save(tmp_path / c / name)
        (tmp_path / c / ".id1.png").write_bytes(b"hidden")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails/0.png").write_bytes((tmp_path / "0/id2.png").read_bytes())
    content = formats.load(tmp_path)
    assert levels(content) == [0, 1, 2, 3] * 2
    assert content.class_names == ("0", "1")


def test_what_torch_is_given(tmp_path):
    """The values that it would load, images with channels first."""
    content = DistilledSet(
        np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3),
        np.arange(2, dtype=np.int32),
        ("ü", "b"),
        {"made": "ü"},
        np.eye(2, dtype=np.float32),
    )
    path = Path(tmp_path / "x.pt")
    formats.FORMATS["pt"].write(path, content, 0)
    saved = torch_files.read_pth(path)
    images = content.images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(saved["images"], images, strict=True)
    assert saved["labels"].dtype == np.int64
    assert saved["labels"].tolist() == [0, 1]
    assert saved["class_names"] == ["ü", "b"]
    assert saved["manifest"] == '{"made": "ü"}'
    np.testing.assert_array_equal(saved["soft_labels"], content.soft_labels, strict=True)
    formats.FORMATS["pt"].write(path, a_set(soft=False), 0)
    assert "soft_labels" not in torch_files.read_pth(path)


def test_an_npz_to_the_letter(tmp_path):
    """Arrays of plain types; the manifest is JSON that people can read."""
    content = a_set(made="ü")
    formats.FORMATS["npz"].write(tmp_path / "x.npz", content, 0)
    with np.load(tmp_path / "x.npz") as arrays:
        assert set(arrays) == {"images", "labels", "class_names", "manifest", "soft_labels"}
        assert str(arrays["manifest"]) == '{"made": "ü"}'
        assert arrays["labels"].dtype == np.int64
        np.testing.assert_array_equal(arrays["images"], content.images, strict=True)
        np.testing.assert_array_equal(arrays["soft_labels"], content.soft_labels, strict=True)
    formats.FORMATS["npz"].write(tmp_path / "y.npz", a_set(soft=False), 0)
    with np.load(tmp_path / "y.npz") as arrays:
        assert "soft_labels" not in arrays


@pytest.mark.parametrize(
    ("count", "category"),
    [
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (99_999, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (600_000, "100K<n<1M"),
    ],
)
def test_size_categories_of_the_hub(tmp_path, monkeypatch, count, category):
    monkeypatch.setattr("delt_jax.store.pictures.encode", lambda image, quality=0: b"x")
    content = DistilledSet(
        np.broadcast_to(np.uint8(0), (count, 1, 1, 1)), np.zeros(count, np.int32), ("a",), {}
    )
    formats.FORMATS["parquet"].write(tmp_path, content, 0)
    assert f"- {category}\n" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_parquet_column_is_there_once(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    formats.FORMATS["parquet"].write(tmp_path, a_set(), 0)
    (path,) = tmp_path.glob("data/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", pa.array([0, 0, 0, 1, 1, 1])), path)
    with pytest.raises(UserError, match="has the column label twice"):
        formats.load(path)


def test_new000_is_of_folders_that_are_all_called_so(tmp_path):
    formats.FORMATS["new000"].write(tmp_path, a_set(soft=False), 0)
    assert formats.find(tmp_path) == "new000"
    (tmp_path / "new000").rename(tmp_path / "cats")
    assert formats.find(tmp_path) == "folder"


def test_named_classes_count_from_0(tmp_path):
    """Folders 1 and 2 alone are classes of those names; a list of names has no place for them."""
    formats.FORMATS["folder"].write(tmp_path, a_set(), 0)
    (tmp_path / "00001").rename(tmp_path / "2")
    (tmp_path / "00000").rename(tmp_path / "1")
    with pytest.raises(UserError):
        formats.load(tmp_path)
    (tmp_path / SIDECAR).unlink()
    assert formats.load(tmp_path).class_names == ("1", "2")


@pytest.mark.parametrize("layout", ["tfds", "parquet", "folder", "new000", "distilled"])
def test_a_pipe_among_the_files_of_a_set_is_told(tmp_path, layout):
    """Each file in turn; opening one for good would wait for a writer that never comes."""
    import os

    formats.FORMATS[layout].write(tmp_path, a_set(soft=False), 0)
    unread = ("README.md", "sheet.png", SIDECAR) if layout == "parquet" else ()
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.name not in unread):
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(UserError):
            formats.load(tmp_path)
        path.unlink()
        path.write_bytes(content)
    formats.load(tmp_path)


def test_features_of_a_tfds_directory(tmp_path):
    content = DistilledSet(
        np.zeros((4, 5, 6, 3), np.uint8),
        np.repeat(np.arange(2, dtype=np.int32), 2),
        ("a", "b"),
        {},
        np.zeros((4, 2), np.float32),
    )
    formats.FORMATS["tfds"].write(tmp_path, content, 0)
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(tmp_path).info
    assert info.features["image"].shape == (5, 6, 3)
    assert info.features["soft_label"].shape == (2,)
    assert info.features["label"].names == ["a", "b"]
    assert info.splits["train"].num_examples == 4


def test_labels_of_a_parquet_file_are_classes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    formats.FORMATS["parquet"].write(tmp_path, a_set(ipc=1), 0)
    (path,) = tmp_path.glob("data/*.parquet")
    table = pq.read_table(path)
    at = table.column_names.index("label")
    for label in (-1, 2**31, 2**32 + 1):
        pq.write_table(table.set_column(at, "label", pa.array([0, label])), path)
        with pytest.raises(UserError, match=f"row 1 has the label {label}; labels count from 0"):
            formats.load(path)


@pytest.mark.parametrize("missing", ["dataset_info.json", "features.json"])
def test_a_tfds_directory_has_both_of_its_files(tmp_path, missing):
    formats.FORMATS["tfds"].write(tmp_path, a_set(soft=False), 0)
    assert formats.find(tmp_path) == "tfds"
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match="is no distilled set that is understood"):
        formats.find(tmp_path)


@pytest.mark.parametrize("ending", ["pt", "pth", "npz", "parquet"])
def test_a_folder_with_the_name_of_a_file_is_a_folder(tmp_path, ending):
    formats.FORMATS["folder"].write(tmp_path, a_set(soft=False), 0)
    path = tmp_path.rename(tmp_path.with_name(f"set.{ending}"))
    assert formats.find(path) == "folder"


@pytest.mark.parametrize("layout", ["folder", "new000"])
def test_pictures_are_lossless_unless_asked_otherwise(tmp_path, layout):
    formats.FORMATS[layout].write(tmp_path, a_set(soft=False))
    assert {p.suffix for p in tmp_path.rglob("*.*") if p.name != SIDECAR} == {".png"}


def test_what_tfds_says_of_a_directory_is_quoted(tmp_path):
    formats.FORMATS["tfds"].write(tmp_path, a_set(soft=False), 0)
    (shard,) = tmp_path.glob("*array_record*")
    shard.write_bytes(b"no record")
    with pytest.raises(UserError, match=r"with a train split in array_record \(\w+: \S.*\);"):
        formats.load(tmp_path)


def test_intact_images_are_read_and_others_are_not(tmp_path):
    content = a_set(soft=False)
    own.write(tmp_path, content, 0)
    manifest = distilled.read_manifest(tmp_path)
    read = distilled.read_intact(tmp_path, manifest, [4, 1])
    np.testing.assert_array_equal(read, content.images[[4, 1]], strict=True)
    lossy = manifest | {"storage": "jpeg75"}
    assert distilled.read_intact(tmp_path, lossy, [4, 1]) is None
    path = distilled.path_of(tmp_path, 1, manifest)
    assert path == tmp_path / "images/00000/00001.png"
    path.write_bytes(distilled.path_of(tmp_path, 2, manifest).read_bytes())
    assert distilled.read_intact(tmp_path, manifest, [4, 1]) is None
    assert distilled.read_intact(tmp_path, manifest, [4]) is not None
    unknown = {k: v for k, v in manifest.items() if k != "files"}
    assert distilled.read_intact(tmp_path, unknown, [4]) is None


def test_two_folders_of_one_number_are_no_classes(tmp_path):
    formats.FORMATS["folder"].write(tmp_path, a_set(soft=False), 0)
    (tmp_path / SIDECAR).unlink()
    (tmp_path / "00001").rename(tmp_path / "0")
    for names in ((), ("a", "b")):
        with pytest.raises(UserError):
            formats.load(tmp_path, class_names=names)


@pytest.mark.parametrize("odd", ["image", "label"])
def test_features_of_other_kinds_are_told(tmp_path, odd):
    from tfds_sets import pixels_of, png, prepare, tfds

    shape = (4, 4, 3)
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    examples = [{"image": png(pixels_of(n, shape)), "label": n} for n in (0, 1)]
    if odd == "image":
        features["image"] = tfds.features.Tensor(shape=shape, dtype=np.uint8)
        examples = [e | {"image": pixels_of(e["label"], shape)} for e in examples]
    else:
        features["label"] = tfds.features.Tensor(shape=(2,), dtype=np.int64)
        examples = [e | {"label": np.array([0, 1])} for e in examples]
    prepare(tmp_path, "odd", features, {"train": examples})
    with pytest.raises(UserError, match="no feature image of pictures and label of one class each"):
        formats.load(tmp_path / "odd/1.0.0")


def test_one_grey_level_beyond_is_clipped():
    """Levels -1, 0, 255 and 256 of four images."""
    floats = images(-1.0, 0.0, 255.0, 256.0, dtype=np.float64)
    made = to_set(Stored(floats, np.arange(4)), "x", mean=[0.0], std=[1 / 255]).rounded()
    assert levels(made) == [0, 0, 255, 255]
    assert made.manifest["clipped"] == 0.5


@pytest.mark.parametrize("soft", [True, False])
def test_the_card_tells_of_soft_labels_where_there_are_some(tmp_path, soft):
    formats.FORMATS["parquet"].write(tmp_path, a_set(soft=soft), 0)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("`soft_label` holds a teacher's logits" in card) == soft
    assert ("name: soft_label" in card) == soft


def test_pictures_of_parquet_are_bytes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images_ = pa.array([{"path": "a.png"}, {"path": "b.png"}])
    pq.write_table(pa.table({"image": images_, "label": [0, 1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError) as error:
        formats.load(tmp_path / "x.parquet")
    assert "cannot be read" not in str(error.value)
