"""Recoveries in processes of their own, for the tests that kill them or run several at once."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import USERS_EMITTERS

from delt_jax import config as config_lib
from delt_jax.formats import distilled
from delt_jax.recovery.run import checkpoint

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "ipc": 3,
    "data.flip": False,
    "teacher.width": 8,
    "teacher.epochs": 4,
    "recover.iterations": 480,
    "recover.round_iterations": 240,
    "recover.batch_size": 6,  # five batches
    "recover.learning_rate": 0.02,
    "recover.save_minutes": 0.004,
}


def config(**changes):
    """The recipe of these tests, for this process."""
    recipe = config_lib.default_config()
    recipe.update_from_flattened_dict(SETTINGS | changes)
    return recipe


def start(workdir, *flags, devices=1, stages="squeeze,rank,recover"):
    """Starts stages of a work directory in a process with so many virtual devices."""
    file = workdir.parent / "recipe.py"
    file.write_text(
        "from delt_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.update_from_flattened_dict({SETTINGS!r})\n"
        "    return config\n"
    )
    arguments = [f"--config={file}", f"--workdir={workdir}", f"--stages={stages}"]
    cache = {  # apart from the suite's, as a kill may cut a file in it short
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(Path(os.environ["DELT_TEST_CACHE"]) / "killed"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "delt_jax.main", *arguments, *flags],
        cwd=ROOT,
        env={
            **os.environ,
            **cache,
            "XLA_FLAGS": USERS_EMITTERS,
            "JAX_NUM_CPU_DEVICES": str(devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address():
    """Host and port where a job may be coordinated."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def start_job(workdir, flags=((), ()), devices=4, **how):
    """Starts processes that work together, each with flags of its own."""
    common = (f"--coordinator_address={free_address()}", f"--num_processes={len(flags)}")
    return [
        start(workdir, *common, f"--process_id={i}", *own, devices=devices, **how)
        for i, own in enumerate(flags)
    ]


def ended(process, seconds=240):
    """Exit status and output of a process."""
    try:
        out, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, errors


def wait_for_step(workdir, process, step=1, batches=range(5)):
    """Waits until some batch is kept after so many iterations, or the process has ended."""
    partial, deadline = workdir / "distilled.partial", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(checkpoint.step_of(partial, i) >= step for i in batches):
            return
        time.sleep(0.02)


def unrecovered(whole, folder):
    """A copy of a finished work directory whose recovery is still to do."""
    copy = shutil.copytree(whole, folder / "run")
    shutil.rmtree(copy / "distilled")
    return copy


def assert_same(workdir, whole):
    """Images and losses are those of the other work directory, bit for bit."""
    np.testing.assert_array_equal(
        distilled.read(workdir / "distilled").images, distilled.read(whole / "distilled").images
    )
    with (
        np.load(workdir / "distilled/losses.npz") as ours,
        np.load(whole / "distilled/losses.npz") as theirs,
    ):
        for name in ("loss", "cross_entropy", "bn"):
            np.testing.assert_array_equal(ours[name], theirs[name])
