"""A training on real images that was killed: it goes on from its checkpoint, or starts over."""

import itertools
import signal
import types

import pytest
from costly import costly
from tiny_run import read_json, tiny

from delt_jax import main
from delt_jax.core import stopping
from delt_jax.store.log import MetricsLog
from delt_jax.training import real_images

EPOCHS = 4


def squeeze(folder):
    main.run(tiny(**{"teacher.epochs": EPOCHS}), str(folder), ["squeeze"])
    return read_json(folder / "teacher/manifest.json")["hash"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return squeeze(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("kind", ["whole", costly("damaged"), costly("of an earlier version")])
def test_a_killed_training_ends_in_the_same_teacher(whole, tmp_path, monkeypatch, capsys, kind):
    folder, partial = tmp_path / "run", tmp_path / "run/teacher.partial"
    clock = types.SimpleNamespace(monotonic=itertools.count(0, 100).__next__)
    monkeypatch.setattr(real_images, "time", clock)  # 100 s pass with every look at it
    real, epochs = MetricsLog.write, []

    def killed_after_the_third(*args, **figures):
        epochs.append(args)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        real(*args, **figures)

    monkeypatch.setattr(MetricsLog, "write", killed_after_the_third)
    with pytest.raises(KeyboardInterrupt):
        squeeze(folder)
    if kind == "damaged":
        content = partial / "checkpoint/checkpoint.json"
        content.write_text(content.read_text().replace('"epoch": 2', '"epoch": 3'))
    if kind == "of an earlier version":
        (partial / "checkpoint").rename(partial / "epoch_00002")
    epochs.clear()
    epochs += [None] * 3  # it is not killed again
    capsys.readouterr()
    assert squeeze(folder) == whole
    out = capsys.readouterr().out
    assert ("training goes on after epoch 2" in out) == (kind == "whole")
    damaged = f"{partial}/checkpoint is damaged (checkpoint.json is not what was saved); its"
    assert (f"{damaged} training starts anew" in out) == (kind == "damaged")
    assert len([args for args in epochs[3:] if args[1] == "squeeze"]) >= (
        2 if kind == "whole" else 4
    )
    assert not partial.exists()


def test_a_stopped_epoch_goes_on_within_it(whole, tmp_path, monkeypatch, capsys):
    batches, read = real_images.batches, []

    def stopped_in_the_fourth(*arguments):
        for batch in batches(*arguments):
            read.append(batch)
            if len(read) == 4:
                stopping.request(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(real_images, "batches", stopped_in_the_fourth)
    with pytest.raises(stopping.Stopped):
        squeeze(tmp_path / "run")
    assert len(read) == 4
    assert squeeze(tmp_path / "run") == whole
    assert "training goes on after epoch 0 and 4 steps" in capsys.readouterr().out
    assert len(read) == EPOCHS * (1258 // 128)  # no step of digits' 1258 images was done twice


def test_a_signal_during_the_last_evaluation_keeps_the_training(whole, tmp_path, monkeypatch):
    accuracy = real_images.teacher_lib.accuracy

    def stopped(*arguments):
        stopping.request(signal.SIGTERM)
        return accuracy(*arguments)

    with monkeypatch.context() as m:
        m.setattr(real_images.teacher_lib, "accuracy", stopped)
        with pytest.raises(stopping.Stopped):
            squeeze(tmp_path / "run")
    monkeypatch.setattr(real_images, "batches", None)  # nothing is left to train on
    assert squeeze(tmp_path / "run") == whole
