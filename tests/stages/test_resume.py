"""Kills at random moments: the images are those of a run that nothing disturbed."""

import json
import random
import signal
import time

import pytest
from processes import SETTINGS, assert_same, config, ended, start, unrecovered, wait_for_step

from delt_jax import main
from delt_jax.recovery.run import checkpoint
from delt_jax.runtime import devices as devices_lib

KILLS = ((signal.SIGTERM, 1), (signal.SIGKILL, 4))  # and devices


def iterations_of(partial, index):
    """Iterations of a batch that are kept; all of them once it is finished."""
    if checkpoint.finished_batch(partial, index).exists():
        return SETTINGS["recover.iterations"]
    return checkpoint.step_of(partial, index)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "run"
    main.run(config(), str(folder), ["squeeze", "rank", "recover"])
    return folder


def test_killed_again_and_again_on_other_devices(whole, tmp_path, monkeypatch):
    workdir = unrecovered(whole, tmp_path)
    partial, draw, steps = workdir / "distilled.partial", random.Random(0), 0
    for number, devices in KILLS:
        process = start(workdir, devices=devices)
        wait_for_step(workdir, process, step=steps + 1)
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(number)
        status, _, errors = ended(process)
        assert status == (143 if number == signal.SIGTERM else -signal.SIGKILL), errors
        if number == signal.SIGTERM:
            assert "the same command goes on from there" in errors
            assert "Traceback" not in errors
        before, steps = steps, max(iterations_of(partial, i) for i in range(5))
        assert steps > before  # every start goes on where the last one was kept
    monkeypatch.setattr(devices_lib, "device_count", lambda: 3)
    main.run(config(), str(workdir), ["recover"])
    assert_same(workdir, whole)
    assert not partial.exists()
    # Every round of every batch is logged, whichever batches were side by side, and none twice.
    points, expected = (
        [p for p in points_of(f) if p["stage"] == "recover"] for f in (workdir, whole)
    )
    assert rounds_of(points) == rounds_of(expected)
    assert all(p["loss"] > 0 for p in points)
    assert len(set(map(str, points))) == len(points)


def points_of(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def rounds_of(points):
    return {(batch, p["step"], p["active"]) for p in points for batch in p["batches"]}
