"""Memory that was freed goes back to the system, so that a process holds what it uses."""

import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's malloc.h
LARGE = 4 * 2**20
KEPT_FREE = 64 * 2**20


def give_back_large_blocks() -> None:
    """Take blocks of over 4 MiB from the system one by one (glibc; nothing happens elsewhere).

    glibc itself learns from the first such block that is freed to take those of up to 32 MiB from
    its heap, whose holes stay with the process. Loading a model leaves many: a freed 16-bit matrix
    between any two quantised ones, more than half of the quantised model.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
        mallopt(TRIM_THRESHOLD, KEPT_FREE)
