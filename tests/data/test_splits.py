"""What a folder holds beside the training images: test splits, and what is not used."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_folder import fill, numbers_of, open_folder

import delt_jax
from delt_jax.data import Source, open_source
from delt_jax.data import listing as listing_lib
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.recovery.selection import check_class_sizes


def classes(folder: Path, names=("ant", "bee"), start: int = 0, count: int = 4) -> Path:
    """Class folders of pictures numbered from `start`, from 100 more, and so on."""
    for c, name in enumerate(names):
        fill(folder / name, range(start + 100 * c, start + 100 * c + count))
    return folder


def opened(root: Path, **settings) -> Source:
    return open_folder(root, **({"image_size": 8, "channels": 3} | settings))


# --- test splits ---


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("train", name) for name in ("valid", "testing", "eval", "evaluation", "dev", "holdout")),
        *(("train", name) for name in ("Val", "VALID", "Test_Set", "val2017", "test-images")),
        ("Train", "Valid"),
        ("TRAINING", "testing"),
        ("train_set", "test_set"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("", "valid"),
        ("", "Test"),
    ],
)
def test_a_test_split_of_any_name_is_used(tmp_path, train, test):
    classes(tmp_path / train)
    classes(tmp_path / test, start=50)
    source = opened(tmp_path)
    assert source.class_names == ("ant", "bee")
    assert numbers_of(source.train) == [*range(4), *range(100, 104)]
    assert numbers_of(source.test) == [*range(50, 54), *range(150, 154)]
    assert source.notes == ()


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("test", ["val", "valid", "Test", "test1", "evaluation"])
def test_a_test_split_that_cannot_be_used_is_refused(tmp_path, train, test):
    classes(tmp_path / train)
    begins = rf"{test} looks like the test split of .*{train}, but it"
    (tmp_path / test).mkdir()
    with pytest.raises(UserError, match=f"{begins} has no class folders"):
        opened(tmp_path)
    fill(tmp_path / test, range(3))
    with pytest.raises(UserError, match=f"{begins} has 3 pictures right in it") as e:
        opened(tmp_path)
    assert f"set data.path to {tmp_path}/{train} to hold out" in str(e.value)
    for path in (tmp_path / test).iterdir():
        path.unlink()
    classes(tmp_path / test, ("1", "2", "3"))
    with pytest.raises(UserError, match=f"{begins} has the folders 1, 2, 3, and no class of"):
        opened(tmp_path)
    alone = opened(tmp_path / train)
    assert (len(alone.train), len(alone.test)) == (6, 2)


def test_a_flat_test_split_beside_class_folders_is_refused_unless_it_is_named_as_a_class(tmp_path):
    classes(tmp_path / "set")
    fill(tmp_path / "set/val", range(200, 204))
    with pytest.raises(UserError, match=r"set/val looks like the test split.*data\.classes"):
        opened(tmp_path / "set")
    (tmp_path / "list.txt").write_text("ant\nbee\nval\n")
    source = opened(tmp_path / "set", classes=str(tmp_path / "list.txt"))
    assert source.class_names == ("ant", "bee", "val")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "set/bus", range(5))
    fill(tmp_path / "set/Train", range(100, 105))
    assert opened(tmp_path / "set").class_names == ("Train", "bus")
    (tmp_path / "set/Train").rename(tmp_path / "set/train")
    with pytest.raises(UserError, match="set/train has 0 class folders"):
        opened(tmp_path / "set")
    (tmp_path / "list.txt").write_text("bus\ntrain\n")
    source = opened(tmp_path / "set", classes=str(tmp_path / "list.txt"))
    assert source.class_names == ("bus", "train")


def test_of_several_test_splits_the_unused_are_named(tmp_path):
    classes(tmp_path / "train")
    for i, name in enumerate(("valid", "val", "test")):
        classes(tmp_path / name, start=10 * (i + 1))
    fill(tmp_path / "test2", range(3))
    source = opened(tmp_path)
    assert source.test.names[0] == "test/ant/030.png"
    told = "\n".join(source.notes)
    assert f"{tmp_path}/test holds the test images; {tmp_path}/val (8 files) is not used" in told
    assert f"{tmp_path}/valid (8 files) is not used" in told
    assert f"{tmp_path}/test2 (3 files) is not used, for it has 3 pictures right in it" in told
    assert len(source.notes) == 3


def test_several_training_folders_are_refused(tmp_path):
    for name in ("Train", "training"):
        classes(tmp_path / name)
    with pytest.raises(UserError, match="has Train, training, and each may hold the training"):
        opened(tmp_path)
    classes(tmp_path / "train", start=20)
    source = opened(tmp_path)
    assert source.train.names[0].startswith("train/")
    (note,) = source.notes
    assert note.endswith("has what is not used: Train/ (8 files), training/ (8 files)")


def test_a_folder_of_data_sets_is_a_level_too_high(tmp_path):
    for name in ("one", "two"):
        classes(tmp_path / name / "train")
    with pytest.raises(UserError, match=r"one holds train/, so .* set data\.path to .*/one\."):
        opened(tmp_path)


# --- what is not used ---


def test_what_lies_beside_the_splits_is_named(tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / "val", ("ant", "bee", "cat"))
    (tmp_path / "docs").mkdir()
    for name in ("docs/a.txt", "README.md", "train/index.csv", "val/list\n.txt", ".hidden"):
        (tmp_path / name).write_text("x")
    fill(tmp_path / "train", range(2))
    told = opened(tmp_path).notes
    assert told == (
        f"beside train/ and val/, {tmp_path} has what is not used: docs/ (1 file), README.md",
        f"2 pictures lie right in {tmp_path}/train, in no class folder, and are not used",
        f"beside its class folders, {tmp_path}/train has what is not used: index.csv",
        f"beside its class folders, {tmp_path}/val has what is not used: list\\n.txt",
        f"{tmp_path}/val has folders that are no classes of {tmp_path}/train and not used: "
        f"cat/ (4 files)",
    )


def test_files_passed_over_are_counted_by_ending(tmp_path):
    classes(tmp_path / "set")
    for i in range(10):
        (tmp_path / f"set/ant/{i}.TXT").write_text("x")
    for name in ("a.csv", "b.csv", "noending", "c.heic", ".DS_Store", "Thumbs.db", "d.eps"):
        (tmp_path / "set/bee" / name).write_text("x")
    fill(tmp_path / "set/bee/.ipynb_checkpoints", range(3))
    fill(tmp_path / "set/bee/@eaDir", range(3))
    source = opened(tmp_path / "set")
    assert len(source.train) + len(source.test) == 8
    (note,) = source.notes
    assert note.startswith("16 files below the class folders of ")
    assert note.endswith("10 .txt, 2 .csv, 1 without ending, 1 .db, 1 .eps, 1 .heic")


def test_unchosen_classes_are_counted(tmp_path):
    classes(tmp_path / "set", ("ant", "bee", "cat"))
    (tmp_path / "list.txt").write_text("bee\nant\n")
    (note,) = opened(tmp_path / "set", classes=str(tmp_path / "list.txt")).notes
    assert note.startswith("1 of 3 class folders in ")


def test_a_table_and_pictures_that_do_not_match_are_named(tmp_path):
    classes(tmp_path / "train")
    fill(tmp_path / "val/images", range(10, 16))
    rows = ["010.png\tant", "011.png\tbee", "012.png\tcat", "999.png\tant", "998.png\tbee"]
    (tmp_path / "val/val_annotations.txt").write_text("\n".join(rows))
    source = opened(tmp_path)
    assert numbers_of(source.test) == [10, 11]
    assert [note.split(": ")[1] for note in source.notes] == [
        "3 pictures are not in it",
        "2 of its files are missing",
        "1 of its files have a class without a folder",
    ]
    (tmp_path / "val/val_annotations.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(UserError, match=r"val_annotations\.txt cannot be read .*unpack the data"):
        opened(tmp_path)


# --- pictures below subfolders ---


def test_pictures_in_subfolders_are_read_in_the_order_of_their_paths(tmp_path):
    classes(tmp_path / "set")
    fill(tmp_path / "set/ant/site2", range(20, 23))
    fill(tmp_path / "set/ant/a/b/c", range(10, 12))
    fill(tmp_path / "set/bee/images", range(150, 152))
    source = opened(tmp_path / "set", test_share=0.01)
    names = sorted([*source.train.names, *source.test.names])
    assert len(names) == 15
    assert [n for n in names if n in set(source.train.names)] == list(source.train.names)
    assert sorted(numbers_of(source.train) + numbers_of(source.test)) == sorted(
        [*range(4), *range(10, 12), *range(20, 23), *range(100, 104), *range(150, 152)]
    )
    (note,) = source.notes
    assert note.startswith("5 of 15 pictures below ")
    assert note.endswith("such as ant/a/b/c/010.png")


def test_links_that_lead_back_or_to_other_classes_are_not_followed(tmp_path):
    root = classes(tmp_path / "set")
    elsewhere = fill(tmp_path / "elsewhere", range(20, 23))
    for name, target in (("up", root / "ant"), ("root", root), ("other", root / "bee")):
        (root / "ant/sub").mkdir(exist_ok=True)
        (root / "ant/sub" / name).symlink_to(target)
    for name in ("one", "two"):  # the same folder twice
        (root / "ant" / name).symlink_to(elsewhere)
    (root / "bee/itself").symlink_to("itself")
    source = opened(root)
    everything = sorted(numbers_of(source.train) + numbers_of(source.test))
    assert everything == [*range(4), *range(20, 23), *range(100, 104)]
    assert source.notes[-1].startswith("4 links below ")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match=r"is not a folder that can be read \(Too many levels"):
        opened(tmp_path / "circle")


def test_tiny_imagenets_classes_are_listed_as_ever(tmp_path):
    """Nothing but images/ in a class: the same names and labels as class folders alone give."""
    for name in ("ant", "bee"):
        fill(tmp_path / "set" / name / "images", range(5))
    source = opened(tmp_path / "set")
    assert source.notes == ()
    assert source.train.names[0].startswith("ant/images/")


# --- paths ---


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 300, r"is not a folder that can be read \(File name too long\)"),
        ("a" * 4096, r"is not a folder that can be read \(File name too long\)"),
        ("\udcff", "is not a folder whose name is UTF-8"),
        ("a\0b", "is not a folder; set it to"),
    ],
)
@pytest.mark.parametrize("name", ["folder", "idx"])
def test_odd_paths(tmp_path, path, says, name):
    os.makedirs(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match=says) as e:
        open_source(DataRecipe(name=name, path=f"{tmp_path}/{path}"))
    str(e.value).encode()


@pytest.mark.parametrize("name", ["folder", "idx"])
def test_a_file_in_place_of_the_folder(tmp_path, name):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"x\.zip' is not a folder; set it to"):
        open_source(DataRecipe(name=name, path=str(tmp_path / "x.zip")))


def test_long_paths_that_exist_are_read(tmp_path):
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    classes(deep)
    assert len(opened(deep).train) == 6


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    classes(tmp_path)
    (tmp_path / "ant/locked").mkdir()
    scandir = os.scandir

    def guarded(path):
        if os.fsdecode(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(listing_lib.os, "scandir", guarded)
    with pytest.raises(UserError, match=r"ant/locked cannot be read \(Permission denied\); make"):
        opened(tmp_path)
    (tmp_path / "ant").rename(tmp_path / "locked")
    with pytest.raises(UserError, match=r"locked cannot be read \(Permission denied\)"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"locked' is not a folder that can be read \(Permission"):
        opened(tmp_path / "locked")


# --- names and order of classes ---


def test_numbered_folders_keep_their_order_and_it_is_said(tmp_path):
    for i in range(1, 13):
        fill(tmp_path / str(i), [i, 100 + i])
    source = opened(tmp_path)
    assert source.class_names[:4] == ("1", "10", "11", "12")
    (note,) = source.notes
    assert "order of their names: 1, 10, 11, 12, ...; data.classes takes" in note
    (note,) = opened(tmp_path, class_names=tuple("abcdefghijkl")).notes
    assert "1 is 'a', 10 is 'b', 11 is 'c'" in note
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"{int(path.name):02}")
    assert opened(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a", "a"), r"data\.class_names has the class name 'a' 2 times"),
        (("a", ""), r"class 1 in data\.class_names, '', is empty"),
        (("a", " \t"), "class 1 in data.class_names"),
        (
            ("\ufeffa", "b"),
            r"class 0 in data\.class_names, '\\ufeffa', holds the character U\+FEFF",
        ),
        (("a", "b\nc"), r"'b\\nc', holds the character U\+000A"),
        (("a", "b\u2028c"), r"U\+2028"),
        (("a", "\udcff"), r"U\+DCFF"),
        (("a,b",), re.escape("""write --config.data.class_names="('a','b')", for a name may""")),
    ],
)
def test_class_names_that_cannot_be(tmp_path, names, says):
    classes(tmp_path / "set")
    labels = np.arange(4) % 2
    pixels = np.zeros((4, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    with pytest.raises(UserError, match=says) as e:
        opened(tmp_path / "set", class_names=names)
    str(e.value).encode()
    assert "\n" not in str(e.value)
    with pytest.raises(UserError):
        open_source(DataRecipe(name="npz", path=str(tmp_path / "x.npz"), class_names=names))


def test_a_list_of_classes_may_begin_with_a_byte_order_mark(tmp_path):
    classes(tmp_path / "set")
    listed = tmp_path / "list.txt"
    listed.write_bytes("bee\nant\n".encode("utf-8-sig"))
    assert opened(tmp_path / "set", classes=str(listed)).class_names == ("bee", "ant")
    listed.write_bytes("bee\nant\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"data\.classes .* cannot be read"):
        opened(tmp_path / "set", classes=str(listed))
    listed.write_bytes("bee\nant\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"name of class 0 in data\.classes .*U\+0000"):
        opened(tmp_path / "set", classes=str(listed))


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m"])
def test_folders_with_control_characters_are_refused(tmp_path, name):
    classes(tmp_path / "set", ("ant", name))
    with pytest.raises(UserError, match=r"name of class . in set, 'a\\.*holds the character"):
        opened(tmp_path / "set")


def test_comma_hint_for_other_sources():
    with pytest.raises(UserError, match=r"has 1 names, .* or write --config\.data\.class_names="):
        open_source(DataRecipe(name="digits", class_names=("0,1,2,3,4,5,6,7,8,9",)))


def test_labels_from_1_are_named(tmp_path):
    pixels = np.zeros((6, 4, 4), np.uint8)
    labels = np.arange(6) % 3 + 1
    names = np.array(["none", "a", "b", "c"])
    np.savez(
        tmp_path / "x.npz",
        **{"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels},
    )
    says = r"labels of x go from 1 to 3, but classes count from 0; subtract 1 from every label"
    for more in ({}, {"class_names": tuple(names)}, {"class_names": ("a", "b", "c")}):
        with pytest.raises(UserError, match=says if len(more.get("class_names", ())) != 3 else "x"):
            open_source(DataRecipe(name="npz", path=str(tmp_path / "x.npz"), **more))


def test_a_class_without_images_does_not_ask_for_a_lower_ipc():
    with pytest.raises(UserError, match="class 'b' has only 0 training images; add some") as e:
        check_class_sizes(np.array([0, 0, 2, 2]), 2, ("a", "b", "c"))
    assert "lower ipc" not in str(e.value)


# --- distilled sets in numbered folders ---


def test_distilled_folders_that_count_from_1(tmp_path):
    for c in range(1, 13):
        fill(tmp_path / str(c), [c, 100 + c])
    found = delt_jax.load(tmp_path)
    assert found.class_names == tuple(str(c) for c in range(1, 13))
    assert found.images[::2, 0, 0, 0].tolist() == list(range(1, 13))
    named = delt_jax.load(tmp_path, class_names=[f"n{c}" for c in range(1, 13)])
    assert named.class_names[9] == "n10"
    np.testing.assert_array_equal(named.images, found.images)


def test_distilled_folders_of_some_classes_of_many_need_names(tmp_path):
    for c in (17, 3, 998):
        fill(tmp_path / f"new{c:03}", [c % 256])
    with pytest.raises(
        UserError, match=r"class is missing or there twice\. If they are classes of"
    ):
        delt_jax.load(tmp_path)
    found = delt_jax.load(tmp_path, class_names=("three", "seventeen", "last"))
    assert found.images[:, 0, 0, 0].tolist() == [3, 17, 998 % 256]
    assert found.class_names == ("three", "seventeen", "last")
    fill(tmp_path / "new0017", [1])
    with pytest.raises(UserError, match="there twice"):
        delt_jax.load(tmp_path, class_names=("a", "b", "c", "d"))
