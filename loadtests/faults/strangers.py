"""RTP of strangers, as fast as is asked: `python -m loadtests.faults.strangers --ports 40000,40002 --per-s 20000`.

Well-formed PCMU of a loud noise, from addresses that no call has (127.0.2.x): what gets through would be heard.
Loopback alone is sent to. The last line on standard output is one JSON object: packets that were sent, from when
to when (monotonic ns).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Sequence

SOURCES = 8
BURST_S = 0.002
PAYLOAD = 160
MOST_SEGMENTS = 64
_UDP_SEGMENT = 103  # linux/udp.h; the socket module lacks it
_HEADER = struct.Struct("!BBHII")


def main(argv: Sequence[str]) -> int:
    """0 when it ran; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults.strangers")
    parser.add_argument("--ports", required=True, help="media ports on 127.0.0.1, separated by commas")
    parser.add_argument("--per-s", type=float, default=20_000.0, help="packets a second, over all ports")
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args(argv)
    if given.per_s <= 0 or given.seconds <= 0 or not given.ports.replace(",", "").isdigit():
        print("strangers: --ports are numbers, --per-s and --seconds are above 0", file=sys.stderr)
        return 2
    begin_ns = time.monotonic_ns()
    sent = send([int(port) for port in given.ports.split(",")], given.per_s, given.seconds)
    print(json.dumps({"sent": sent, "begin_ns": begin_ns, "end_ns": time.monotonic_ns()}))
    return 0


def send(ports: Sequence[int], per_s: float, seconds: float) -> int:
    """In bursts of 2 ms, each from one stranger at one port, in one system call (UDP_SEGMENT); what there was no
    time for is left out, not sent late. Returns how many."""
    burst = min(MOST_SEGMENTS, max(1, round(per_s * BURST_S)))
    every_s = burst / per_s
    rng = random.Random("strangers")
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOURCES)]
    for number, one in enumerate(sockets):
        one.bind((f"127.0.2.{number + 1}", 0))
        one.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, _HEADER.size + PAYLOAD)
    ways = itertools.cycle((one, ("127.0.0.1", port)) for one in sockets for port in ports)
    noise = [rng.randbytes(PAYLOAD) for _ in range(burst)]
    begin_s, sent = time.monotonic(), 0
    for number in range(int(seconds / every_s)):
        due_s = begin_s + number * every_s
        now_s = time.monotonic()
        if now_s > due_s + BURST_S:  # late by a burst: that one is left out
            continue
        time.sleep(max(0.0, due_s - now_s))
        way, to = next(ways)
        heads = (
            _HEADER.pack(0x80, 0, n & 0xFFFF, 160 * n & 0xFFFFFFFF, 7) for n in range(sent, sent + burst)
        )
        with contextlib.suppress(OSError):
            way.sendto(b"".join(head + body for head, body in zip(heads, noise, strict=True)), to)
            sent += burst
    for one in sockets:
        one.close()
    return sent


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
