"""One stream's sender and its way through a bad network, in virtual time: packets, requests for repeats, repeats.

A packet leaves every 20 ms, when its last sample was said. A request goes back over a way that is as long and
where nothing is wrong, as in a live call whose other direction is good; `media/nack.py` says what may go again, and
a repeat takes its chances on the same link. One rule: without requests a seed gives everybody the same packets.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.netem.emulator import Link, LinkAccount
from loadtests.netem.profiles import Profile
from media.nack import Repeats
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S

HEADERS_BYTES: Final = 20 + 8 + 12 + 10
"""IPv4, UDP, RTP, and SRTP's tag."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Packet `index` of the stream comes."""

    index: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Span:
    """When the profile holds, ns of virtual time; before and after it the way is clean."""

    from_ns: int
    until_ns: int

    @classmethod
    def of(cls, begin_s: float, seconds: float) -> Span:
        begin_ns = round(begin_s * NS_PER_S)
        return cls(begin_ns, begin_ns + round(seconds * NS_PER_S))


class Way:
    """`span` None: nothing is ever wrong."""

    def __init__(self, profile: Profile, seed: int, payloads: Sequence[bytes], span: Span | None) -> None:
        self.round_trip_ns = round(2 * profile.base_ms * NS_PER_MS)
        self._link: Link[int] = Link(profile.recovered, seed)
        self._payloads = payloads
        self._changes = [(span.from_ns, profile), (span.until_ns, profile.recovered)] if span else []
        self._sent = 0
        self._repeats = Repeats()
        self._requests: list[
            tuple[int, int]
        ] = []  # when one is at the sender, and the packet that it asks for

    @property
    def account(self) -> LinkAccount:
        """What became of all that was sent."""
        return self._link.account

    def until(self, now_ns: int | None) -> list[Arrival]:
        """All that has come by then and was not told yet, each at its own time; None: to the end of the stream."""
        arrivals: list[Arrival] = []
        while True:
            at_ns, what = min(self._due(), default=(0, -1))
            if what < 0 or (now_ns is not None and at_ns > now_ns):
                return arrivals
            if what == 0:
                arrivals += [Arrival(index, at_ns) for index in self._link.poll(at_ns)]
            elif what == 1:
                self._send(at_ns)
            else:
                self._repeat(at_ns, heapq.heappop(self._requests)[1])

    def ask(self, indices: Sequence[int], now_ns: int) -> None:
        """These are wanted again: one request, now."""
        for index in indices:
            heapq.heappush(self._requests, (now_ns + self.round_trip_ns // 2, index))

    def _due(self) -> list[tuple[int, int]]:
        """What happens next: when, and 0 an arrival, 1 a packet leaves, 2 a request is at the sender."""
        due = []
        if (at_ns := self._link.next_deadline()) is not None:
            due.append((at_ns, 0))
        if self._sent < len(self._payloads):
            due.append(((self._sent + 1) * FRAME_NS, 1))
        if self._requests:
            due.append((self._requests[0][0], 2))
        return due

    def _send(self, now_ns: int) -> None:
        while self._changes and self._changes[0][0] <= now_ns:
            self._link.become(self._changes.pop(0)[1], now_ns)
        self._repeats.keep(self._sent & 0xFFFF, self._sent.to_bytes(8, "big"), now_ns)
        self._link.send(self._sent, len(self._payloads[self._sent]) + HEADERS_BYTES, now_ns)
        self._sent += 1

    def _repeat(self, now_ns: int, index: int) -> None:
        for kept in self._repeats.again([index & 0xFFFF], now_ns, self.round_trip_ns):
            self._link.send(int.from_bytes(kept, "big"), len(self._payloads[index]) + HEADERS_BYTES, now_ns)
