"""Everything on disk: atomicity, locks, round trips, and damage that is told in a sentence."""

import ast
import errno
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch_pickles import Attack

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.formats import distilled
from delt_jax.labels import soft_labels
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.recovery import ranking
from delt_jax.recovery.selection import Ranking
from delt_jax.store import files
from delt_jax.store.log import MetricsLog
from delt_jax.store.workdir import WorkDir, changes

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refuse(code: int):
    def raise_it(*_, **__):
        raise OSError(code, os.strerror(code))

    return raise_it


# --- files ---

WRITERS = {
    "bytes": lambda path, value: files.write_bytes(path, bytes([value])),
    "json": files.write_json,
    "npz": lambda path, value: files.write_npz(path, a=np.full(3, value)),
}


@pytest.mark.parametrize(
    ("writer", "broken"),
    [
        *((writer, broken) for writer in WRITERS for broken in ("os.replace", "os.fsync")),
        ("npz", "numpy.savez_compressed"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, writer, broken):
    path = tmp_path / "file"
    WRITERS[writer](path, 1)
    before = content_of(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(broken, refuse(errno.ENOSPC))
        with pytest.raises(UserError, match="No space left on device; free the disk") as e:
            WRITERS[writer](path, 2)
    assert str(path) in str(e.value)
    assert content_of(tmp_path) == before  # and no temporary
    WRITERS[writer](path, 2)
    assert list(content_of(tmp_path)) == ["file"]
    assert content_of(tmp_path) != before


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_bytes(tmp_path / "file", b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(tmp_path / "file", b"new")
    assert content_of(tmp_path) == {"file": b"old"}


@FULL
def test_a_really_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_, real=open: real("/dev/full", "wb"))
    with pytest.raises(UserError, match="No space left on device"):
        files.write_bytes(tmp_path / "file", bytes(100_000))
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch, code):
    monkeypatch.setattr("builtins.open", refuse(code))
    with pytest.raises(UserError, match=f"cannot be written: {os.strerror(code)}") as e:
        files.write_json(tmp_path / "file", {})
    assert str(tmp_path / "file") in str(e.value)


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.json"
    value = {"name": "π", "numbers": [1, 2.5, None, True]}
    files.write_json(path, value)
    assert files.read_json(path) == value
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="is damaged") as e:
        files.read_json(path)
    assert str(path) in str(e.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is damaged"):
        files.read_json(path)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        files.read_json(path)


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "cut": content[:-40],
        "half": content[:middle],
        "empty": b"",
        "other": b"hello",
        "altered": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
    }


@pytest.mark.parametrize("kind", damaged(bytes(2)))
def test_npz_damage(tmp_path, kind):
    path = tmp_path / "a.npz"
    array = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
    files.write_npz(path, a=array, b=3)
    read = files.read_npz(path, "recover")
    np.testing.assert_array_equal(read["a"], array, strict=True)
    assert read["b"] == 3
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(UserError, match=r"missing or damaged .* run the recover stage") as e:
        files.read_npz(path, "recover")
    assert str(path) in str(e.value)


def test_replacing_folder_swaps_as_a_whole(tmp_path):
    path = tmp_path / "artefact"
    with files.replacing_folder(path) as folder:
        (folder / "a").write_text("1")
        (folder / "b").mkdir()
        assert not path.exists()
    with files.replacing_folder(path) as folder:
        assert list(folder.iterdir()) == []
        (folder / "c").write_text("2")
        assert content_of(path) == {"a": b"1"}  # still the old one
    assert content_of(tmp_path) == {"artefact/c": b"2"}
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), UserError("x")])
def test_replacing_folder_keeps_the_old_one_on_failure(tmp_path, error):
    path = tmp_path / "artefact"
    with files.replacing_folder(path) as folder:
        (folder / "a").write_text("1")

    def fail():
        with files.replacing_folder(path) as folder:
            (folder / "a").write_text("2")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert content_of(path) == {"a": b"1"}
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_replacing_folder_on_a_full_disk(tmp_path):
    with (
        pytest.raises(UserError, match="cannot be written: No space left"),
        files.replacing_folder(tmp_path / "artefact"),
    ):
        refuse(errno.ENOSPC)()
    assert list(tmp_path.iterdir()) == []


def test_replacing_folder_clears_what_a_killed_run_left(tmp_path):
    for name in (".artefact.tmp", ".artefact.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "junk").write_text("x")
    with files.replacing_folder(tmp_path / "artefact") as folder:
        (folder / "a").write_text("1")
    assert content_of(tmp_path) == {"artefact/a": b"1"}
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_content_hash_separates_its_parts():
    hashes = [files.content_hash(*p) for p in ([b"ab"], [b"a", b"b"], [b"", b"ab"], [b"ac"])]
    assert len(set(hashes)) == 4
    assert files.content_hash(b"ab") == hashes[0]


# --- work directory ---


@pytest.fixture
def workdir(tmp_path):
    made = WorkDir(tmp_path / "run")
    made.open(Recipe())
    yield made
    made.close()


def test_open_writes_the_recipe(tmp_path):
    made = WorkDir(tmp_path / "deep" / "run")
    made.check()
    assert not made.path.parent.exists()  # checking touches nothing
    made.open(Recipe(seed=7, data=DataRecipe(class_names=("a", "b"))))
    made.close()
    config = json.loads((made.path / "config.json").read_text())
    assert config["format"] == "delt_jax work directory, version 1"
    assert config["settings"]["seed"] == 7
    assert config["settings"]["data.class_names"] == ["a", "b"]
    assert config["settings"]["recover.iterations"] == Recipe().recover.iterations


def test_open_takes_over_its_own_folder(tmp_path):
    for seed in (1, 2):
        made = WorkDir(tmp_path)
        made.open(Recipe(seed=seed))
        (tmp_path / "kept").write_text("x")
        made.close()
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["seed"] == 2
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "held",
    [
        {"thesis.txt": "hello"},
        {"config.json": "{}"},
        {"config.json": "[1]"},
        {"config.json": "no json"},
        {"config.json": '{"format": "of another program"}'},
    ],
)
def test_foreign_folder_is_refused_and_untouched(tmp_path, held):
    for name, text in held.items():
        (tmp_path / name).write_text(text)
    for act in (WorkDir.check, lambda w: w.open(Recipe())):
        with pytest.raises(UserError, match="not a delt_jax run's") as e:
            act(WorkDir(tmp_path))
        assert str(tmp_path) in str(e.value)
    assert content_of(tmp_path) == {k: v.encode() for k, v in held.items()}


def test_file_as_workdir(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file is a file; choose a folder"):
        WorkDir(tmp_path / "file").open(Recipe())
    assert content_of(tmp_path) == {"file": b"x"}
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        WorkDir(tmp_path / "file" / "run").open(Recipe())


def test_full_disk_at_the_first_open_does_not_spoil_the_folder(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", refuse(errno.ENOSPC))
        made = WorkDir(tmp_path)
        with pytest.raises(UserError, match="No space left"):
            made.open(Recipe())
        made.close()
    made = WorkDir(tmp_path)
    made.open(Recipe())
    made.close()


def test_killed_first_open_does_not_spoil_the_folder(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.tmp").write_text("{")
    WorkDir(tmp_path).check()


def test_second_open_is_refused(workdir):
    before = content_of(workdir.path)
    second = WorkDir(workdir.path)
    with pytest.raises(UserError, match="Another process is at work in") as e:
        second.open(Recipe(seed=5))
    assert str(workdir.path) in str(e.value)
    assert content_of(workdir.path) == before
    second.close()
    workdir.close()
    second.open(Recipe(seed=5))
    second.close()


def test_lock_holds_between_processes_and_ends_with_them(tmp_path):
    script = (
        "import sys; from delt_jax.recipe import Recipe; from delt_jax.store import workdir; "
        "w = workdir.WorkDir(sys.argv[1]); w.open(Recipe()); print('open', flush=True); "
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match="Another process"):
            WorkDir(tmp_path / "run").open(Recipe())
    finally:
        other.kill()
        other.communicate()
    made = WorkDir(tmp_path / "run")
    made.open(Recipe())  # the lock of a killed process is no obstacle
    with open(tmp_path / "run" / ".lock") as f, pytest.raises(BlockingIOError):
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    made.close()


def test_manifests(workdir):
    assert workdir.manifest("teacher/manifest.json") is None
    with pytest.raises(UserError, match=r"run the squeeze stage first \(--stages=squeeze\)"):
        workdir.needed("teacher/manifest.json", "squeeze")
    (workdir.path / "teacher").mkdir()
    spec = {"name": "conv3", "num_classes": 1, "image_size": 8, "channels": 1}
    constants = {"mean": [0.5], "std": [0.5]}
    manifest = {"inputs": {}, "hash": "x", "spec": spec, "normalisation": constants}
    manifest |= {"class_names": ["a"], "accuracy": 1}
    files.write_json(workdir.path / "teacher/manifest.json", manifest)
    assert workdir.manifest("teacher/manifest.json") == manifest
    assert workdir.needed("teacher/manifest.json", "squeeze") == manifest
    del manifest["inputs"]  # says not what it is made from
    files.write_json(workdir.path / "teacher/manifest.json", manifest)
    assert workdir.manifest("teacher/manifest.json") is None
    (workdir.path / "teacher/manifest.json").write_text('{"hash"')
    assert workdir.manifest("teacher/manifest.json") is None
    with pytest.raises(DamagedArtefact, match=r"manifest\.json is damaged .* --verify"):
        workdir.needed("teacher/manifest.json", "squeeze")


def test_partial_keeps_parts_of_the_same_inputs_only(workdir):
    inputs = {"seed": 1, "class_names": ("a", "b"), "settings": {"rate": 0.1}}
    folder = workdir.partial("distilled", inputs)
    (folder / "part").write_text("x")
    assert workdir.partial("distilled", dict(inputs)) == folder
    assert (folder / "part").exists()
    workdir.partial("other", {"seed": 9})
    assert (folder / "part").exists()
    workdir.partial("distilled", inputs | {"seed": 2})
    assert not (folder / "part").exists()
    (folder / "part").write_text("x")
    (folder / "inputs.json").unlink()  # of unknown origin
    workdir.partial("distilled", inputs | {"seed": 2})
    assert not (folder / "part").exists()


def test_changes_phrases():
    old = {"seed": 1, "names": ("a", "b"), "gone": 3, "text": "x" * 100, "same": (1, (2,))}
    new = {"seed": 2, "names": ["a", "b"], "new": None, "text": "y", "same": [1, [2]]}
    phrases = changes(old, new)
    assert phrases[:3] == ["gone is gone", "new is new", "seed was 1, is 2"]
    assert phrases[3].startswith('text was "xxx')
    assert phrases[3].endswith('..., is "y"')
    assert len(phrases[3]) < 100
    assert len(phrases) == 4
    assert changes(old, dict(old)) == []


# --- log ---


def log_lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_log_appends_lines(tmp_path):
    for step in range(2):
        log = MetricsLog(tmp_path)
        log.write("squeeze", step, loss=0.5, note="α", active=[1, 2])
        log.close()
    lines = [json.loads(line) for line in log_lines(tmp_path)]
    assert [line["step"] for line in lines] == [0, 1]
    assert lines[0].keys() == {"time", "stage", "step", "loss", "note", "active"}
    assert lines[0] == lines[0] | {"stage": "squeeze", "loss": 0.5, "note": "α", "active": [1, 2]}
    assert not (tmp_path / "tensorboard").exists()


def test_log_without_a_folder_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = MetricsLog(None, ("tensorboard",))
    log.write("squeeze", 0, loss=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_log_is_on_disk_before_it_is_closed(tmp_path):
    log = MetricsLog(tmp_path)
    log.write("squeeze", 0, loss=1.0)
    assert len(log_lines(tmp_path)) == 1
    log.close()


def test_log_repairs_a_torn_last_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "lo')
    log = MetricsLog(tmp_path)
    log.write("rank", 2)
    log.close()
    lines = log_lines(tmp_path)
    assert lines[:2] == ['{"step": 0}', '{"step": 1, "lo']
    assert json.loads(lines[2])["step"] == 2
    assert len(lines) == 3


@pytest.mark.parametrize("held", ["", '{"step": 0}\n'])
def test_log_adds_no_line_to_a_whole_file(tmp_path, held):
    (tmp_path / "metrics.jsonl").write_text(held)
    log = MetricsLog(tmp_path)
    log.write("rank", 1)
    log.close()
    assert len(log_lines(tmp_path)) == len(held.splitlines()) + 1


@FULL
def test_log_on_a_full_disk(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog(tmp_path)
    for act in (lambda: log.write("rank", 1), log.close):
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No space left"):
            act()


def test_log_that_cannot_be_opened(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        MetricsLog(tmp_path)


# --- ranking ---

NAMES = ('a "quoted", name', "plain", "naïve\nname", "d", "e", "f")


def write_ranking(folder: Path) -> Ranking:
    draw = np.random.default_rng(0)
    made = Ranking(
        np.array([0, 1, 2, 0, 1, 2], np.int32),
        np.array([1 / 3, 1e-30, 1, 0, 0.1, draw.random()], np.float32),
    )
    ranking.write(
        folder, made, NAMES, ("x", "y, z", "w"), {"inputs": {"teacher": "t1"}, "seconds": 1.0}
    )
    return made


def test_ranking_round_trip_is_exact(tmp_path):
    made = write_ranking(tmp_path)
    read = ranking.read(tmp_path, "t1")
    np.testing.assert_array_equal(read.labels, made.labels, strict=True)
    np.testing.assert_array_equal(read.probabilities, made.probabilities, strict=True)
    manifest = files.read_json(tmp_path / ranking.MANIFEST)
    assert manifest["class_names"] == ["x", "y, z", "w"]
    assert manifest["seconds"] == 1.0
    header = (tmp_path / ranking.TABLE).read_text().splitlines()[0]
    assert header == "index,name,label,class_name,probability"


def test_ranking_altered(tmp_path):
    write_ranking(tmp_path)
    path = tmp_path / ranking.TABLE
    content = path.read_bytes()
    for altered in (content[:-1], content.replace(b"plain", b"plane"), content + b"\n"):
        path.write_bytes(altered)
        with pytest.raises(UserError, match=r"ranking\.csv was changed since it was written"):
            ranking.read(tmp_path, "t1")
    path.unlink()
    with pytest.raises(UserError, match=r"ranking\.csv is missing"):
        ranking.read(tmp_path, "t1")


def test_ranking_of_another_teacher(tmp_path):
    write_ranking(tmp_path)
    with pytest.raises(UserError, match="is another teacher's; run the rank stage again"):
        ranking.read(tmp_path, "t2")


# --- distilled set ---


def write_distilled(folder: Path, channels: int) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, channels), np.uint8)
    content = distilled.write_images(folder, images, 2)
    manifest = {"class_names": ["a", "b", "c"], "ipc": 2, "hash": content, "storage": "png"}
    files.write_json(folder / "manifest.json", manifest)
    return images


@pytest.mark.parametrize("channels", [1, 3])
def test_distilled_round_trip(tmp_path, channels):
    images = write_distilled(tmp_path, channels)
    read = distilled.read(tmp_path)
    np.testing.assert_array_equal(read.images, images, strict=True)
    np.testing.assert_array_equal(read.labels, np.array([0, 0, 1, 1, 2, 2], np.int32), strict=True)
    assert read.class_names == ("a", "b", "c")
    assert read.manifest["ipc"] == 2
    assert distilled.is_whole(tmp_path, read.manifest)
    path = tmp_path / "images" / "00001" / "00000.png"  # class 1, rank 0
    np.testing.assert_array_equal(
        np.asarray(Image.open(path)).reshape(8, 8, channels), images[1 * 2 + 0]
    )


def test_distilled_missing_image(tmp_path):
    write_distilled(tmp_path, 1)
    path = tmp_path / "images" / "00002" / "00001.png"
    path.unlink()
    manifest = files.read_json(tmp_path / "manifest.json")
    assert not distilled.is_whole(tmp_path, manifest)
    with pytest.raises(UserError, match="is missing or damaged; run the recover stage") as e:
        distilled.read(tmp_path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("kind", damaged(bytes(2)))
def test_distilled_damaged_image(tmp_path, kind):
    write_distilled(tmp_path, 3)
    path = tmp_path / "images" / "00000" / "00001.png"
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(UserError, match="run the recover stage again"):
        distilled.read(tmp_path)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((8, 8), np.uint8),  # grey among RGB
        np.zeros((4, 8, 3), np.uint8),  # of another size
        np.zeros((8, 8, 4), np.uint8),
    ],
)
def test_distilled_replaced_image(tmp_path, pixels):
    write_distilled(tmp_path, 3)
    Image.fromarray(pixels).save(tmp_path / "images" / "00000" / "00001.png")
    with pytest.raises(UserError, match="not those its manifest describes") as e:
        distilled.read(tmp_path)
    assert str(tmp_path) in str(e.value)


def test_jpeg_is_smaller_lossy_and_read_back(tmp_path):
    ramp = np.linspace(0, 255, 32)
    image = np.add.outer(ramp, ramp)[None, :, :, None] / 2
    images = np.repeat(image, 3, axis=-1).astype(np.uint8)
    content = distilled.write_images(tmp_path, images, 1, "jpeg75")
    manifest = {"class_names": ["a"], "ipc": 1, "hash": content, "storage": "jpeg75"}
    files.write_json(tmp_path / "manifest.json", manifest)
    assert (tmp_path / "images/00000/00000.jpg").is_file()
    assert distilled.is_whole(tmp_path, manifest)
    error = np.abs(distilled.read(tmp_path).images.astype(int) - images)
    assert 0 < error.mean() < 3


def test_distilled_one_bit_and_order_matter(tmp_path):
    images = write_distilled(tmp_path, 1)
    flipped = images.copy()
    flipped[4, 0, 0, 0] ^= 1
    for other in (flipped, images[::-1]):
        distilled.write_images(tmp_path, other, 2)
        with pytest.raises(UserError, match="not those its manifest describes"):
            distilled.read(tmp_path)
    distilled.write_images(tmp_path, images, 2)
    distilled.read(tmp_path)


# --- soft labels ---


def write_soft_labels(folder: Path) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(30, 10)).astype(np.float32)
    soft_labels.write(folder, logits, {"distilled": "d1", "views": "none"})
    return logits


def test_soft_labels_round_trip(tmp_path):
    logits = write_soft_labels(tmp_path)
    np.testing.assert_array_equal(soft_labels.read(tmp_path, "d1"), logits, strict=True)
    manifest = files.read_json(tmp_path / "manifest.json")
    assert manifest["bytes"] == (tmp_path / "logits.npz").stat().st_size
    assert manifest["views"] == "none"


def test_soft_labels_of_another_set(tmp_path):
    write_soft_labels(tmp_path)
    with pytest.raises(UserError, match="belong to another distilled set; run the relabel stage"):
        soft_labels.read(tmp_path, "d2")


@pytest.mark.parametrize("kind", damaged(bytes(2)))
def test_soft_labels_damaged(tmp_path, kind):
    write_soft_labels(tmp_path)
    path = tmp_path / "logits.npz"
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(UserError, match=r"logits\.npz is .*damaged.* run the relabel stage again"):
        soft_labels.read(tmp_path, "d1")


def test_soft_labels_replaced_or_missing(tmp_path):
    logits = write_soft_labels(tmp_path)
    for arrays in ({"logits": logits + 1}, {"other": logits}):
        files.write_npz(tmp_path / "logits.npz", **arrays)
        with pytest.raises(UserError, match="run the relabel stage again"):
            soft_labels.read(tmp_path, "d1")
    (tmp_path / "logits.npz").unlink()
    with pytest.raises(UserError, match="run the relabel stage again"):
        soft_labels.read(tmp_path, "d1")


# --- bytes of arrays ---


@pytest.mark.parametrize("dtype", ["uint8", "<f2", "<f4", ">i4", "bool"])
@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 2)])
def test_a_streamed_npy_is_read_as_any_other(tmp_path, dtype, sizes):
    """Block by block, with a header of version 1.0 that numpy reads, and mapped without a copy."""
    path = tmp_path / "a.npy"
    array = np.arange(5 * 3 * 2).reshape(5, 3, 2).astype(dtype)
    blocks = np.split(array, np.cumsum(sizes)[:-1])
    files.write_npy(path, array.shape, iter(blocks))
    np.testing.assert_array_equal(np.load(path), array, strict=True)
    mapped = np.load(path, mmap_mode="r")
    np.testing.assert_array_equal(mapped, array, strict=True)
    assert mapped.flags.c_contiguous
    assert not mapped.flags.f_contiguous
    content = path.read_bytes()
    assert content[:8] == b"\x93NUMPY\x01\x00"
    length = int.from_bytes(content[8:10], "little")
    assert (10 + length) % 64 == 0  # the first value of a mapped array is aligned
    assert content[9 + length : 10 + length] == b"\n"
    header = ast.literal_eval(content[10 : 10 + length].decode("latin1"))
    assert header == {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": (5, 3, 2),
    }
    assert content[10 + length :] == array.tobytes()
    np.save(tmp_path / "b.npy", array)
    assert content == (tmp_path / "b.npy").read_bytes()


def test_a_streamed_npy_takes_blocks_of_any_layout(tmp_path):
    array = np.arange(24.0).reshape(4, 2, 3)
    turned = [np.asfortranarray(array[:2]), array[:1:-1][::-1]]
    files.write_npy(tmp_path / "a.npy", (4, 2, 3), turned)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize(
    ("write", "compressed"), [(files.write_npz, True), (files.write_npz_fast, False)]
)
def test_npz_members(tmp_path, write, compressed):
    path = tmp_path / "a.npz"
    write(path, ones=np.ones((50, 50), np.float32), name=np.array("ü"))
    with zipfile.ZipFile(path) as archive:
        kinds = {member.filename: member.compress_type for member in archive.infolist()}
        assert archive.testzip() is None
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    assert kinds == {"ones.npy": kind, "name.npy": kind}
    read = files.read_npz(path, "relabel")
    np.testing.assert_array_equal(read["ones"], np.ones((50, 50), np.float32), strict=True)
    assert str(read["name"]) == "ü"


def test_blocks_are_written_in_order(tmp_path):
    files.write_blocks(tmp_path / "a", (bytes([i]) * i for i in range(4)))
    assert (tmp_path / "a").read_bytes() == b"\x01\x02\x02\x03\x03\x03"


def test_json_is_readable_text(tmp_path):
    files.write_json(tmp_path / "a.json", {"ä": [1]})
    assert (tmp_path / "a.json").read_bytes() == '{\n "ä": [\n  1\n ]\n}\n'.encode()


def test_content_hashes_never_change():
    """SHA-256 of each part after its length in eight bytes, most significant first."""
    whole = b"\x00" * 7 + b"\x02" + b"ab" + b"\x00" * 6 + b"\x01\x00" + b"c" * 256
    expected = hashlib.sha256(whole).hexdigest()[:16]
    assert files.content_hash(b"ab", b"c" * 256) == expected


# --- links, caches, folders between two renames ---


def test_a_link_is_the_same_file_and_replaces_an_older_one(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    files.link(source, target)
    assert target.samefile(source)
    files.link(source, target)  # again, though they are one already
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_where_the_disk_cannot_link_a_file_is_copied(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("text")
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    files.link(tmp_path / "a", tmp_path / "b")
    assert content_of(tmp_path) == {"a": b"text", "b": b"text"}
    assert not (tmp_path / "a").samefile(tmp_path / "b")


def test_a_cache_is_made_once_and_again_when_it_is_damaged(tmp_path):
    path, calls = tmp_path / "two" / "deep" / "cache.npz", []

    def make():
        calls.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(files.cached_npz(path, make)["a"], [0, 1, 2])
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:-30])
    for _ in range(2):
        np.testing.assert_array_equal(files.cached_npz(path, make)["a"], [0, 1, 2])
    assert len(calls) == 2


def test_a_kill_between_two_renames_leaves_the_folder_before(tmp_path):
    path, before = tmp_path / "artefact", tmp_path / ".artefact.old"
    assert files.replaced_folder(path) == path  # neither is there
    before.mkdir()
    assert files.replaced_folder(path) == before
    path.mkdir()
    assert files.replaced_folder(path) == path  # its remains
    files.delete_folder(path)
    assert list(tmp_path.iterdir()) == []
    before.mkdir()
    files.delete_folder(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "artefact"
    with files.replacing_folder(path) as folder:
        (folder / "a").write_text("1")
    replace = os.replace

    def fail_for_the_new_one(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new_one)
    with (
        pytest.raises(UserError, match="artefact cannot be written: Input/output error"),
        files.replacing_folder(path) as folder,
    ):
        (folder / "a").write_text("2")
    assert content_of(path) == {"a": b"1"}
    assert not (tmp_path / ".artefact.old").exists()


def test_a_folder_is_made_with_those_above_it(tmp_path):
    with files.replacing_folder(tmp_path / "two" / "deep" / "artefact") as folder:
        (folder / "a").write_text("1")
    assert content_of(tmp_path) == {"two/deep/artefact/a": b"1"}


def test_the_first_error_is_told_even_if_nothing_is_left_to_clear(tmp_path):
    def fail():
        with files.replacing_folder(tmp_path / "artefact") as folder:
            folder.rmdir()
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        fail()


def test_clearing_what_is_not_there_is_no_error(tmp_path):
    files.delete_folder(tmp_path / "artefact")
    with files.replacing_folder(tmp_path / "artefact"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


# --- pipes where files were: nothing waits for their other end ---


def test_a_pipe_is_no_file(tmp_path):
    pipe = tmp_path / "file"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"is damaged \(.*a named pipe, not a file"):
        files.read_json(pipe)
    with pytest.raises(UserError, match="missing or damaged"):
        files.read_npz(pipe, "recover")
    with pytest.raises(OSError, match="a named pipe, not a file"):
        files.file_checksum(pipe)
    (tmp_path / "metrics.jsonl").symlink_to("file")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written"):
        MetricsLog(tmp_path)


def test_objects_in_an_npz_are_never_unpickled(tmp_path):
    path, touched = tmp_path / "a.npz", tmp_path / "touched"
    np.savez(path, a=np.array([Attack(touched)], dtype=object))
    with pytest.raises(UserError, match="missing or damaged"):
        files.read_npz(path, "recover")
    assert not touched.exists()


def test_what_can_be_replaced(tmp_path, monkeypatch):
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    files.check_replaceable(folder)  # not there yet
    folder.mkdir()
    file.touch()
    link.symlink_to(folder)
    files.check_replaceable(folder)
    files.check_replaceable(link)
    with pytest.raises(UserError, match="is a file where a folder belongs"):
        files.check_replaceable(file)
    link.unlink()
    link.symlink_to("link")
    with pytest.raises(UserError, match="leads nowhere"):
        files.check_replaceable(link)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(UserError, match="a disk is mounted at"):
        files.check_replaceable(folder)
    files.check_replaceable(tmp_path / "not there")


def test_a_link_is_deleted_with_what_it_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a").write_text("1")
    (tmp_path / "link").symlink_to("disk")
    files.delete_folder(tmp_path / "link")
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_are_deleted_by_their_age(tmp_path):
    for name, age in ((".old.tmp", 100), (".young.tmp", 10), ("a.tmp", 100), (".kept", 100)):
        (tmp_path / name).touch()
        written = time.time() - age
        os.utime(tmp_path / name, (written, written))
    (tmp_path / ".link.tmp").symlink_to("nowhere")
    files.clear_temporaries(tmp_path, 50)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".kept", ".young.tmp", "a.tmp"]
    (tmp_path / ".now.tmp").touch()
    files.clear_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".kept", "a.tmp"]
    files.clear_temporaries(tmp_path / "missing")


def test_leftovers_of_one_folder(tmp_path):
    for name in (".a.tmp", ".a.new", ".a.old", ".b.tmp", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    files.clear_leftovers(tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.tmp", "a"]
    (tmp_path / "a").rename(tmp_path / ".a.old")
    files.clear_leftovers(tmp_path / "a")  # nothing has taken its place
    assert content_of(tmp_path) == {".b.tmp/x": b".b.tmp", "a/x": b"a"}
