"""Several writers of one file, and what those leave that are killed."""

import json
import multiprocessing
import os
import time

import pytest

from delt_jax.comparison import cells
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir

LEFT = ".config.json.0123456789ab.tmp"  # as a killed writer of config.json leaves it


def write_often(path, count, failures):
    for i in range(count):
        try:
            files.write_json(path, {"i": i, "long": [1] * 5000})
        except Exception as e:
            failures.put(f"{type(e).__name__}: {e}")
    failures.put(None)


def test_processes_that_write_one_file_do_not_meet(tmp_path):
    """One file of a folder of scores that runs share."""
    path, context = tmp_path / "score.json", multiprocessing.get_context("spawn")
    failures = context.Queue()
    arguments = (path, 30, failures)
    writers = [context.Process(target=write_often, args=arguments) for _ in range(2)]
    for writer in writers:
        writer.start()
    said = []
    while said.count(None) < len(writers):
        said.append(failures.get(timeout=120))
        if path.exists():
            assert len(json.loads(path.read_text())["long"]) == 5000  # never a half
    for writer in writers:
        writer.join()
    assert said == [None, None]
    assert [p.name for p in tmp_path.iterdir()] == ["score.json"]


def test_writers_in_turns_have_names_of_their_own(tmp_path):
    path = tmp_path / "file"

    def outer():
        yield b"one "
        files.write_bytes(path, b"inner")
        assert path.read_bytes() == b"inner"
        yield b"two"

    files.write_blocks(path, outer())
    assert path.read_bytes() == b"one two"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("text")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="Input/output error"):
        files.link(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_dead_writers_left_goes_with_a_later_write(tmp_path):
    def leave(name, seconds):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)

    leave(".a.json.0123456789ab.tmp", 10**6)
    leave(".b.json.0123456789ab.tmp", 10)  # its writer may live
    leave(".notes.tmp", 10**6)  # not ours
    files.write_json(tmp_path / "c.json", 1)
    kept = [".b.json.0123456789ab.tmp", ".notes.tmp", "c.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept


def test_the_owner_of_a_work_directory_clears_at_once(tmp_path):
    nested = ("distilled.partial/deep", "teachers/b.partial/deep")
    (tmp_path / LEFT).write_text("{")
    made = WorkDir(tmp_path)
    made.open(Recipe())  # a run that was killed in its first write does not spoil the folder
    made.close()
    assert not (tmp_path / LEFT).exists()
    for folder in nested:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / LEFT).write_text("half")
    (tmp_path / ".summary.json.0123456789ab.tmp").write_text("half")
    made = WorkDir(tmp_path)
    made.open(Recipe())
    made.close()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_comparison_that_was_killed_in_its_first_write(tmp_path):
    left = tmp_path / f".{cells.MARKER}.0123456789ab.tmp"
    left.write_text("{")
    cells.check(tmp_path)
    cells.mark(tmp_path, (), "command")
    assert not left.exists()
    assert not files.is_temporary_of(".other.0123456789ab.tmp", tmp_path / cells.MARKER)
