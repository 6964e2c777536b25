"""The host's memory: settings of the C library's allocator, and how much there is.

XLA on CPU takes its temporary buffers anew in every call, hundreds of megabytes in a thread of its
own. glibc gets such buffers from the kernel and gives them back each time, so the kernel must fill
every page with zeros again, which can cost more than the layer itself. A heap that threads share
keeps them, which is fastest on few cores; on many, threads that compile would wait for each other,
so there every thread has a heap. With huge pages filling is cheap in either case. See the
measurements in docs/performance.md.
"""

import ctypes
import os
import resource
import sys
from pathlib import Path

from delt_jax.runtime import environment

# mallopt's numbers, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_MAX = -4
_ARENA_MAX = -8
_PADDING = 256 << 20  # bytes; more than two heaps of a thread, so that none is given back
_HUGE_PAGES = "glibc.malloc.hugetlb"
_LIBRARY_WITH_HUGE_PAGES = (2, 35)
_FEW_CORES = 4
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def keep_freed() -> bool:
    """Makes this process keep the memory that it frees, to use it again, where it computes on CPUs.

    Call it before any thread starts.

    Returns:
      Whether the C library took the settings; only glibc has them, and accelerators need none.
    """
    chosen = settings(environment.expected_backend(), os.cpu_count() or 1)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(chosen) and all(mallopt(*pair) for pair in chosen)


def settings(backend: str, cores: int) -> tuple[tuple[int, int], ...]:
    """Numbers and values for `mallopt`.

    Args:
      backend: as `environment.backend` returns it.
      cores: of the machine.
    """
    if backend != "cpu":
        return ()
    # No memory mapping per allocation, and no trimming of a heap's end.
    kept = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    if cores > _FEW_CORES:
        return (*kept, (_TOP_PAD, _PADDING))
    # One heap for all threads: in those of other threads no buffer above 64 MB is kept.
    return (*kept, (_ARENA_MAX, 1))


def tunables_with_huge_pages(backend: str, mode: str, tunables: str) -> str:
    """The value of GLIBC_TUNABLES with which heaps get huge pages, where that helps.

    Args:
      backend: as `environment.backend` returns it.
      mode: of the kernel's transparent huge pages: "always", "madvise", "never" or "".
      tunables: the user's own value, which stays as it is if it says anything on huge pages.
    """
    if backend != "cpu" or mode != "madvise" or _HUGE_PAGES in tunables:
        return tunables
    return ":".join(filter(None, (tunables, f"{_HUGE_PAGES}=1")))


def restart_with_huge_pages() -> None:
    """Starts this process again if glibc must be told of huge pages: it reads that only then.

    For scripts, as the first thing that they do. The process keeps its number.
    """
    before = os.environ.get("GLIBC_TUNABLES", "")
    tunables = tunables_with_huge_pages(environment.expected_backend(), huge_pages_mode(), before)
    if tunables != before and sys.executable and _library() >= _LIBRARY_WITH_HUGE_PAGES:
        os.environ["GLIBC_TUNABLES"] = tunables
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def huge_pages_mode() -> str:
    """To whom the kernel gives huge pages: "always", "madvise" (who asks), "never"; "" unknown."""
    try:
        text = _MODES.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
    return text.partition("[")[2].partition("]")[0]


def _library() -> tuple[int, ...]:
    """Version of glibc; () for another C library."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    except (AttributeError, OSError, ValueError):
        return ()


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
