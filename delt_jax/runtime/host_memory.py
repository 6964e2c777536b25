"""Where the memory of computations on the CPU comes from."""

import ctypes

# mallopt's numbers, from glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8


def keep_freed() -> bool:
    """Makes this process keep the memory that it frees, and use it again.

    XLA on CPU allocates its temporary buffers anew in every call. glibc takes large ones
    from the kernel and gives them back each time, and the kernel then fills every page with
    zeros again, which costs more than many a layer. To be called before threads are started.

    Returns:
      Whether the C library took the settings; one that is not glibc keeps its own ways.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # No mapping per allocation; nothing handed back at the end of the heap; and one heap,
    # because those of other threads are small and are given back whole.
    return all(mallopt(*pair) for pair in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)))
