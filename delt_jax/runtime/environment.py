"""JAX as the environment variables and the devices of the user's machine let it start."""

import glob
import importlib.util
import os
import sys
from collections.abc import Collection

from delt_jax.errors import UserError

_PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}
_PLUGINS = {  # packages, by backend in the order in which JAX prefers them
    "tpu": ("libtpu",),
    "gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin"),
}
_DEVICE_FILES = {
    "tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"),
    "gpu": ("/dev/nvidia[0-9]*", "/dev/dxg"),
}
_DETERMINISTIC = "--xla_gpu_deterministic_ops"
# Every XLA from JAX 0.10 to 0.12 knows these flags; one that it did not know would end the process.
_GPU_FLAGS = (
    f"{_DETERMINISTIC}=true",  # no atomics in gradients, no choice of kernels by timing
    # Else the processes of a job share out that timing, and wait for those that compile nothing.
    "--xla_gpu_shard_autotuning=false",
)


def backend(asked: str, installed: Collection[str], present: Collection[str]) -> str:
    """The backend that JAX will compute on: "cpu", "gpu" or "tpu".

    Args:
      asked: value of JAX_PLATFORMS, the preferred platform first; may be empty.
      installed: backends for which JAX has a plugin.
      present: backends that the machine has devices for.

    Returns:
      The backend, or the user's own word for one that is not known here.
    """
    first = asked.split(",")[0].strip().lower()
    if first:
        return _PLATFORMS.get(first, first)
    return next((name for name in _PLUGINS if name in installed and name in present), "cpu")


def expected_backend() -> str:
    """As `backend`, for this machine; imports nothing and starts no thread."""
    find = importlib.util.find_spec
    installed = {name for name, packages in _PLUGINS.items() if any(map(find, packages))}
    present = {name for name, paths in _DEVICE_FILES.items() if any(map(glob.glob, paths))}
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        present.discard("gpu")
    return backend(os.environ.get("JAX_PLATFORMS", ""), installed, present)


def xla_flags(backend: str, users: str) -> str:
    """The value of XLA_FLAGS with which runs repeat bit for bit on one model of GPU.

    Args:
      backend: as `backend` returns it.
      users: the user's own value, whose flags win; may name a file of flags, which stays alone.
    """
    if backend != "gpu" or (users.strip() and not users.lstrip().startswith("-")):
        return users
    ours = [flag for flag in _GPU_FLAGS if flag not in users.split()]
    return " ".join([*ours, users]).strip()  # XLA takes the last of two that contradict each other


def is_repeatable(backend: str, flags: str) -> bool:
    """Whether two runs of one seed on one model of device give equal bits; manifests record it.

    Args:
      backend: as `backend` returns it; CPUs and TPUs need no flag.
      flags: value of XLA_FLAGS.
    """
    asked = [flag for flag in flags.split() if flag.split("=")[0] == _DETERMINISTIC]
    return backend != "gpu" or asked[-1:] in ([_DETERMINISTIC], [f"{_DETERMINISTIC}=true"])


def repeats() -> bool:
    """As `is_repeatable`, for this process."""
    return is_repeatable(expected_backend(), os.environ.get("XLA_FLAGS", ""))


def import_jax() -> None:
    """Imports JAX, which reads its environment variables then.

    Where a program has started JAX's devices before, XLA reads no flags any more; they stay as they
    are, and manifests say whether runs repeat with them.

    Raises:
      UserError: if one of them has a value that JAX does not know.
    """
    users = os.environ.get("XLA_FLAGS", "")
    flags = xla_flags(expected_backend(), users)
    if flags != users and not _has_started():
        os.environ["XLA_FLAGS"] = flags
    try:
        import jax  # noqa: F401 (only to see whether it can be)
    except ValueError as e:
        raise UserError(f"JAX cannot start: {e}; correct or unset that variable.") from e


def _has_started() -> bool:
    """Whether JAX has started its devices in this process; there is no public name for that."""
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def check_devices() -> None:
    """Starts JAX's devices.

    Raises:
      UserError: if the platform that JAX_PLATFORMS asks for is not there.
    """
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, ValueError, AssertionError) as e:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(e).splitlines() or ["it has no such platform"])[0].rstrip(".")
        raise UserError(
            f"JAX finds no devices with JAX_PLATFORMS={asked!r} ({reason}); unset it, or install "
            f"JAX for that platform."
        ) from e
