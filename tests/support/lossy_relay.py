"""A UDP path on loopback that loses media packets, each way by a seed of its own; all else it lets pass.

with LossyRelay.start(("127.0.0.1", 7600), loss=0.05) as relay:
    ... a browser that is told `relay.port` instead of 7600 ...
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_BYTES = 2048


def is_media(datagram: bytes) -> bool:
    """RTP, and not RTCP (RFC 7983, RFC 5761)."""
    return len(datagram) > 12 and 128 <= datagram[0] < 192 and not 192 <= datagram[1] < 224


@dataclass
class LossyRelay:
    """One browser, one gateway."""

    target: tuple[str, int]
    loss: float
    lost: list[int] = field(default_factory=lambda: [0, 0])
    """Towards the gateway, and from it."""
    passed: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near.bind(("127.0.0.1", 0))
        self._far.connect(self.target)
        self._dice = [random.Random(1), random.Random(2)]
        self._browser: tuple[str, int] | None = None
        self._over = False
        self.port: int = self._near.getsockname()[1]

    @classmethod
    @contextlib.contextmanager
    def start(cls, target: tuple[str, int], loss: float) -> Iterator[LossyRelay]:
        """Relays until the block is left."""
        relay = cls(target, loss)
        thread = threading.Thread(target=relay._run)
        thread.start()
        try:
            yield relay
        finally:
            relay._over = True
            thread.join()
            relay._near.close()
            relay._far.close()

    def _run(self) -> None:
        while not self._over:
            ready, _, _ = select.select([self._near, self._far], [], [], 0.1)
            with contextlib.suppress(ConnectionError):  # the other side closed its port
                for sock in ready:
                    self._pass(sock)

    def _pass(self, sock: socket.socket) -> None:
        data, source = sock.recvfrom(MOST_BYTES)
        way = 0 if sock is self._near else 1
        if way == 0:
            self._browser = source
        if is_media(data) and self._dice[way].random() < self.loss:
            self.lost[way] += 1
            return
        self.passed[way] += 1
        if way == 0:
            self._far.send(data)
        elif self._browser is not None:
            self._near.sendto(data, self._browser)
