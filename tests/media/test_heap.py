"""Memory that was freed is taken again without asking the system for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FREED_AND_TAKEN = """
import ctypes, resource
from media import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [libc.malloc(size << 20) for size in (3, 7, 24)]
        for block, size in zip(blocks, (3, 7, 24)):
            ctypes.memset(block, 1, size << 20)
        for block in blocks:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert heap.keep()
faults()
print(faults())
"""
PAGES_OF_ALL = 34 * 256


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_blocks_of_megabytes_are_kept() -> None:
    run = subprocess.run([sys.executable, "-c", FREED_AND_TAKEN], capture_output=True, text=True, check=True)
    assert int(run.stdout) < PAGES_OF_ALL / 10
