"""How many offers one client address may make: a token bucket each, in a table that cannot grow.

Time is an argument. When the table is full, the address that was silent longest is forgotten; whoever floods
from many addresses is held by the places for calls themselves.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from gateway.sources import source_of
from media.timebase import NS_PER_S

MOST_ADDRESSES: Final = 4096
BURST_S: Final = 4
"""A bucket holds so many seconds' worth: a page may be loaded again, an office may start its day."""


class OfferRate:
    """`per_s` offers a second and address; 0 is no limit."""

    def __init__(self, per_s: int, most_addresses: int = MOST_ADDRESSES) -> None:
        self._per_s, self._most = per_s, most_addresses
        self._burst = float(per_s * BURST_S)
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, address: str, now_ns: int) -> int:
        """0 when an offer of this address may pass now, which is then counted; else the seconds to wait."""
        if not self._per_s:
            return 0
        key = source_of(address)
        level, seen_ns = self._buckets.pop(key, (self._burst, now_ns))
        level = min(self._burst, level + (now_ns - seen_ns) * self._per_s / NS_PER_S)
        passes = level >= 1.0
        self._buckets[key] = (level - passes, now_ns)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0 if passes else math.ceil((1.0 - level) / self._per_s)
