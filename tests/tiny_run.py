"""Runs on digits with so little work that they take seconds, and ways to stop them."""

import json
import os
import signal

import numpy as np

from delt_jax import config as config_lib
from delt_jax import main
from delt_jax.formats import distilled
from delt_jax.recovery.run import driver


def tiny(**changes):
    """Their recipe."""
    config = config_lib.default_config()
    config.ipc = 3
    config.data.flip = False
    config.teacher.model = "conv3"
    config.teacher.width = 8
    config.teacher.epochs = 8
    config.teacher.crop_padding = 1
    config.recover.iterations = 4
    config.recover.round_iterations = 2
    config.recover.batch_size = 6
    config.recover.learning_rate = 0.05
    config.relabel.rand_augment = ""  # fewer operations to compile
    config.evaluate.width = 8
    config.evaluate.epochs = 2
    config.evaluate.batch_size = 15
    config.evaluate.seeds = 2
    config.evaluate.regimes = ("online", "fixed", "hard")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def read_json(path):
    return json.loads(path.read_text())


def recovered(folder, **changes):
    main.run(tiny(**changes), str(folder), ["recover"])
    return distilled.read(folder / "distilled").images


def manifest(folder):
    return json.loads((folder / "distilled/manifest.json").read_text())


def stop_after(monkeypatch, chunks, error=None):
    """Makes the given compiled call of the next run the last one that works."""
    real, calls = driver.compile_chunk, []

    def compiled(*arguments):
        chunk = real(*arguments)

        def run(*values):
            calls.append(arguments)
            if len(calls) > chunks and error is not None:
                raise error
            if len(calls) == chunks and error is None:
                os.kill(os.getpid(), signal.SIGTERM)
            return chunk(*values)

        return run

    monkeypatch.setattr(driver, "compile_chunk", compiled)
    return calls


def losses_of(folder):
    with np.load(folder / "distilled/losses.npz") as stored:
        return dict(stored)
