"""Manifests that list their files, JSON from anywhere, links, locks, leftovers and caches."""

import errno
import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest

from delt_jax.data import in_memory
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.recipe import Recipe
from delt_jax.store import artefact, files, locks
from delt_jax.store.schema import mismatch
from delt_jax.store.workdir import WorkDir


@pytest.fixture
def sealed(tmp_path) -> Path:
    """The manifest of an artefact of three files, one of them beside its folder."""
    folder = tmp_path / "artefact"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"12345")
    (folder / "inner/b.bin").write_bytes(b"")
    (tmp_path / "summary.json").write_bytes(b"{}")
    parts = artefact.below(folder) | {"../summary.json": tmp_path / "summary.json"}
    artefact.seal(folder / "manifest.json", {"inputs": {"names": ("x", "y")}, "hash": "h"}, parts)
    return folder / "manifest.json"


def test_a_manifest_lists_its_files(sealed):
    manifest = artefact.read(sealed)
    assert sorted(manifest["files"]) == ["../summary.json", "a.bin", "inner/b.bin"]
    assert manifest["files"]["a.bin"] == {
        "bytes": 5,
        "sha256": "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5",
    }
    assert artefact.unsealed(manifest) == {"inputs": {"names": ["x", "y"]}, "hash": "h"}
    assert artefact.damage(sealed, manifest, contents=True) == ""
    written = list(reversed(manifest.items()))  # another order and layout mean nothing
    sealed.write_text(json.dumps(dict(written)))
    assert artefact.read(sealed) == manifest


@pytest.mark.parametrize(
    ("name", "act", "sentence", "needs_reading"),
    [
        ("a.bin", lambda p: p.write_bytes(b"1234"), "(it has 4 bytes, not 5)", False),
        ("a.bin", lambda p: p.write_bytes(b"12346"), "(its content has changed)", True),
        ("inner/b.bin", lambda p: p.unlink(), "is missing", False),
        ("inner/b.bin", lambda p: (p.unlink(), p.mkdir()), "(it is no file)", False),
        ("inner/b.bin", lambda p: (p.unlink(), os.mkfifo(p)), "(it is no file)", False),
        ("../summary.json", lambda p: p.write_bytes(b"{} "), "(it has 3 bytes, not 2)", False),
    ],
)
def test_damage_is_named(sealed, name, act, sentence, needs_reading):
    manifest, path = artefact.read(sealed), Path(os.path.normpath(sealed.parent / name))
    act(path)
    found = artefact.damage(sealed, manifest)
    assert bool(found) != needs_reading
    found = artefact.damage(sealed, manifest, contents=True)
    assert found.startswith(str(path))
    assert sentence in found
    if not name.startswith(".."):
        assert not artefact.is_intact(sealed.parent, name, manifest)
        with pytest.raises(DamagedArtefact, match="run the recover stage again with --verify"):
            artefact.check_file(sealed.parent, name, manifest, "recover")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b"{}",
        b'{"inputs": [], "hash": "h"}',
        b'{"inputs": {}, "hash": 3}',
        b'{"inputs": {}}',
        b'{"inputs": {}, "hash": "h"}',
        f'{{"inputs": {{"a": {DEEP}}}, "hash": "h"}}'.encode(),
        f'{{"inputs": {{"a": {"[" * 60 + "]" * 60}}}, "hash": "h"}}'.encode(),
        b'{"inputs": {}, "hash": "h", "ipc": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_manifest_is_damaged(tmp_path, content):
    (tmp_path / "evaluation").mkdir()
    path = tmp_path / "evaluation/manifest.json"
    path.write_bytes(content)
    with pytest.raises(DamagedArtefact, match=r"manifest\.json is damaged") as e:
        artefact.read(path, "evaluation", "evaluate")
    assert e.value.path == path
    assert "\n" not in str(e.value)
    assert WorkDir(tmp_path).manifest("evaluation/manifest.json") is None


@pytest.mark.parametrize("act", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero")])
def test_a_manifest_that_is_no_file(tmp_path, act):
    act(tmp_path / "manifest.json")
    with pytest.raises(DamagedArtefact, match=", not a file"):
        artefact.read(tmp_path / "manifest.json")


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "huge.json", "wb") as f:
        f.truncate(2**40)
    with pytest.raises(UserError, match="1099511627776 bytes, more than"):
        files.read_json(tmp_path / "huge.json")


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(hash="g"),
        lambda m: m["inputs"].update(more=1),
        lambda m: m.pop("hash"),
        lambda m: m["files"].pop("a.bin"),
        lambda m: m.update(checksum=None),
    ],
)
def test_an_edited_manifest_is_damaged(sealed, edit):
    manifest = files.read_json(sealed)
    edit(manifest)
    files.write_json(sealed, manifest)
    with pytest.raises(DamagedArtefact, match="it was changed since it was written"):
        artefact.read(sealed)


@pytest.mark.parametrize(
    "listed",
    [
        [],
        {"a.bin": 5},
        {"a.bin": {"bytes": "5", "sha256": ""}},
        {"/etc/passwd": {"bytes": 5, "sha256": ""}},
        {"../../a.bin": {"bytes": 5, "sha256": ""}},
        {"a\0b": {"bytes": 5, "sha256": ""}},
        {"": {"bytes": 5, "sha256": ""}},
    ],
)
def test_a_list_of_files_that_leads_elsewhere(sealed, listed):
    manifest = artefact.read(sealed) | {"files": listed}
    files.write_json(sealed, artefact.with_checksum(manifest))
    with pytest.raises(DamagedArtefact, match=r"is damaged \("):
        artefact.read(sealed)


def test_a_manifest_of_an_older_version_says_nothing_about_files(sealed):
    manifest = artefact.unsealed(artefact.read(sealed))
    files.write_json(sealed, manifest)
    (sealed.parent / "a.bin").unlink()
    assert artefact.read(sealed) == manifest
    assert not artefact.lists_files(manifest)
    assert artefact.damage(sealed, manifest, contents=True) == ""


@pytest.mark.parametrize(
    ("value", "shape", "wrong"),
    [
        (3, float, ""),
        (True, int, "it is no whole number"),
        (True, bool, ""),
        ([1, "a"], [int], "an entry of it is no whole number"),
        ({"a": None}, {"a": (int, type(None))}, ""),
        ({"a": "b"}, {"a": (int, type(None))}, "a is no whole number"),
        ({}, {"a?": int}, ""),
        ({"a": []}, {"a?": int}, "a is no whole number"),
        ({}, {"a": int}, "a is missing"),
        ([], {"a": int}, "it is no object"),
    ],
)
def test_shapes(value, shape, wrong):
    assert mismatch(value, shape) == wrong


# --- links ---


def filled(path: Path, text: str) -> None:
    with files.replacing_folder(path) as folder:
        (folder / "file").write_text(text)


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path):
    disk, run = tmp_path / "disk", tmp_path / "run"
    (disk / "d").mkdir(parents=True)
    run.mkdir()
    (run / "distilled").symlink_to(disk / "d")
    for text in ("1", "2", "3"):
        filled(run / "distilled", text)
        assert (run / "distilled").is_symlink()
        assert (disk / "d/file").read_text() == text
        assert [p.name for p in (*run.iterdir(), *disk.iterdir())] == ["distilled", "d"]
    files.delete_folder(run / "distilled")
    assert not list(run.iterdir())
    assert not list(disk.iterdir())


def opened(folder: Path) -> None:
    made = WorkDir(folder)
    made.open(Recipe())
    made.close()


@pytest.mark.parametrize("name", ["teacher", "experts", "distilled", "report"])
def test_links_that_cannot_work_are_refused_first(tmp_path, name):
    run, other = tmp_path / "run", tmp_path / "other"
    opened(run)
    link = run / name
    link.symlink_to(run / name)
    with pytest.raises(UserError, match="leads nowhere; delete it"):
        WorkDir(run).check()
    link.unlink()
    other.write_text("")
    link.symlink_to(other)
    with pytest.raises(UserError, match="is a file where a folder belongs; move it away"):
        WorkDir(run).check()
    link.unlink()
    other.unlink()
    other.mkdir()
    link.symlink_to(other)
    WorkDir(run).check()  # an empty folder
    (other / "holiday.jpg").write_text("")
    with pytest.raises(UserError, match="a folder that is not delt_jax's"):
        WorkDir(run).check()
    link.unlink()
    link.symlink_to("/proc")
    with pytest.raises(UserError, match="a disk is mounted at /proc"):
        WorkDir(run).check()


def test_nothing_is_written_through_links_of_temporary_names(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = tmp_path / "run"
    opened(run)
    (run / ".config.json.tmp").symlink_to(precious)
    (run / ".distilled.tmp").symlink_to(tmp_path)
    opened(run)
    (run / ".file.tmp").symlink_to(precious)
    files.write_bytes(run / "file", b"new")
    filled(run / "distilled", "1")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock is a symbolic link"):
        opened(run)
    assert precious.read_text() == "mine"
    assert (run / "file").read_bytes() == b"new"


def test_a_linked_work_directory_works(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    opened(tmp_path / "run")
    assert (tmp_path / "real/config.json").is_file()


def test_a_folder_where_a_file_belongs(tmp_path):
    (tmp_path / "file").mkdir()
    files.write_bytes(tmp_path / "file", b"1")
    assert (tmp_path / "file").read_bytes() == b"1"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/holiday.jpg").write_text("")
    with pytest.raises(UserError, match="full is a folder where a file belongs; move it away"):
        files.write_bytes(tmp_path / "full", b"1")
    assert (tmp_path / "full/holiday.jpg").exists()


# --- what a kill leaves ---


def test_leftovers_go_when_the_owner_starts(tmp_path):
    run = tmp_path / "run"
    opened(run)
    (run / "cache").mkdir()
    (run / "scores").mkdir()
    (run / "distilled.partial").mkdir()
    (run / "mine").mkdir()
    left = [".summary.json.tmp", "cache/.pixels.npy.tmp", "distilled.partial/.batch_000000.npz.tmp"]
    for name in left:
        (run / name).write_text("half")
    for name in (".teacher.tmp", ".report.old", ".evaluation.old", ".experts.old"):
        (run / name).mkdir()
    (run / "report").mkdir()
    kept = ["mine/.notes.tmp", ".mine.tmp", "scores/.0a1b.json.tmp"]  # may be another process's
    for name in kept:
        (run / name).write_text("x")
    opened(run)
    assert not any((run / name).exists() for name in (*left, ".teacher.tmp", ".report.old"))
    assert all((run / name).exists() for name in kept)
    assert (run / "evaluation").is_dir()  # stopped between two renames, it comes back
    assert (run / "experts").is_dir()
    os.utime(run / "scores/.0a1b.json.tmp", (0, 0))
    opened(run)
    assert not (run / "scores/.0a1b.json.tmp").exists()


# --- locks ---


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    opened(tmp_path / "run")
    out = capsys.readouterr().out
    assert f"without locks ({os.strerror(code)})" in out
    assert "Another process" not in out


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    held = locks.take(tmp_path / ".lock")
    with pytest.raises(locks.LockHeldElsewhere):
        locks.take(tmp_path / ".lock")
    held.close()
    locks.take(tmp_path / ".lock").close()


# --- caches ---


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32])
def test_a_cached_array_is_checked_when_it_is_loaded(tmp_path, dtype):
    path, array = tmp_path / "cache/a.npy", np.arange(24).reshape(6, 2, 2).astype(dtype)
    in_memory.write(path, array.shape, [array[:4], array[4:]])
    np.testing.assert_array_equal(in_memory.load(path, array.shape), array, strict=True)
    assert in_memory.load(path, (6, 4)) is None
    content = path.read_bytes()
    for place in range(len(content)):
        if content[place : place + 1] in (b" ", b"\n") and place < 128:
            continue  # padding of the header
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = in_memory.load(path, array.shape)
        if found is not None and place < 128:  # "=f8" says what "<f8" says
            np.testing.assert_array_equal(found, array, strict=True)
        else:
            assert found is None, place
    np.save(path, 3 * array)
    assert in_memory.load(path, array.shape) is None


def test_cached_arrays_are_made_again_where_they_were_changed(tmp_path):
    path, made = tmp_path / "cache/a.npz", []

    def make():
        made.append(1)
        return {"indices": np.arange(6).reshape(2, 3), "none": np.zeros(0)}

    for _ in range(3):
        found = files.cached_npz(path, make)
        np.testing.assert_array_equal(found["indices"], make()["indices"], strict=True)
        assert set(found) == {"indices", "none"}
    assert len(made) == 1 + 3
    made.clear()
    for spoil in (
        lambda: np.savez(path, indices=np.zeros((2, 3), int)),
        lambda: path.write_bytes(path.read_bytes()[:-9]),
        lambda: path.unlink(),
    ):
        spoil()
        files.cached_npz(path, make)
    assert len(made) == 3
