"""One direction of a bad network: packets in, the same packets out later, twice, in another order, or never.

    send -> lost? -> queue of the bottleneck -> stalls -> delay and jitter, drift -> perhaps twice -> poll

    link = Link(profile, seed=7)
    link.send(packet, len(packet), now_ns)        then sleep until link.next_deadline(), and
    link.poll(now_ns)                             gives what has arrived by then

Knows no clock, socket or codec. Its rules: the same seed and the same sends give the same arrivals; and no packet
is lost from the account. At any time

    sent + duplicated = delivered + lost + overflowed + waiting
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import Generic, TypeVar

from loadtests.netem.bottleneck import Bottleneck
from loadtests.netem.profiles import Profile
from media.timebase import NS_PER_MS, NS_PER_S

MAX_WAITING = 20_000
"""Packets under way; more are not taken (counted as overflowed): 100 calls for 4 s."""

T = TypeVar("T")


@dataclass(slots=True)
class LinkAccount:
    """Packets since the link began."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    overflowed: int = 0
    """Not taken by a full queue."""
    duplicated: int = 0
    """Copies, beside the packets themselves."""
    overtaken: int = 0
    """Delivered after one that was sent later."""


class Link(Generic[T]):
    """One direction under a profile."""

    def __init__(self, profile: Profile, seed: int, now_ns: int = 0) -> None:
        self.account = LinkAccount()
        self._seed = seed
        self._changes = 0
        self._under_way: list[tuple[int, int, int, T]] = []  # arrival, order of entry, number, packet
        self._entries = 0
        self._last_ns = 0  # the latest arrival so far
        self._highest = 0  # number of the newest packet delivered
        self.become(profile, now_ns)

    @property
    def waiting(self) -> int:
        """Packets under way."""
        return len(self._under_way)

    def become(self, profile: Profile, now_ns: int) -> None:
        """Another network from now on; what is under way arrives as it would have."""
        self.profile = profile
        self._began_ns = now_ns
        self._changes += 1
        rngs = [random.Random(f"{self._seed} {self._changes} {part}") for part in ("loss", "jitter", "twice")]
        self._twice = rngs[2]
        self._decide = profile.loss.begin(rngs[0]) if profile.loss else None
        self._delay = profile.jitter.begin(rngs[1]) if profile.jitter else None
        self._bottleneck = (
            Bottleneck(profile.rate.begin(now_ns), profile.queue_bytes) if profile.rate else None
        )

    def send(self, packet: T, size_bytes: int, now_ns: int) -> None:
        """A packet enters."""
        self.account.sent += 1
        if self._decide is not None and self._decide(now_ns - self._began_ns):
            self.account.lost += 1
            return
        passed_ns = self._bottleneck.admit(size_bytes, now_ns) if self._bottleneck else now_ns
        if passed_ns is None or len(self._under_way) >= MAX_WAITING:
            self.account.overflowed += 1
            return
        self._enter(packet, now_ns, passed_ns)
        if self.profile.duplicate and self._twice.random() < self.profile.duplicate:
            self.account.duplicated += 1
            self._enter(packet, now_ns, passed_ns)

    def next_deadline(self) -> int | None:
        """When the next packet arrives."""
        return self._under_way[0][0] if self._under_way else None

    def poll(self, now_ns: int) -> list[T]:
        """What has arrived by now, in that order."""
        arrived: list[T] = []
        while self._under_way and self._under_way[0][0] <= now_ns:
            _, _, number, packet = heapq.heappop(self._under_way)
            self.account.overtaken += number < self._highest
            self._highest = max(self._highest, number)
            arrived.append(packet)
        self.account.delivered += len(arrived)
        return arrived

    def _enter(self, packet: T, sent_ns: int, passed_ns: int) -> None:
        profile = self.profile
        arrival_ns = self._released_ns(passed_ns) + round(profile.base_ms * NS_PER_MS)
        arrival_ns -= round((sent_ns - self._began_ns) * profile.drift_ppm / 1_000_000)
        if self._delay is not None:
            arrival_ns += self._delay(sent_ns - self._began_ns)
        arrival_ns = max(arrival_ns, sent_ns)
        if not profile.reorder:
            arrival_ns = max(arrival_ns, self._last_ns)
        self._last_ns = max(self._last_ns, arrival_ns)
        self._entries += 1
        heapq.heappush(self._under_way, (arrival_ns, self._entries, self.account.sent, packet))

    def _released_ns(self, at_ns: int) -> int:
        """Nothing passes during a stall."""
        for start_s, length_ms in self.profile.stalls:
            begins_ns = self._began_ns + round(start_s * NS_PER_S)
            ends_ns = begins_ns + round(length_ms * NS_PER_MS)
            if begins_ns <= at_ns < ends_ns:
                at_ns = ends_ns
        return at_ns
