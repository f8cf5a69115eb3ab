"""A finished call in figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gateway.caller.analysis import ReceivedAudio, SentAudio, Windows, find_windows, received_audio
from gateway.caller.codec import CLOCK_HZ, FRAME_TICKS
from media.quality import estimate_mos

if TYPE_CHECKING:
    from gateway.caller.calls import CallLog

CHUNK_MS = 200.0  # one micro-turn: what the echo engine holds back by design


@dataclass(frozen=True, slots=True)
class DelaySummary:
    """Percentiles of windows' delays in ms, and `growth`: the last fifth's median less the first fifth's."""

    p50: float
    p95: float
    p99: float
    max: float
    growth: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to 0.01 ms, in the order of the fields."""
        return {name: round(float(getattr(self, name)), 2) for name in ("p50", "p95", "p99", "max", "growth")}

    def beyond_chunk(self) -> DelaySummary:
        """The same less the 200 ms of the chunk; growth is a difference already."""
        return DelaySummary(
            self.p50 - CHUNK_MS, self.p95 - CHUNK_MS, self.p99 - CHUNK_MS, self.max - CHUNK_MS, self.growth
        )


@dataclass(frozen=True, slots=True)
class CallReport:
    """One call. Fields that need media are zero or None when none came back."""

    uri: str
    codec: str
    status: int  # final SIP status: 200, or why not
    reason: str
    retry_after_s: int | None
    ended_by: str  # "us", "peer", "refused" or "timeout"
    setup_ms: float | None  # INVITE to its 200; None when not answered
    sent_packets: int
    received_packets: int
    lost_packets: int
    duplicate_packets: int
    reordered_packets: int
    other_datagrams: int  # RTCP, other payload types, not RTP
    send_errors: int
    jitter_ms: float
    longest_silence_ms: float  # between two arrivals
    delay_ms: DelaySummary | None  # round trip, the engine's chunk included
    gap_ms: float  # active audio that never came back
    active_ms: float  # audio that could have come back
    concealed_ms: float  # of lost packets: what a receiver has to make up
    mos: float | None
    windows: Windows | None = field(repr=False)
    recording: NDArray[np.int16] | None = field(repr=False)  # int16 [n] at `rate_hz`
    rate_hz: int

    @property
    def answered(self) -> bool:
        return self.setup_ms is not None

    @property
    def media_came_back(self) -> bool:
        """Whether anything that we said was heard again."""
        return self.windows is not None and self.windows.delay_ms.size > 0

    @property
    def beyond_chunk_ms(self) -> DelaySummary | None:
        return self.delay_ms.beyond_chunk() if self.delay_ms is not None else None


def summarise_delay(windows: Windows) -> DelaySummary | None:
    """Percentiles and growth over the windows of one call, in the order they were sent; None without any."""
    delays = windows.delay_ms
    if delays.size == 0:
        return None
    p50, p95, p99 = np.percentile(delays, [50, 95, 99])
    fifth = max(1, delays.size // 5)
    growth = float(np.median(delays[-fifth:]) - np.median(delays[:fifth]))
    return DelaySummary(float(p50), float(p95), float(p99), float(delays.max()), growth)


def report_call(log: CallLog) -> CallReport:
    """Analyse a finished call. Takes some 10 ms per second of call, so not while others are paced."""
    received: ReceivedAudio | None = None
    windows: Windows | None = None
    if log.answered:
        received = received_audio(log.datagrams, log.arrivals_ns, log.received_type, log.codec)
        sent = SentAudio(
            pcm=log.sent_pcm,
            rate_hz=log.codec.rate_hz,
            packet_samples=FRAME_TICKS * log.codec.samples_per_tick,
            sent_ns=np.array(log.sent_ns, dtype=np.int64),
            carried=np.frombuffer(bytes(log.audio_sent), dtype=np.bool_),
        )
        windows = find_windows(sent, received, log.listened_until_ns)
    delay = summarise_delay(windows) if windows is not None else None
    lost = received.lost if received else 0
    return CallReport(
        uri=log.plan.uri,
        codec=log.codec.name,
        status=log.status,
        reason=log.reason,
        retry_after_s=log.retry_after_s,
        ended_by=log.ended_by,
        setup_ms=(log.answered_ns - log.invited_ns) / 1e6 if log.answered_ns is not None else None,
        sent_packets=len(log.sent_ns),
        received_packets=received.packets if received else 0,
        lost_packets=lost,
        duplicate_packets=received.duplicates if received else 0,
        reordered_packets=received.reordered if received else 0,
        other_datagrams=received.other if received else 0,
        send_errors=log.send_errors,
        jitter_ms=received.jitter_ms if received else 0.0,
        longest_silence_ms=received.longest_silence_ms if received else 0.0,
        delay_ms=delay,
        gap_ms=windows.gap_ms if windows else 0.0,
        active_ms=windows.active_ms if windows else 0.0,
        concealed_ms=lost * FRAME_TICKS * 1000 / CLOCK_HZ,
        mos=_mos(log.codec.name, delay, received, windows),
        windows=windows,
        recording=received.pcm if received is not None and log.plan.record else None,
        rate_hz=log.codec.rate_hz,
    )


def _mos(
    codec: str, delay: DelaySummary | None, received: ReceivedAudio | None, windows: Windows | None
) -> float | None:
    """One way is half the round trip; loss is the worse of what RTP says and what was not heard again."""
    if delay is None or received is None or windows is None:
        return None
    unique = received.packets - received.duplicates
    lost_percent = 100 * received.lost / max(1, unique + received.lost)
    gap_percent = 100 * windows.gap_ms / max(1.0, windows.active_ms)
    return estimate_mos(codec, delay.p50 / 2, max(lost_percent, gap_percent))
