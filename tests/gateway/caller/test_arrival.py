"""Which time an arrival is given: the kernel's, unless that cannot be."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from gateway.caller.arrival import arrival_ns

MS, S = 1_000_000, 1_000_000_000


def stamped(wall_ns: int) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, 35, struct.pack("@qq", *divmod(wall_ns, S)))]


def test_the_kernels_time_is_moved_to_the_monotonic_clock() -> None:
    to_monotonic_ns = -7_000 * S
    came_ns = time.monotonic_ns() - 5 * MS
    assert arrival_ns(stamped(came_ns - to_monotonic_ns), to_monotonic_ns) == came_ns


@pytest.mark.parametrize("off_ns", [-2 * S, 3_600 * S])
def test_a_time_from_before_or_after_a_step_of_the_wall_clock_is_not_believed(off_ns: int) -> None:
    before_ns = time.monotonic_ns()
    found_ns = arrival_ns(stamped(before_ns + off_ns), 0)
    assert before_ns <= found_ns <= time.monotonic_ns()


def test_without_a_time_of_the_kernel_it_is_now() -> None:
    before_ns = time.monotonic_ns()
    assert before_ns <= arrival_ns([], 0) <= time.monotonic_ns()
