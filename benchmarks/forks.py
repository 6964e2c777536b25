"""Forks of one process that has the slow libraries imported, for scripts that try many things."""

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = (  # slow to import, and without threads until they are used
    "jax.numpy",
    "flax.linen",
    "optax",
    "chex",
    "orbax.checkpoint",
    "scipy.stats",
    "sklearn.datasets",
    "jinja2",
    "PIL.Image",
    "pyarrow.parquet",
    "hypothesis",
    "ml_collections",
    "absl.flags",
    "grain",
    "tensorflow_datasets",
    "safetensors.numpy",
    "huggingface_hub",
    "ot",
    "tqdm",
)


def warm(libraries: Sequence[str] = LIBRARIES) -> None:
    """Sets JAX up as the tests do, and imports libraries; no JAX backend starts."""
    os.environ.setdefault("DELT_TEST_CACHE", tempfile.mkdtemp(prefix="delt_jax_forks_"))
    sys.path.insert(0, str(ROOT / "tests"))
    importlib.import_module("conftest")  # sets what JAX reads when it is imported
    del sys.modules["conftest"]
    sys.path.remove(str(ROOT / "tests"))
    for name in libraries:
        importlib.import_module(name)
    warnings.filterwarnings("ignore", message=".*os.fork.*")


def begin(log: Path) -> None:
    """What a fork does first: a process group of its own, and a file for what it prints."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore for `command &`
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    os.close(out)


def ended(pid: int, until: float) -> int | None:
    """Exit status of a fork that has ended, minus the signal that ended it; None before.

    After the time `until` it is ended by SIGKILL. With it end all that it has started.
    """
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done and time.monotonic() < until:
        return None
    end(pid)
    if not done:
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def end(pid: int) -> None:
    """Ends a fork and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
