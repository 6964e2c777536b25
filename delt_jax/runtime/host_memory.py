"""The host's memory: settings of the C library's allocator, and how much there is."""

import ctypes
import resource
from pathlib import Path

# mallopt's numbers, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def keep_freed() -> bool:
    """Makes this process keep the memory that it frees, to use it again.

    XLA on CPU allocates its temporary buffers in every call. glibc takes large ones
    from the kernel and gives them back each time, so the kernel must fill every page with zeros
    again, which can cost more than the layer itself. Call it before any thread starts.

    Returns:
      Whether the C library took the settings; only glibc has them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # No memory mapping per allocation, no trimming of the heap's end, and one heap for all threads,
    # because the heaps of other threads are small and are given back as a whole.
    return all(mallopt(*pair) for pair in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)))


def total() -> int | None:
    """Bytes of memory that this process may ever use; None where the system does not tell."""
    limits = [_meminfo("MemTotal"), _cgroup_limit(), _address_space()]
    return min((limit for limit in limits if limit is not None), default=None)


def available() -> int | None:
    """Bytes of memory that are free now; None where the system does not tell."""
    limits = [_meminfo("MemAvailable"), _cgroup_limit(), _address_space()]
    return min((limit for limit in limits if limit is not None), default=None)


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    values = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(values[0][1]) * 1024 if values else None


def _cgroup_limit() -> int | None:
    """Of a container."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((Path("/sys/fs/cgroup") / file).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return None


def _address_space() -> int | None:
    """Of a shell's `ulimit -v`."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft
