"""Memory that is freed and taken again is not faulted in again."""

import ctypes
import subprocess
import sys

import pytest

from delt_jax.runtime import host_memory

FAULTS = """
import resource, threading
import numpy as np
from delt_jax.runtime import host_memory
kept = {keep} and host_memory.keep_freed()
def work():
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.empty(48 << 20, np.uint8).fill(1)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(kept, min(faults[1:8]), min(faults[9:]))  # the first time faults in any case
"""


def faults(keep: bool) -> list[str]:
    code = FAULTS.format(keep=keep)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_freed_memory_is_used_again_in_every_thread():
    kept, *second = faults(keep=True)
    if kept != "True":
        pytest.skip("this C library is not glibc")
    # The fewest of several times, because a kernel short of memory may take pages back between.
    assert all(int(n) < 10 for n in second)
    # Else there is nothing to gain; 48 MB are 24 faults at the least, of huge pages.
    assert all(int(n) > 20 for n in faults(keep=False)[1:])


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_freed()
