"""How far a call goes down where its line is weak, how soon, and when it comes up again.

Each way has a ladder of its own. The camera suffers first, then the voice towards the caller, and where nothing
is left to be given up, both ends are told:

    rung   from the browser: pictures a chunk, REMB   towards it: Opus   told
    0      2   200 kbit/s                             48 kbit/s
    1      1   120 kbit/s                             24 kbit/s
    2      0    50 kbit/s                             16 kbit/s
    3      0    50 kbit/s                             16 kbit/s          `line weak`

    down a rung    `BAD_LOSS` of the packets, or a round trip `BAD_QUEUE_MS` above the call's best, for `DOWN_NS`
    up a rung      less than `GOOD_LOSS`, and less than `GOOD_QUEUE_MS`, for `UP_NS`
    between them   stays where it is

Loss is smoothed over `SMOOTH_NS`. 10 % is where Google's congestion control begins to yield
(draft-ietf-rmcat-gcc-02 section 6); its 2 % for rising would hold a call that loses some by chance down for good.
In-band FEC has thresholds of its own (`media/codecs/opus.py`). Knows no clock; its one rule: one rung at a time.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from media.timebase import NS_PER_S

BAD_LOSS, GOOD_LOSS = 0.10, 0.04
BAD_QUEUE_MS, GOOD_QUEUE_MS = 300.0, 100.0
DOWN_NS, UP_NS = 2 * NS_PER_S, 10 * NS_PER_S
SMOOTH_NS = 2 * NS_PER_S


class Camera(NamedTuple):
    """What is asked of a camera: pictures in a chunk, bit/s."""

    frames: int
    bit_s: int


CAMERA: Final = (Camera(2, 200_000), Camera(1, 120_000), Camera(0, 50_000), Camera(0, 50_000))
OPUS_BIT_S: Final = (48_000, 24_000, 16_000, 16_000)
LAST = len(CAMERA) - 1


class Ladder:
    """One way of one call's line."""

    def __init__(self) -> None:
        self.rung = 0
        self.downs = self.ups = 0
        self.loss = 0.0
        """Smoothed, 0 to 1."""
        self._heard_ns: int | None = None
        self._best_ms = math.inf
        self._since_ns: int | None = None  # for so long it has been bad, or good
        self._bad = False

    def update(self, loss: float, round_trip_ms: float | None, now_ns: int) -> bool:
        """A report: the share lost since the one before, the round trip if known. True when the rung changed."""
        past_ns = now_ns - self._heard_ns if self._heard_ns is not None else NS_PER_S
        self._heard_ns = now_ns
        self.loss += (loss - self.loss) * (1 - math.exp(-past_ns / SMOOTH_NS))
        trip_ms = round_trip_ms if round_trip_ms is not None else self._best_ms
        self._best_ms = min(self._best_ms, trip_ms)
        queue_ms = trip_ms - self._best_ms if trip_ms < math.inf else 0.0
        bad = self.loss >= BAD_LOSS or queue_ms >= BAD_QUEUE_MS
        good = self.loss < GOOD_LOSS and queue_ms < GOOD_QUEUE_MS
        if not bad and not good:
            self._since_ns = None
            return False
        if self._since_ns is None or bad != self._bad:
            self._since_ns, self._bad = now_ns, bad
        return self._step(now_ns - self._since_ns, now_ns)

    def _step(self, lasted_ns: int, now_ns: int) -> bool:
        if lasted_ns < (DOWN_NS if self._bad else UP_NS):
            return False
        self._since_ns = now_ns
        if self._bad and self.rung < LAST:
            self.rung, self.downs = self.rung + 1, self.downs + 1
        elif not self._bad and self.rung > 0:
            self.rung, self.ups = self.rung - 1, self.ups + 1
        else:
            return False
        return True


class Line:
    """Both ways of one call."""

    def __init__(self) -> None:
        self.inward, self.outward = Ladder(), Ladder()

    @property
    def camera(self) -> Camera:
        """What the camera may send now."""
        return CAMERA[self.inward.rung]

    @property
    def opus_bit_s(self) -> int:
        """What the voice towards the caller may take now."""
        return OPUS_BIT_S[self.outward.rung]

    @property
    def is_weak(self) -> bool:
        """There is nothing left to be given up, one way or the other."""
        return LAST in (self.inward.rung, self.outward.rung)

    def counts(self) -> dict[str, int]:
        """Rungs gone, by way."""
        return {
            "line_in_downs": self.inward.downs,
            "line_in_ups": self.inward.ups,
            "line_out_downs": self.outward.downs,
            "line_out_ups": self.outward.ups,
        }
