"""Memory that a process has taken stays with it.

Rows of 64 calls are megabytes, a picture is hundreds of kilobytes. glibc gives blocks of that size back to the
system when they are freed, and takes them anew the next time, page by page: thousands of page faults a step of the
model, a tenth of its time; and a tenth of what a camera costs a worker.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGEST_BLOCK_BYTES = 32 * 2**20
"""Kept when it is freed; glibc allows no more. A larger one comes from the system each time."""
MOST_KEPT_BYTES = 2**30
"""Free memory at the end of the heap beyond this is given back."""


def keep() -> bool:
    """From now on, for the whole process; False where the C library has no such knob."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_BLOCK_BYTES)) and bool(
        mallopt(_TRIM_THRESHOLD, MOST_KEPT_BYTES)
    )
