"""What is known of JAX before it starts: its backend, and XLA's flags for it."""

import os
import subprocess
import sys

import pytest
from jax._src import xla_bridge

from delt_jax.runtime import environment

ALL = {"cpu", "gpu", "tpu"}


@pytest.mark.parametrize(
    ("asked", "installed", "present", "expected"),
    [
        ("", (), ALL, "cpu"),
        ("", {"gpu"}, (), "cpu"),
        ("", {"gpu"}, {"gpu"}, "gpu"),
        ("", ALL, {"gpu"}, "gpu"),
        ("", ALL, ALL, "tpu"),  # JAX prefers it
        ("cpu", ALL, ALL, "cpu"),
        (" CUDA,cpu", (), (), "gpu"),
        ("rocm", (), (), "gpu"),
        ("tpu,cpu", (), (), "tpu"),
        ("metal", ALL, ALL, "metal"),
    ],
)
def test_the_backend_is_told_before_jax_starts(asked, installed, present, expected):
    assert environment.backend(asked, installed, present) == expected


@pytest.fixture
def with_gpu(monkeypatch):
    """A machine with CUDA 13's plugin and a GPU, as far as one can look before JAX starts."""
    found = {"jax_cuda13_plugin": "found"}
    monkeypatch.setattr(environment.importlib.util, "find_spec", found.get)
    monkeypatch.setattr(environment.glob, "glob", lambda path: ["one"] * ("nvidia" in path))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_machine_is_looked_at(with_gpu, monkeypatch):
    assert environment.expected_backend() == "gpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert environment.expected_backend() == "gpu"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert environment.expected_backend() == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert environment.expected_backend() == "cpu"


def test_flags_make_gpus_repeat_and_the_users_own_come_last():
    plain = environment.xla_flags("gpu", "")
    assert plain == "--xla_gpu_deterministic_ops=true --xla_gpu_shard_autotuning=false"
    assert environment.xla_flags("gpu", plain) == plain
    users = "--xla_gpu_deterministic_ops=false --xla_dump_to=x"
    assert environment.xla_flags("gpu", users) == f"{plain} {users}"
    for alone in (("cpu", users), ("tpu", ""), ("gpu", "file_of_flags")):
        assert environment.xla_flags(*alone) == alone[1]


@pytest.mark.parametrize(
    ("backend", "flags", "expected"),
    [
        ("cpu", "", True),
        ("gpu", "", False),
        ("gpu", environment.xla_flags("gpu", ""), True),
        ("gpu", environment.xla_flags("gpu", "--xla_gpu_deterministic_ops=false"), False),
        ("gpu", "--xla_gpu_deterministic_ops=false --xla_gpu_deterministic_ops", True),
    ],
)
def test_manifests_say_whether_a_run_repeats(backend, flags, expected):
    assert environment.is_repeatable(backend, flags) == expected


def test_jax_is_imported_with_them(with_gpu, monkeypatch):
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    environment.import_jax()
    environment.import_jax()
    assert os.environ["XLA_FLAGS"] == environment.xla_flags("gpu", "--xla_dump_to=x")


def test_this_xla_knows_the_flags_and_takes_the_last_of_two():
    code = "import jax; print(jax.numpy.arange(4).sum())"
    flags = environment.xla_flags("gpu", "--xla_gpu_deterministic_ops=false")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "6\n", done.stderr  # XLA aborts at a flag that it does not know
