"""What a worker has measured of one call, put together: its line, once a second, and what its turns count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.histogram import DELAY, JITTER, MOS, SHARE, Histogram
from gateway.state.records import Figures
from gateway.turns import CallSums
from media.leg import Leg
from media.quality import CODEC_IMPAIRMENTS, estimate_mos
from media.timebase import MODEL_HZ, TURN_MS

TELL_S: Final = 10
"""So often they are told while a call lives: so much of them is lost with a worker that dies."""
SAMPLES_PER_MS: Final = MODEL_HZ // 1000


@dataclass(slots=True)
class LineSums:
    """Of the line to one caller, over all that carried the call."""

    codec: str = ""
    packets: int = 0
    lost: int = 0
    jitter_max_ms: float = 0.0
    _samples: int = 0
    _jitter_ms: float = 0.0
    _delay_ms: float = 0.0
    _told: int = 0
    _round_trip_ms: float = 0.0

    def note(self, jitter_ms: float, delay_ms: float, round_trip_ms: float | None) -> None:
        """What it is like now; without a round trip where nobody told of one."""
        self._samples += 1
        self._jitter_ms += jitter_ms
        self._delay_ms += delay_ms
        self.jitter_max_ms = max(self.jitter_max_ms, jitter_ms)
        if round_trip_ms:
            self._told += 1
            self._round_trip_ms += round_trip_ms

    @property
    def jitter_ms(self) -> float:
        """Mean."""
        return self._jitter_ms / max(1, self._samples)

    @property
    def delay_ms(self) -> float:
        """Mean."""
        return self._delay_ms / max(1, self._samples)

    @property
    def round_trip_ms(self) -> float:
        """Mean; 0 where nobody told of one."""
        return self._round_trip_ms / max(1, self._told)


class Quality:
    """Of all calls of a worker, for metrics: each one's figures whenever they are told, and at its end."""

    def __init__(self, door: str) -> None:
        """`door`: telephone or browser."""
        self._mos = Histogram(f"call_mos_{door}", MOS)
        self._jitter = Histogram(f"call_jitter_{door}", JITTER)
        self._delay = Histogram(f"call_delay_{door}", DELAY)
        self._loss = Histogram(f"call_loss_{door}", SHARE)
        self._concealed = Histogram(f"call_concealed_{door}", SHARE)

    def note(self, figures: Figures) -> None:
        """Of a call that has had a turn; others say nothing of a line."""
        if not figures.turns:
            return
        self._concealed.observe(round(1e6 * figures.concealed_ms / (figures.turns * TURN_MS)))
        self._delay.observe(round(1e3 * figures.delay_ms))
        if figures.packets + figures.lost_packets:
            self._loss.observe(round(1e6 * figures.loss))
            self._jitter.observe(round(1e3 * figures.jitter_ms))
        if figures.mos:
            self._mos.observe(round(1e3 * figures.mos))

    def report(self) -> dict[str, int]:
        """As counters."""
        told: dict[str, int] = {}
        for histogram in (self._mos, self._jitter, self._delay, self._loss, self._concealed):
            told |= histogram.report()
        return told


def mos_of(line: LineSums, concealed_ms: int, heard_ms: int) -> float:
    """Estimated, of what was heard of that line; 0 where that was nothing, or its codec is not known."""
    if not heard_ms or line.codec not in CODEC_IMPAIRMENTS:
        return 0.0
    one_way_ms = line.delay_ms + line.round_trip_ms / 2
    return round(estimate_mos(line.codec, one_way_ms, 100 * concealed_ms / heard_ms), 2)


def figures_of(line: LineSums, sums: CallSums, leg: Leg[Any], tasks: int) -> Figures:
    """Of a call up to now."""
    ledger, concealed_ms = leg.playout.ledger, sums.concealed_samples // SAMPLES_PER_MS
    sent = line.packets + line.lost
    mos = mos_of(line, concealed_ms, sums.turns * TURN_MS)
    return Figures(
        codec=line.codec,
        turns=sums.turns,
        missed_turns=ledger.missed_turns,
        late_turns=ledger.late_turns,
        concealed_ms=concealed_ms,
        dropped_ms=sums.dropped_samples // SAMPLES_PER_MS,
        played_ms=1_000 * ledger.played // leg.playout.rate_hz,
        interruptions=leg.counters.interruptions,
        cuts=leg.counters.cuts,
        packets=line.packets,
        lost_packets=line.lost,
        loss=round(line.lost / sent, 5) if sent else 0.0,
        jitter_ms=round(line.jitter_ms, 2),
        jitter_max_ms=round(line.jitter_max_ms, 2),
        delay_ms=round(line.delay_ms, 1),
        round_trip_ms=round(line.round_trip_ms, 1),
        mos=mos,
        tasks=tasks,
        engine_ms=sums.engine_us // 1_000,
        memory=sums.memory,
    )
