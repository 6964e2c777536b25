"""Tar files with samples in them, as webdataset has data sets."""

import io
import json
import os
import shutil
import tarfile

import chex
import numpy as np
import pytest

from delt_jax.data import open_source, read, sharded
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.store import pictures

NAMES = ("cat", "cow", "dog")


def images_of(count, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8), np.arange(count) % len(NAMES)


def pack(path, members):
    """A tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def samples(count, seed=0, first=0, label=lambda c: ("cls", str(c).encode())):
    """Members of so many samples; `label` is the ending and content of what has the class."""
    members = []
    for i, (image, c) in enumerate(zip(*images_of(count, seed), strict=True)):
        ending, content = label(c)
        members += [(f"{first + i:05}.png", pictures.encode(image)), (f"{first + i:05}.txt", b"x")]
        members += [(f"{first + i:05}.{ending}", content)]
    return members


def opened(path, **more):
    return open_source(DataRecipe(name="webdataset", path=str(path), workers=0, **more))


@pytest.fixture
def folder(tmp_path):
    """Two shards to train on and one to test on."""
    whole = samples(12)
    pack(tmp_path / "set/train-000.tar", whole[:18])
    pack(tmp_path / "set/train-001.tar", whole[18:])
    pack(tmp_path / "set/val-000.tar", samples(6, 1))
    (tmp_path / "set/classes.txt").write_text("cat\ncow\ndog\n")
    return tmp_path / "set"


def test_samples_of_all_shards_are_read_in_any_order(folder):
    source, (images, labels) = opened(folder), images_of(12)
    assert (source.name, source.class_names, source.channels) == ("set", NAMES, 3)
    assert source.image_size == 6
    chex.assert_trees_all_equal(source.train.labels, labels.astype(np.int32))
    order = np.random.default_rng(0).permutation(12)
    chex.assert_trees_all_equal(read(source.train, order), images[order])
    chex.assert_trees_all_equal(read(source.test, np.arange(6)), images_of(6, 1)[0])
    assert source.train.names[7] == "train-001.tar/00007"


@pytest.mark.parametrize("pattern", ["train-{000..001}.tar", "train-*.tar", "tr*-00[01].tar"])
def test_a_pattern_names_shards(folder, pattern):
    source = opened(folder / pattern, test_share=0.25)
    assert np.bincount(source.train.labels).tolist() == [3, 3, 3]
    assert np.bincount(source.test.labels).tolist() == [1, 1, 1]
    assert len(opened(folder / "{train,none}-000.tar", test_share=0.5).train) == 3
    assert len(opened(folder / "val-000.tar", test_share=0.5).test) == 3


@pytest.mark.parametrize(
    ("label", "settings", "names"),
    [
        (lambda c: ("json", json.dumps({"label": int(c)}).encode()), {}, ("0", "1", "2")),
        (lambda c: ("json", json.dumps({"of": NAMES[c]}).encode()), {"dataset": "of"}, NAMES),
        (lambda c: ("cls", f" {c}\n".encode()), {"class_names": NAMES}, NAMES),
    ],
)
def test_classes_come_from_members(tmp_path, label, settings, names):
    pack(tmp_path / "all.tar", samples(9, label=label))
    source = opened(tmp_path / "all.tar", **settings)
    assert source.class_names == names
    order = np.argsort(source.train.names)
    chex.assert_trees_all_equal(read(source.train, order)[0], images_of(9)[0][int(
        source.train.names[order[0]].rpartition("/")[2])])  # fmt: skip
    assert np.bincount(source.train.labels).tolist() == [2, 2, 2]


def test_classes_come_from_folders_and_what_is_hidden_is_passed_over(tmp_path):
    members = [("__MACOSX/._x.png", b""), ("a/.hidden.png", b""), ("../../README", b"")]
    for i, (image, c) in enumerate(zip(*images_of(9), strict=True)):
        members.append((f"../{NAMES[c]}/{i}.seg.png", b""))
        members.append((f"../{NAMES[c]}/{i}.PNG", pictures.encode(image)))
    pack(tmp_path / "x.tar", members)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        link = tarfile.TarInfo("cat/99.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = opened(tmp_path / "x.tar")
    assert source.class_names == NAMES
    assert len(source.train) + len(source.test) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]  # nothing was unpacked


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["cat", "cow", "dog"]', NAMES),
        ('{"dog": 2, "cat": 0, "cow": 1}', NAMES),
        ('{"0": "cat", "1": "cow", "2": "dog"}', NAMES),
    ],
)
def test_names_lie_beside_the_shards(tmp_path, text, names):
    pack(tmp_path / "x.tar", samples(6))
    (tmp_path / "classes.json").write_text(text)
    assert opened(tmp_path / "x.tar").class_names == names


def without(members, *names):
    return [member for member in members if member[0] not in names]


GOOD = samples(6)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (without(GOOD, "00003.png"), "x.tar has no picture for the sample 00003"),
        (without(GOOD, "00003.cls"), "sample 00003, has no .cls, where a class belongs"),
        ([*GOOD, ("00001.png", b"x")], "has the sample 00001 in two places"),
        ([*GOOD, ("00005.jpg", b"x")], "sample 00005, has two members .* its picture; keep one"),
        ([*GOOD, ("00005.cls", b"x")], "has two members that could be its .cls"),
        (samples(3, label=lambda c: ("cls", b"cat")), "has 'cat' as .cls"),
        (samples(3, label=lambda c: ("cls", b"9" * 2000)), "a .cls of 2,000 bytes"),
        (samples(3, label=lambda c: ("json", b"[")), "has a .json that cannot be read"),
        (samples(3, label=lambda c: ("json", b'{"x": 1}')), "its .json has x, but no number"),
        (samples(3, label=lambda c: ("cls", b"-7")), "classes from -7 to -7"),
        (samples(3, label=lambda c: ("cls", b"70")), "are no classes that count from 0"),
        ([("README", b"")], "have no sample"),
        ([("1.png", b"x")], "neither .cls nor .json, and it lies in no folder"),
    ],
)
def test_what_a_shard_lacks_is_one_sentence(tmp_path, members, sentence):
    pack(tmp_path / "x.tar", members)
    with pytest.raises(UserError, match=sentence):
        opened(tmp_path)


@pytest.mark.parametrize("how", ["cut", "cut in a picture", "header", "compressed", "no end"])
def test_a_damaged_shard_is_one_sentence(tmp_path, how):
    pack(path := tmp_path / "x.tar", samples(9))
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:5300],
            "cut in a picture": content[:700],
            "header": content[:3072] + b"\xff" * 512 + content[3584:],
            "compressed": b"\x1f\x8b" + content,
            "no end": content[: 9 * 6 * 512],
        }[how]
    )
    with pytest.raises(UserError, match=r"x.tar is no tar file that can be read .*cut short or"):
        opened(tmp_path)


@pytest.mark.parametrize("path", ["", "none", "none-*.tar", "none.tar.gz"])
def test_a_place_without_shards_is_one_sentence(tmp_path, path):
    (tmp_path / "none.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"data.path .*(names no .tar files|is empty)"):
        opened(tmp_path / path if path else "")


def test_another_picture_is_another_set(folder):
    before = opened(folder).fingerprint
    assert opened(folder).fingerprint == before
    pack(folder / "val-000.tar", samples(6, 2))
    assert opened(folder).fingerprint != before


def test_copies_of_large_shards_are_the_same_data(folder, tmp_path, monkeypatch):
    """Their bytes count and no times, so other hosts and later runs take copies for the same."""
    monkeypatch.setattr(sharded, "_HASHED", 100)
    copied = shutil.copytree(folder, tmp_path / "copied")
    for path in copied.glob("*.tar"):
        os.utime(path, (1, 1))
    ours, theirs = opened(folder), opened(copied)
    assert (theirs.fingerprint, theirs.content) == (ours.fingerprint, "")
    first = next(copied.glob("*.tar"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    assert opened(copied).fingerprint != ours.fingerprint
