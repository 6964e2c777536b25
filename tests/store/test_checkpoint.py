"""Checkpoints: the same bits again, whole or not there, and damage that is named."""

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import ROOT, free_address

from delt_jax.errors import UserError
from delt_jax.store import checkpoint
from delt_jax.store.checkpoint import CorruptCheckpoint
from delt_jax.training import state as state_lib


@pytest.fixture(params=["orbax", "npz"])
def form(request, monkeypatch):
    """Both forms: npz is that of a job of several processes."""
    if request.param == "npz":
        monkeypatch.setattr(checkpoint, "orbax_can_save", lambda tree: False)
    return request.param


def train_state() -> state_lib.TrainState:
    """A state as training leaves it: no array is zero or like another."""
    draw = np.random.default_rng(0)

    def numbers(*shape):
        return draw.normal(size=shape).astype(np.float32)

    params = {"conv": {"kernel": numbers(3, 3, 1, 4)}, "norm": {"scale": numbers(4)}}
    stats = {"norm": {"mean": numbers(4), "var": numbers(4) ** 2}}
    empty = state_lib.sgd("cosine", 0.1, 10, 0.9, 5e-4).init(params)
    momenta = jax.tree.map(lambda a: a + 7 if a.ndim == 0 else numbers(*a.shape), empty)
    return state_lib.TrainState(np.int32(1), params, stats, momenta)


def tree() -> dict:
    return {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": {"c": np.int32(3), "d": np.zeros(2, np.float32)},
    }


def test_a_round_trip_is_bit_exact(tmp_path, form):
    state = train_state()
    checkpoint.save(tmp_path / "c", state, epoch=3, history=[(1, 0.1), (2, 1 / 3)])
    assert (tmp_path / "c/arrays.npz").exists() == (form == "npz")
    restored, scalars = checkpoint.restore(tmp_path / "c", jax.tree.map(jnp.zeros_like, state))
    assert type(restored) is state_lib.TrainState
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
    assert checkpoint.tree_hash(restored) == checkpoint.tree_hash(state)
    assert scalars == checkpoint.scalars(tmp_path / "c")
    assert scalars == {"epoch": 3, "history": [[1, 0.1], [2, 1 / 3]]}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_special_values_and_types(tmp_path, form):
    special = {
        "float32": np.array([np.nan, np.inf, -0.0, 1e-45, np.pi], np.float32),
        "bfloat16": jnp.arange(5, dtype=jnp.bfloat16) / 3,
        "int32": np.array([-1, 2**31 - 1], np.int32),
        "bool": np.array([True, False]),
        "none": None,
        "nothing": ({}, ()),
        "scalar": jnp.bfloat16(1.5),
    }
    checkpoint.save(tmp_path / "c", special)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), special)
    restored, scalars = checkpoint.restore(tmp_path / "c", like)
    assert scalars == {}
    assert jax.tree.structure(restored) == jax.tree.structure(special)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, special)
    for ours, theirs in zip(*map(jax.tree.leaves, (restored, special)), strict=True):
        assert ours.tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize("tree", [(), {"a": np.zeros((0, 3)), "b": np.ones(2)}])
def test_what_orbax_refuses(tmp_path, tree):
    checkpoint.save(tmp_path / "c", tree, step=1)
    restored, scalars = checkpoint.restore(tmp_path / "c", tree)
    chex.assert_trees_all_equal(restored, tree)
    assert scalars == {"step": 1}


def test_saving_again_replaces_and_deleting_leaves_nothing(tmp_path, form):
    path, like = tmp_path / "c", {"a": np.zeros(2)}
    for step in range(3):
        checkpoint.save(path, {"a": np.full(2, step)}, step=step)
    assert checkpoint.restore(path, {"a": np.zeros(2, int)})[0]["a"].tolist() == [2, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    checkpoint.delete(path)
    checkpoint.delete(path)
    assert not list(tmp_path.iterdir())
    assert checkpoint.scalars(path) == {}
    with pytest.raises(FileNotFoundError):
        checkpoint.restore(path, like)


def test_a_thread_saves_while_the_devices_work(tmp_path):
    with ThreadPoolExecutor(1) as writer:
        for step in range(5):
            state = {"a": jnp.full(1000, step, jnp.float32)}
            saved = writer.submit(checkpoint.save, tmp_path / "c", state, step=step)
            jax.jit(jnp.sin)(state["a"]).block_until_ready()
            saved.result()
            restored, scalars = checkpoint.restore(tmp_path / "c", state)
            assert scalars["step"] == restored["a"][0] == step


def test_scalars_are_read_while_another_thread_saves(tmp_path):
    steps = []
    checkpoint.save(tmp_path / "c", {"a": np.zeros(9)}, step=0)
    with ThreadPoolExecutor(1) as writer:
        saves = [
            writer.submit(checkpoint.save, tmp_path / "c", {"a": np.full(9, i)}, step=i)
            for i in range(20)
        ]
        while not saves[-1].done():
            steps.append(checkpoint.scalars(tmp_path / "c")["step"])
    assert steps == sorted(steps)
    assert checkpoint.restore(tmp_path / "c", {"a": np.zeros(9, int)})[1] == {"step": 19}


# --- killed ---


class Killed(BaseException):
    pass


@pytest.mark.parametrize("renames", range(8))
def test_a_kill_leaves_the_old_checkpoint_or_the_new_one(tmp_path, monkeypatch, form, renames):
    """Wherever it comes: all that a kill can part are the renames."""
    checkpoint.save(tmp_path / "c", {"a": np.full(3, 1.0)}, step=1)
    real, calls = os.replace, []

    def replace(*arguments):
        calls.append(arguments)
        if len(calls) > renames:
            raise Killed
        real(*arguments)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", replace)
        m.setattr(shutil, "rmtree", lambda *_, **__: None)  # a kill cleans nothing up
        try:
            checkpoint.save(tmp_path / "c", {"a": np.full(3, 2.0)}, step=2)
        except Killed:
            assert len(calls) > renames
        else:
            assert checkpoint.scalars(tmp_path / "c")["step"] == 2
    for step in (checkpoint.scalars(tmp_path / "c")["step"], 3):
        if step == 3:
            checkpoint.save(tmp_path / "c", {"a": np.full(3, 3.0)}, step=3)
        restored, scalars = checkpoint.restore(tmp_path / "c", {"a": np.zeros(3)})
        assert scalars["step"] == restored["a"][0] == step
    checkpoint.delete(tmp_path / "c")
    assert checkpoint.scalars(tmp_path / "c") == {}


# --- damaged ---


def changed(content: bytes) -> dict[str, bytes | None]:
    middle = len(content) // 2
    return {
        "first byte": bytes([content[0] ^ 1]) + content[1:],
        "middle byte": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut": content[:-2],
        "empty": b"",
        "other": b"hello",
        "gone": None,
    }


@pytest.mark.parametrize("kind", changed(bytes(2)))
def test_every_damaged_file_is_noticed(tmp_path, form, kind):
    path, state = tmp_path / "c", train_state()
    checkpoint.save(path, state, step=7)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content = file.read_bytes()
        damaged = changed(content)[kind]
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        with pytest.raises(CorruptCheckpoint) as e:
            checkpoint.restore(path, state)
        assert e.value.path == path
        if file.name != "checkpoint.json":
            assert e.value.reason == "its files are not those that were saved"
        assert str(path) in str(e.value)
        if file.name == "checkpoint.json":
            with pytest.raises(CorruptCheckpoint):
                checkpoint.scalars(path)
        else:
            assert checkpoint.scalars(path) == {"step": 7}
        file.write_bytes(content)
    chex.assert_trees_all_equal(checkpoint.restore(path, state)[0], state)


def test_a_changed_digit_of_a_scalar_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "c", tree(), step=7)
    file = tmp_path / "c/checkpoint.json"
    text = file.read_text()
    assert text.count('"step": 7') == 1
    file.write_text(text.replace('"step": 7', '"step": 3'))
    with pytest.raises(CorruptCheckpoint, match=r"checkpoint\.json is not what was saved"):
        checkpoint.scalars(tmp_path / "c")


@pytest.mark.parametrize(
    "like",
    [
        tree() | {"a": np.zeros((3, 2), np.float32)},
        tree() | {"a": np.zeros((1, 3), np.float32)},
        tree() | {"a": np.zeros(6, np.float32)},
        tree() | {"a": np.zeros((2, 3), np.float64)},
        tree() | {"e": np.zeros(1)},
        {"a": tree()["a"]},
    ],
)
def test_a_checkpoint_of_other_arrays(tmp_path, form, like):
    checkpoint.save(tmp_path / "c", tree())
    with pytest.raises(CorruptCheckpoint, match="holds other arrays"):
        checkpoint.restore(tmp_path / "c", like)


def test_a_folder_of_an_earlier_version(tmp_path):
    (tmp_path / "c/d").mkdir(parents=True)
    (tmp_path / "c/_METADATA").write_text("{}")
    for read in (checkpoint.scalars, lambda path: checkpoint.restore(path, tree())):
        with pytest.raises(CorruptCheckpoint, match=r"has no checkpoint\.json"):
            read(tmp_path / "c")


def test_a_full_disk_is_a_sentence_and_leaves_the_old_checkpoint(tmp_path, monkeypatch, form):
    checkpoint.save(tmp_path / "c", tree(), step=1)

    def full(*_, **__):
        if form == "npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # As TensorStore says it.
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write [os_error_code='28']")

    with monkeypatch.context() as m:
        m.setattr(*((np, "savez") if form == "npz" else (ocp.Checkpointer, "save")), full)
        with pytest.raises(UserError, match="cannot be written: No space left on device; free"):
            checkpoint.save(tmp_path / "c", tree(), step=2)
    assert checkpoint.scalars(tmp_path / "c") == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "file/c", tree())


# --- several processes ---

JOB = """
import sys, time, jax, numpy as np
from pathlib import Path
from delt_jax.store import checkpoint

address, me, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.distributed.initialize(address, 2, me)
like = {"a": np.zeros((3, 2), np.float32), "b": np.zeros((), np.int32)}
restored, scalars = checkpoint.restore(folder / "alone", like)
assert restored["a"].tolist() == [[0, 1], [2, 3], [4, 5]] and restored["b"] == 7, restored
assert scalars == {"step": 1}
own = {"a": restored["a"] + me, "b": jax.numpy.int32(me)}
for step in range(2 + 2 * me):  # each saves as often as it likes, without waiting for the other
    checkpoint.save(folder / f"of_{me}", own, step=step)
restored, scalars = checkpoint.restore(folder / f"of_{me}", like)
assert (restored["a"] == own["a"]).all() and restored["b"] == me, restored
assert scalars == {"step": 1 + 2 * me}
"""


@pytest.mark.exhaustive  # jobs are in runtime/test_processes_of_a_job.py
def test_each_process_of_a_job_saves_and_restores_alone(tmp_path):
    """Process 1 too, where orbax would write nothing; and one process restores what two saved."""
    like = {"a": np.arange(6, dtype=np.float32).reshape(3, 2), "b": np.int32(7)}
    checkpoint.save(tmp_path / "alone", like, step=1)
    assert (tmp_path / "alone/arrays").exists()
    address = free_address()
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, address, str(i), str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for job in jobs:
        try:
            _, errors = job.communicate(timeout=120)
        finally:
            job.kill()
        assert job.returncode == 0, errors
    for i in range(2):
        restored, scalars = checkpoint.restore(tmp_path / f"of_{i}", like)
        np.testing.assert_array_equal(restored["a"], like["a"] + i)
        assert restored["b"] == i
        assert scalars == {"step": 1 + 2 * i}


# --- hashes ---


def test_tree_hash_notices_everything():
    value = tree()
    flipped = value["a"].copy()
    flipped.view(np.uint32)[1, 2] ^= 1  # the last bit of one number
    others = [
        value | {"a": flipped},
        value | {"a": value["a"].reshape(3, 2)},
        value | {"a": value["a"].view(np.int32)},
        {"A": value["a"], "b": value["b"]},
        {"a": value["a"], "b": {"c": value["b"]["c"]}},
        {"b": value["b"], "a": value["a"] * np.float32(1 + 1e-6)},
    ]
    hashes = [checkpoint.tree_hash(t) for t in (value, *others)]
    assert len(set(hashes)) == len(hashes)
    same = {"b": value["b"], "a": np.asfortranarray(value["a"])}
    assert checkpoint.tree_hash(same) == hashes[0]
    assert checkpoint.tree_hash(jax.tree.map(jnp.asarray, value)) == hashes[0]
