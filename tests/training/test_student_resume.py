"""Training students: bit for bit the same whatever stops it, however many devices."""

import shutil
import signal
from dataclasses import replace

import chex
import numpy as np
import pytest
from costly import costly
from test_student_loop import PROGRAM, PROTOCOL, SPEC, students, task, train

from delt_jax.core import stopping
from delt_jax.training import student_layout, student_loop
from delt_jax.training.student_loop import Saving


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        chex.assert_trees_all_equal(a.variables, b.variables)
        assert a.history == b.history
        np.testing.assert_array_equal(a.logits, b.logits)


def stopped(folder, epochs, program=PROGRAM, count=3, own=False):
    """Trains until SIGTERM arrives in the n-th epoch."""
    left = epochs

    def on_epochs(number, loss):
        nonlocal left
        left -= number > 0
        if left == 0:
            stopping.request(signal.SIGTERM)

    with pytest.raises(stopping.Stopped), stopping.listening():
        list(
            student_loop.train(
                task(program), students(count, own), 1, Saving(folder, 1e9), on_epochs
            )
        )


@pytest.mark.parametrize("own", [False, True])
def test_what_was_stopped_goes_on_bit_by_bit(tmp_path, own):
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = train(tmp_path / "whole", own=own)
    stopped(tmp_path / "stopped", 3, own=own)
    kept = {p.name for p in (tmp_path / "stopped").iterdir()}
    assert kept == {"s0.checkpoint", "s1.checkpoint", "s2.checkpoint"}
    assert_same(train(tmp_path / "stopped", own=own), whole)
    assert [epoch for epoch, _ in whole[0].history] == [2, 4]
    assert not np.array_equal(whole[0].logits, whole[1].logits)


def test_the_number_of_devices_makes_no_difference(tmp_path, monkeypatch):
    whole = train(tmp_path)
    monkeypatch.setattr(student_loop.devices, "device_count", lambda: 1)
    assert_same(train(tmp_path), whole)


@pytest.mark.exhaustive  # students of one device each are, above
def test_a_shared_student_is_the_same_on_fewer_devices(tmp_path, monkeypatch):
    """Four shares on four devices, two or one: bit for bit, dropout and online labels included."""
    protocol = replace(PROTOCOL, epochs=2, batch_size=8)
    program = replace(PROGRAM, protocol=protocol, devices=4, regime="online", teachers=(SPEC,))
    results = []
    for devices in (4, 2, 1):
        monkeypatch.setattr(student_loop.devices, "device_count", lambda n=devices: n)
        assert student_layout.of(program, 1, 1).num_devices == devices
        (tmp_path / str(devices)).mkdir()
        results += train(tmp_path / str(devices), program, count=1)
    for other in results[1:]:
        chex.assert_trees_all_equal(other.variables, results[0].variables)


@pytest.mark.exhaustive  # those that stand at one epoch do, above
def test_students_that_stand_at_different_epochs_go_on_together(tmp_path):
    whole = train(tmp_path)
    (tmp_path / "some").mkdir()
    stopped(tmp_path / "some", 2, count=1)
    assert_same(train(tmp_path / "some"), whole)


@pytest.mark.parametrize("damage", ["cut", "empty", costly("of another network")])
def test_a_damaged_training_starts_anew_with_a_sentence(tmp_path, capsys, damage):
    whole = train(tmp_path)
    stopped(tmp_path, 3)
    path = tmp_path / "s1.checkpoint"
    if damage == "of another network":
        other = replace(PROGRAM, student=replace(SPEC, width=8))
        (tmp_path / "other").mkdir()
        stopped(tmp_path / "other", 2, program=other)
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "other/s1.checkpoint", path)
    else:
        for file in (p for p in (path / "arrays").rglob("*") if p.is_file()):
            file.write_bytes({"cut": file.read_bytes()[:-5], "empty": b""}[damage])
    assert_same(train(tmp_path), whole)
    assert "s1.checkpoint is damaged" in capsys.readouterr().out
