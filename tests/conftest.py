"""Eight virtual CPU devices for every test, set before JAX starts."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Compiling takes most of the time here: without LLVM's optimiser the suite needs a third less.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
# Compiled once for all workers and for the processes that they start; not those that other
# versions or machines compiled, which are not what is tested.
if "DELT_TEST_CACHE" not in os.environ:
    os.environ["DELT_TEST_CACHE"] = tempfile.mkdtemp(prefix="delt_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["DELT_TEST_CACHE"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["DELT_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the recorded vectors: $DELT_GOLDEN_DIR or the copy beside the tests."""
    return golden_dir()


def golden_dir() -> Path:
    """The same, for parametrising by file."""
    return Path(os.environ.get("DELT_GOLDEN_DIR", Path(__file__).parent / "golden"))


@pytest.fixture(scope="session")
def tiny_ranked(tmp_path_factory) -> Path:
    """A work directory with teacher and ranking of `tiny_run.tiny`, to be copied."""
    from tiny_run import tiny  # brings JAX, which starts after the lines above

    from delt_jax import main

    folder = tmp_path_factory.mktemp("tiny") / "run"
    main.run(tiny(), str(folder), ["squeeze", "rank"])
    return folder
