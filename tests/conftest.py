"""Eight virtual CPU devices for every test, set before JAX starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Compiling takes most of the time here: without LLVM's optimiser the suite needs a third less.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
# Programs that other versions or machines compiled are not what is tested.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
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
