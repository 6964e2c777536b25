"""Image folders: layouts, orders, splits, odd files, and what is refused in a sentence."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delt_jax.data import Source, batches, cache_in_memory, measure_normalisation, open_source
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe


def picture(number: int, side: int = 8, channels: int = 3) -> Image.Image:
    """A flat image whose red (or grey) is its number."""
    pixels = np.full((side, side, channels), number, np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def fill(folder: Path, numbers, ending: str = "png", **look) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        picture(n, **look).save(folder / f"{n:03}.{ending}")
    return folder


def open_folder(root: Path, cache: Path | None = None, **settings) -> Source:
    settings = {"name": "folder", "path": str(root), "workers": 0} | settings
    return open_source(DataRecipe(**settings), cache)


def numbers_of(examples) -> list[int]:
    pixels = examples.images(np.arange(len(examples)))
    return [int(p.max()) for p in pixels]


@pytest.fixture
def pets(tmp_path) -> Path:
    """ROOT/CLASS/*: ten cats numbered from 10, ten dogs from 100."""
    fill(tmp_path / "pets/dog", range(100, 110))
    fill(tmp_path / "pets/cat", range(10, 20))
    return tmp_path / "pets"


# --- layouts ---


def test_a_folder_per_class_is_split_evenly(pets):
    source = open_folder(pets)
    assert source.name == "pets"
    assert source.class_names == ("cat", "dog")
    assert (len(source.train), len(source.test)) == (16, 4)
    np.testing.assert_array_equal(np.bincount(source.test.labels), [2, 2])
    for split in (source.train, source.test):
        assert [n >= 100 for n in numbers_of(split)] == split.labels.tolist()
        assert [int(n.split("/")[1][:3]) for n in split.names] == numbers_of(split)
        assert split.labels.dtype == np.int32
    assert sorted(numbers_of(source.train) + numbers_of(source.test)) == [
        *range(10, 20),
        *range(100, 110),
    ]


def test_the_split_is_seeded_and_sized(pets):
    first = list(open_folder(pets).test.names)
    assert list(open_folder(pets).test.names) == first
    assert list(open_folder(pets, split_seed=1).test.names) != first
    assert len(open_folder(pets, test_share=0.5).test) == 10
    prints = {open_folder(pets, **s).fingerprint for s in ({}, {"split_seed": 1}, {"fit": "pad"})}
    assert len(prints) == 3


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_train_and_test_folders(tmp_path, test_name):
    for c, name in enumerate(("ant", "bee")):
        fill(tmp_path / "train" / name, range(100 * c, 100 * c + 4))
        fill(tmp_path / test_name / name, range(100 * c + 50, 100 * c + 53))
    source = open_folder(tmp_path)
    assert numbers_of(source.train) == [*range(4), *range(100, 104)]
    assert numbers_of(source.test) == [*range(50, 53), *range(150, 153)]
    assert source.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.test.names[0] == f"{test_name}/ant/050.png"


def test_train_alone_is_split(tmp_path):
    for c, name in enumerate(("ant", "bee")):
        fill(tmp_path / "train" / name, range(100 * c, 100 * c + 5))
    source = open_folder(tmp_path)
    assert (len(source.train), len(source.test)) == (8, 2)


def test_tiny_imagenets_layout(tmp_path):
    for c, wnid in enumerate(("n02", "n01")):
        fill(tmp_path / "train" / wnid / "images", range(100 * c, 100 * c + 4), "JPEG")
    fill(tmp_path / "val/images", [7, 107, 8, 200], "JPEG")
    table = "007.JPEG\tn02\t0\t0\t7\t7\n107.JPEG\tn01\t0\t0\t7\t7\n008.JPEG\tn02\t0\t0\t7\t7\n"
    (tmp_path / "val/val_annotations.txt").write_text(table)
    fill(tmp_path / "test/images", [3], "JPEG")  # without labels: no split to score on
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    source = open_folder(tmp_path)
    assert source.class_names == ("n01", "n02")
    assert source.train.labels.tolist() == [0] * 4 + [1] * 4
    assert numbers_of(source.train) == [*range(100, 104), *range(4)]
    assert numbers_of(source.test) == [7, 8, 107]
    assert source.test.labels.tolist() == [1, 1, 0]
    listed = open_folder(tmp_path, classes=str(tmp_path / "wnids.txt"))
    assert listed.class_names == ("n02", "n01")
    assert listed.test.labels.tolist() == [0, 0, 1]
    (tmp_path / "val/val_annotations.txt").write_text("007.JPEG n02\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 1, is not a file and a class"):
        open_folder(tmp_path)


def test_class_lists_choose_and_order(tmp_path, pets):
    fill(pets / "eel", range(200, 205))
    listed = tmp_path / "order.txt"
    listed.write_text("# two of three\neel\n\ncat\n")
    source = open_folder(pets, classes=str(listed))
    assert source.class_names == ("eel", "cat")
    assert [int(n < 200) for n in numbers_of(source.train)] == source.train.labels.tolist()
    assert 100 not in numbers_of(source.train)
    listed.write_text("eel\nemu\n")
    with pytest.raises(UserError, match=r"lacks 1 of the 2 classes in data\.classes .*emu"):
        open_folder(pets, classes=str(listed))
    listed.write_text("eel\neel\n")
    with pytest.raises(UserError, match="repeats the class 'eel'"):
        open_folder(pets, classes=str(listed))
    with pytest.raises(UserError, match=r"cannot be read .*; name a file with a class per line"):
        open_folder(pets, classes="imagenet_100")


def test_names_can_replace_the_folders(pets):
    assert open_folder(pets, class_names=("a", "b")).class_names == ("a", "b")
    with pytest.raises(UserError, match=r"has 3 names, but .* has 2 classes"):
        open_folder(pets, class_names=("a", "b", "c"))


# --- size, channels and fit ---


@pytest.mark.parametrize(("side", "size"), [(8, 28), (29, 28), (50, 64), (100, 128), (300, 224)])
def test_the_size_is_derived(tmp_path, side, size):
    for name in ("a", "b"):
        fill(tmp_path / name, [1, 2], side=side)
    source = open_folder(tmp_path)
    assert (source.image_size, source.channels) == (size, 3)
    (note,) = source.notes
    assert f"data.image_size {size}" in note
    assert f"{side} px" in note
    assert open_folder(tmp_path, image_size=16, channels=1).notes == ()


def test_grey_folders_stay_grey_and_mixed_ones_become_colour(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, [40, 80], channels=1)
    grey = open_folder(tmp_path)
    assert grey.channels == 1
    fill(tmp_path / "a", [120], channels=3)
    mixed = open_folder(tmp_path)
    assert mixed.channels == 3
    assert sorted(numbers_of(mixed.train) + numbers_of(mixed.test)) == [40, 40, 80, 80, 120]


def test_every_kind_of_file_becomes_the_same_colour(tmp_path):
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    folder = tmp_path / "red"
    fill(tmp_path / "other", [1, 2])
    folder.mkdir()
    red.save(folder / "a.png")
    red.save(folder / "b.JPG", quality=100, subsampling=0)
    red.save(folder / "c.webp", lossless=True)
    red.save(folder / "d.bmp")
    red.convert("RGBA").save(folder / "e.png")
    red.quantize(4).save(folder / "f.png")
    red.convert("CMYK").save(folder / "g.jpeg", quality=100, subsampling=0)
    red.save(folder / "h.jpg", format="PNG")  # content counts, not the name
    red.save(folder / "i.webp", save_all=True, append_images=[picture(9)], lossless=True)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image either")
    source = open_folder(tmp_path, image_size=8, test_share=0.01)
    both = [
        (name, pixels)
        for part in (source.train, source.test)
        for name, pixels in zip(part.names, part.images(np.arange(len(part))), strict=True)
    ]
    colours = {name: pixels[4, 4] for name, pixels in both if name.startswith("red/")}
    assert len(colours) == 9
    for name, colour in colours.items():
        np.testing.assert_allclose(colour, [200, 0, 0], atol=3, err_msg=name)


def test_16_bit_grey_is_scaled(tmp_path):
    fill(tmp_path / "a", [1, 2])
    (tmp_path / "deep").mkdir()
    for i in (0, 1):
        deep = np.full((8, 8), 40000 + i * 257, np.uint16)
        Image.fromarray(deep).save(tmp_path / f"deep/{i}.png")
    source = open_folder(tmp_path, image_size=8, channels=1)
    values = {int(source.train.images(np.array([1]))[0].max()), int(source.test.images([1]).max())}
    assert values == {156, 157}  # 40000 / 257 = 155.6


def test_exif_orientation_is_honoured(tmp_path):
    fill(tmp_path / "a", [1, 2])
    (tmp_path / "b").mkdir()
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, :4] = 255  # left is white; orientation 6 turns it up
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in (0, 1):
        Image.fromarray(halves).save(tmp_path / f"b/{i}.jpg", quality=100, exif=exif)
    upright = open_folder(tmp_path, image_size=8).train.images(np.array([1]))[0]
    assert upright[1, 4].min() > 200
    assert upright[6, 4].max() < 50


# --- files that are not as they should be ---


@pytest.fixture
def broken(pets) -> Path:
    (pets / "cat/010.png").write_bytes(b"")
    content = (pets / "dog/105.png").read_bytes()
    (pets / "dog/105.png").write_bytes(content[: len(content) // 2])
    (pets / "dog/zz.jpg").write_text("this is no image")
    (pets / "dog/zzz.png").symlink_to("nowhere.png")
    return pets


def test_an_unreadable_file_stops_with_its_name(broken):
    source = open_folder(broken, test_share=0.01)
    with pytest.raises(UserError, match=r"/cat/010\.png cannot be read as an image \(empty file\)"):
        numbers_of(source.train)
    for name in ("105.png", "zz.jpg", "zzz.png"):
        (i,) = [i for i, n in enumerate(source.train.names) if n.endswith(f"dog/{name}")]
        with pytest.raises(UserError, match=f"dog/{name} cannot be read as an image") as e:
            source.train.images(np.array([0 * i + i]))
        assert "\n" not in str(e.value)
        assert 'data.unreadable "skip"' in str(e.value)


def test_unreadable_files_can_be_skipped(broken, tmp_path, monkeypatch):
    source = open_folder(broken, unreadable="skip", image_size=8, channels=3)
    assert len(source.train) + len(source.test) == 18
    assert 10 not in numbers_of(source.train) + numbers_of(source.test)
    (note,) = source.notes
    assert note.startswith("4 unreadable files are left out: ")
    assert f"{broken}/dog/zz.jpg" in note
    # The work directory remembers the outcome as long as nothing changes.
    (tmp_path / "work").mkdir()
    cache_in_memory(source, 0, tmp_path / "work/cache")
    with monkeypatch.context() as m:
        m.setattr("delt_jax.data.readable.Readable", None)
        again = open_folder(broken, tmp_path / "work/cache", unreadable="skip", channels=3)
    assert list(again.train.names) == list(source.train.names)
    os.utime(broken / "cat/011.png", ns=(1, 1))
    monkeypatch.setattr("delt_jax.data.readable.Readable", None)
    with pytest.raises(TypeError):  # it is called again
        open_folder(broken, tmp_path / "work/cache", unreadable="skip", channels=3)


def test_a_class_of_unreadable_files_is_named(pets):
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"no training image of class 'cat' \(10 files\); add"):
        open_folder(pets, unreadable="skip")


@pytest.mark.parametrize("seed", range(5))  # whatever is drawn
def test_the_split_is_drawn_from_files_that_can_be_read(pets, seed):
    tiny = sorted((pets / "cat").iterdir())
    for path in tiny[2:]:
        path.write_bytes(b"GIF89a")
    source = open_folder(pets, unreadable="skip", split_seed=seed)
    counts = [np.bincount(split.labels).tolist() for split in (source.train, source.test)]
    assert counts == [[1, 8], [1, 2]]


def test_an_empty_class_is_named(pets):
    (pets / "emu").mkdir()
    (pets / "emu/readme.txt").write_text("soon")
    with pytest.raises(
        UserError, match=r"no images in its class folder 'emu' \(but 1 \.txt\); add .* remove it\."
    ):
        open_folder(pets)
    (pets / "gnu").mkdir()
    with pytest.raises(UserError, match=r"its class folders 'emu', 'gnu' \(.* remove them\."):
        open_folder(pets)


def test_a_class_of_one_image_is_named(pets):
    fill(pets / "emu", [5])
    with pytest.raises(UserError, match=r"leaves no test image of class 'emu' \(1 file\); add"):
        open_folder(pets)


def test_a_test_split_without_a_class_is_named(tmp_path):
    for name in ("ant", "bee"):
        fill(tmp_path / "train" / name, range(3))
    fill(tmp_path / "val/bee", range(3))
    with pytest.raises(UserError, match=r"val lacks the class folder 'ant' \(1 in all\)"):
        open_folder(tmp_path)


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_a_folder_that_is_none(tmp_path, path):
    with pytest.raises(UserError, match="is not a folder; set it to"):
        open_folder(tmp_path / path if path else "")


def test_a_folder_of_bare_files(tmp_path):
    fill(tmp_path, range(3))
    with pytest.raises(UserError, match=r"has 0 class folders \(none\)"):
        open_folder(tmp_path)


def test_links_out_of_the_root_are_followed(pets, tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", range(200, 205))
    (pets / "emu").symlink_to(elsewhere)
    (pets / "cat/linked.png").symlink_to(elsewhere / "200.png")
    source = open_folder(pets)
    assert source.class_names == ("cat", "dog", "emu")
    assert numbers_of(source.train).count(200) + numbers_of(source.test).count(200) == 2


def test_odd_names(tmp_path):
    for c, name in enumerate(("a class", "\u00e9t\u00e9 \U0001f41d", "100% 'quoted', ok")):
        fill(tmp_path / name, range(100 * c, 100 * c + 5))
        (tmp_path / name / f"{100 * c:03}.png").rename(tmp_path / name / 'tr\u00e8s, "odd"\n.png')
    bad = os.fsencode(tmp_path / "a class") + b"/\xff\xfe.png"
    os.rename(os.fsencode(tmp_path / "a class/001.png"), bad)
    source = open_folder(tmp_path)
    assert source.class_names == ("100% 'quoted', ok", "a class", "\u00e9t\u00e9 \U0001f41d")
    assert sorted(numbers_of(source.train) + numbers_of(source.test)) == [
        *range(5),
        *range(100, 105),
        *range(200, 205),
    ]
    names = [*source.train.names, *source.test.names]
    assert "a class/\\xff\\xfe.png" in names
    "".join(names).encode()  # fit for a CSV file
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match=r"a folder whose name is not UTF-8, \\xff; rename it"):
        open_folder(tmp_path)


# --- reading and caching ---


def test_the_fingerprint_follows_names_sizes_and_times(pets):
    first = open_folder(pets).fingerprint
    assert open_folder(pets).fingerprint == first
    os.utime(pets / "cat/011.png", ns=(1, 1))
    second = open_folder(pets).fingerprint
    assert second != first
    (pets / "cat/011.png").rename(pets / "cat/911.png")
    third = open_folder(pets).fingerprint
    assert third not in (first, second)
    assert open_folder(pets, image_size=16).fingerprint != third


def test_copies_on_other_hosts_have_the_same_content(pets, tmp_path):
    ours = open_folder(pets)
    copied = shutil.copytree(pets, tmp_path / "copied", copy_function=shutil.copyfile)
    theirs = open_folder(copied)
    assert theirs.fingerprint != ours.fingerprint  # by the times
    assert theirs.content == ours.content
    (copied / "cat/011.png").write_bytes((copied / "cat/011.png").read_bytes() + b" ")
    assert open_folder(copied).content != ours.content


def test_workers_change_neither_order_nor_pixels(pets, monkeypatch):
    fill(pets / "cat", range(20, 90))
    alone = open_folder(pets, image_size=8)
    monkeypatch.setattr("delt_jax.data.stream.SECONDS_WORTH_WORKERS", 0.0)
    helped = open_folder(pets, image_size=8, workers=2)
    order = np.random.default_rng(0).permutation(len(alone.train))
    for size in (7, 48, 500):
        indices, images = zip(*batches(helped.train, size, order), strict=True)
        assert [len(i) for i in indices[:-1]] == [size] * (len(indices) - 1)
        np.testing.assert_array_equal(np.concatenate(indices), order)
        np.testing.assert_array_equal(np.concatenate(images), alone.train.images(order))
        if size == 7:
            monkeypatch.undo()  # the rest in this process: workers take seconds to start


def test_a_worker_names_the_unreadable_file(pets, monkeypatch):
    fill(pets / "cat", range(20, 90))
    (pets / "dog/109.png").write_bytes(b"")
    source = open_folder(pets, image_size=8, workers=1, test_share=0.01)
    monkeypatch.setattr("delt_jax.data.stream.SECONDS_WORTH_WORKERS", 0.0)
    with pytest.raises(UserError, match=r"dog/109\.png cannot be read as an image"):
        list(batches(source.train, 16))


def test_what_fits_is_decoded_once(pets, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    cache = tmp_path / "work/cache"
    source = open_folder(pets, image_size=8)
    cached = cache_in_memory(source, 1, cache)
    everything = np.arange(len(source.train))
    np.testing.assert_array_equal(cached.train.images(everything), source.train.images(everything))
    assert list(cached.train.names) == list(source.train.names)
    mean = measure_normalisation(DataRecipe(), cached)
    assert mean == measure_normalisation(DataRecipe(), source)
    assert len(list(cache.iterdir())) == 2  # the training pixels, mean and std: tests unread
    with monkeypatch.context() as m:
        m.setattr("delt_jax.data.source.decode", None)
        again = cache_in_memory(open_folder(pets, image_size=8), 1, cache)
        np.testing.assert_array_equal(
            again.train.images(everything), cached.train.images(everything)
        )
        assert measure_normalisation(DataRecipe(), again) == mean
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1])  # damaged: made again
    repaired = cache_in_memory(open_folder(pets, image_size=8), 1, cache)
    np.testing.assert_array_equal(
        repaired.train.images(everything), source.train.images(everything)
    )
    assert cache_in_memory(source, 0, cache).train is source.train
