"""Settings of the C library's memory allocator, for computations on the CPU."""

import ctypes

# mallopt's numbers, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def keep_freed() -> bool:
    """Makes this process keep the memory that it frees, to use it again.

    XLA on CPU allocates its temporary buffers anew in every call. glibc takes large ones
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
