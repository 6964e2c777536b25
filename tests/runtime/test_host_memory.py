"""Memory that is freed and taken again is not faulted in again, where the host computes."""

import ctypes
import os
import subprocess
import sys

import pytest

from delt_jax.runtime import environment, host_memory

TRIM, PAD, MAPS, ARENAS = -1, -2, -4, -8  # mallopt's
FAULTS = """
import ctypes, resource, threading
from delt_jax.runtime import host_memory
{first}
kept = {keep} and host_memory.keep_freed()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
def work():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        buffer = ctypes.c_void_p(library.malloc(80 << 20))
        ctypes.memset(buffer, 1, 80 << 20)
        library.free(buffer)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(kept, min(faults[1:4]), min(faults[5:]))  # the first time faults in any case
"""
PAGES = (80 << 20) // 4096  # more than the heap of a thread holds


def faults(keep: bool, first: str = "") -> list[str]:
    """Whether the settings were taken, and faults in the first and in another thread."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep, first=first)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
@pytest.mark.parametrize(
    ("first", "most"),
    [
        # Without huge pages all threads share a heap, on few cores.
        ("host_memory.huge_pages_mode = lambda: ''; host_memory.os.cpu_count = lambda: 2", 20),
        ("host_memory.restart_with_huge_pages()", PAGES / 100),
    ],
)
def test_freed_memory_is_used_again_in_every_thread(first, most):
    kept, *found = faults(True, first)
    if kept != "True":
        pytest.skip("this C library is not glibc")
    if "restart" in first and host_memory.huge_pages_mode() not in ("always", "madvise"):
        pytest.skip("this kernel has no huge pages")
    # The fewest of several times, because a kernel short of memory may take pages back between.
    assert all(int(n) < most for n in found)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_there_is_something_to_gain():
    if host_memory.huge_pages_mode() == "always":
        pytest.skip("this kernel gives huge pages to all")
    assert all(int(n) > PAGES / 2 for n in faults(False)[1:])


def test_settings_are_for_cpus_alone_and_one_heap_only_for_few_cores():
    assert host_memory.settings("gpu", 16) == host_memory.settings("tpu", 2) == ()
    assert dict(host_memory.settings("cpu", 16)) == {MAPS: 0, TRIM: -1, PAD: 256 << 20}
    assert dict(host_memory.settings("cpu", 2)) == {MAPS: 0, TRIM: -1, ARENAS: 1}


def test_an_accelerator_leaves_the_c_library_alone(monkeypatch):
    calls = []
    library = type("Library", (), {"mallopt": lambda *pair: calls.append(pair) or 1})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(environment, "expected_backend", lambda: "gpu")
    assert not host_memory.keep_freed()
    assert not calls
    monkeypatch.setattr(environment, "expected_backend", lambda: "cpu")
    assert host_memory.keep_freed()
    assert (MAPS, 0) in calls


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_freed()


def test_glibc_is_told_of_huge_pages_where_it_must_be():
    add = host_memory.tunables_with_huge_pages
    ours = "glibc.malloc.hugetlb=1"
    assert add("cpu", "madvise", "") == ours
    assert add("cpu", "madvise", "glibc.a.b=2") == f"glibc.a.b=2:{ours}"
    for same in (ours, "glibc.malloc.hugetlb=0"):
        assert add("cpu", "madvise", same) == same
    for backend, mode in (("gpu", "madvise"), ("cpu", "always"), ("cpu", "never"), ("cpu", "")):
        assert add(backend, mode, "") == ""
