"""Data in object stores are those that they are on a disk, and are read without waste."""

import struct

import numpy as np
import pytest
from PIL import Image
from tfds_sets import examples, features, prepare

from delt_jax.data import open_source
from delt_jax.data.class_pictures import Classes, open_pictures
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import local_copies


def fill(folder, numbers):
    folder.mkdir(parents=True)
    for n in numbers:
        Image.fromarray(np.full((28, 28, 3), n, np.uint8)).save(folder / f"{n:03}.png")


def classes(root):
    fill(root / "cat", range(10, 20))
    fill(root / "a dog", range(100, 110))
    (root / "notes.txt").write_text("not an image")


def splits(root):
    for split, first in (("train", 10), ("val", 60)):
        for number, name in enumerate(("ant", "bee")):
            fill(root / split / name / "inner", range(first + 20 * number, first + 20 * number + 9))


def tiny_imagenet(root):
    for number, name in enumerate(("n01", "n02")):
        fill(root / "train" / name / "images", range(10 * number, 10 * number + 6))
    fill(root / "val/images", range(50, 54))
    table = "".join(f"{n:03}.png\tn0{1 + n % 2}\t0\t0\t9\t9\n" for n in range(50, 54))
    (root / "val/val_annotations.txt").write_text(table)


def idx(root):
    for split, count in (("train", 12), ("t10k", 6)):
        pixels = np.arange(count * 28 * 28).astype(np.uint8)
        (root / f"{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">I3I", 0x803, count, 28, 28) + pixels.tobytes()
        )
        (root / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + bytes(i % 3 for i in range(count))
        )


def npz(root):
    pixels = np.arange(12 * 8 * 8 * 3).astype(np.uint8).reshape(12, 8, 8, 3)
    np.savez(root / "set.npz", images=pixels, labels=np.arange(12) % 3)


def tfds(root):
    sets = {"train": examples(range(6)), "test": examples(range(6, 9))}
    prepare(root, "tiny_set", features(), sets)
    other = root / "tiny_set/0.9.0"
    other.mkdir()
    for path in (root / "tiny_set/1.0.0").iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (root / "other_set").mkdir()
    (root / "other_set/large").write_bytes(b"not read")


KINDS = {
    "classes": (classes, {"name": "folder"}, ""),
    "splits": (splits, {"name": "folder"}, ""),
    "tiny_imagenet": (tiny_imagenet, {"name": "folder"}, ""),
    "idx": (idx, {"name": "idx"}, ""),
    "npz": (npz, {"name": "npz"}, "/set.npz"),
    "tfds": (tfds, {"name": "tfds", "dataset": "tiny_set"}, ""),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_data_are_the_same_there_and_here(kind, tmp_path, bucket):
    make, settings, inside = KINDS[kind]
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    bucket.put(tmp_path / "set", "gs://data/my/set")

    def opened(path):
        local_copies.forget()
        return open_source(DataRecipe(**settings, path=f"{path}{inside}", workers=0))

    here, there = opened(tmp_path / "set"), opened("gs://data/my/set")
    for name in ("name", "class_names", "image_size", "channels", "all_classes"):
        assert getattr(here, name) == getattr(there, name)
    assert (here.content or here.fingerprint) == (there.content or there.fingerprint)
    for mine, theirs in ((here.train, there.train), (here.test, there.test)):
        assert list(mine.names) == list(theirs.names)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        indices = np.arange(len(mine))
        np.testing.assert_array_equal(mine.images(indices), theirs.images(indices))
    assert len(here.notes) == len(there.notes)

    read = bucket.calls["cat"]
    again = opened("gs://data/my/set")
    assert again.fingerprint == there.fingerprint
    if settings["name"] == "folder":  # each folder is listed once
        parts = [name.split("/")[:-1] for name in bucket.objects]
        folders = {tuple(part[:depth]) for part in parts for depth in range(3, len(part) + 1)}
        assert bucket.calls["ls"] == 2 * len(folders)
    else:  # other files were copied, and not again
        assert bucket.calls["cat"] == read
        assert not any("0.9.0" in str(p) for p in local_copies.folder().rglob("*"))


def test_what_changed_there_is_read_anew(tmp_path, bucket):
    for make, settings, inside in (KINDS["npz"], KINDS["classes"]):
        root = tmp_path / settings["name"]
        root.mkdir()
        make(root)
        bucket.put(root, "s3://data/set")
        recipe = DataRecipe(**settings, path=f"s3://data/set{inside}", workers=0)
        first = open_source(recipe).fingerprint
        assert open_source(recipe).fingerprint == first
        name = max(name for name in bucket.objects if name.endswith((".npz", ".png")))
        if name.endswith("npz"):
            np.savez(root / "set.npz", images=np.ones((12, 8, 8, 3), np.uint8), labels=[0, 1] * 6)
            bucket.objects[name] = (root / "set.npz").read_bytes()
        else:  # as long as it was
            bucket.objects[name] = bucket.objects[name][:-1] + b"?"
        local_copies.forget()
        assert open_source(recipe).fingerprint != first
        bucket.objects.clear()
        local_copies.forget()


def test_pictures_and_lists_of_classes(tmp_path, bucket):
    classes(tmp_path / "set")
    (tmp_path / "list.txt").write_text("cat\na dog\n")
    bucket.put(tmp_path, "gs://b/all")
    known = Classes(("a dog", "cat"), ("a dog", "cat"), 28, 3, "resize", 0)
    found = open_pictures("select.pictures", "gs://b/all/set", known)
    here = open_pictures("select.pictures", str(tmp_path / "set"), known)
    assert found.content == here.content
    np.testing.assert_array_equal(
        found.examples.images(np.arange(20)), here.examples.images(np.arange(20))
    )
    recipe = DataRecipe(name="folder", path="gs://b/all/set", classes="gs://b/all/list.txt")
    assert open_source(recipe).class_names == ("cat", "a dog")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_store_that_fails_is_one_sentence(kind, tmp_path, bucket):
    make, settings, inside = KINDS[kind]
    recipe = DataRecipe(**settings, path=f"gs://b/set{inside}", workers=0, unreadable="skip")
    with pytest.raises(UserError, match=r"gs://b/set.*[.]$") as told:
        open_source(recipe)
    assert "\n" not in str(told.value)
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    bucket.put(tmp_path / "set", "gs://b/set")
    for call in ("ls" if settings["name"] in ("folder", "idx") else "info", "cat"):
        bucket.works = lambda name, path, call=call: name != call
        local_copies.forget()
        # No file is left out because the network is down.
        with pytest.raises(UserError, match=r"gs://b/set.*Unreachable: 503.*connection"):
            open_source(recipe)


def test_copies_are_completed_and_need_room(tmp_path, bucket, monkeypatch):
    (tmp_path / "set").mkdir()
    idx(tmp_path / "set")
    bucket.put(tmp_path / "set", "gs://b/set")
    recipe = DataRecipe(name="idx", path="gs://b/set")
    bucket.works = lambda call, path: call != "cat" or "t10k" not in path
    with pytest.raises(UserError, match="503"):
        open_source(recipe)
    bucket.works, bucket.calls["cat"] = (lambda call, path: True), 0
    open_source(recipe)
    assert bucket.calls["cat"] == 2  # the others had come whole

    (tmp_path / "set/train-images-idx3-ubyte").write_bytes(b"")
    bucket.objects["b/set/train-images-idx3-ubyte"] += b"x"
    local_copies.forget()
    monkeypatch.setattr(local_copies.shutil, "disk_usage", lambda path: type("U", (), {"free": 9}))
    with pytest.raises(UserError, match=r"gs://b/set takes .* bytes.*room for 9;"):
        open_source(recipe)
