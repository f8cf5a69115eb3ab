"""Receive paths in virtual time, side by side: the same packets at the same times, and what a listener gets.

`ours` is `media/jitter.py` with libopus, cut every 200 ms. `aiortc_as_it_comes` is aiortc's own jitter buffer
(`capacity=16, prefetch=4`, as in its RTCRtpReceiver) and its own Opus decoder, called for each packet as its
`_handle_rtp_packet` does; its track hands frames out as they come, so a sink plays one every 20 ms from the first
on, and silence when there is none. Neither its sockets nor its threads run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import soxr
from aiortc.codecs.opus import OpusDecoder as AiortcOpusDecoder
from aiortc.jitterbuffer import JitterBuffer as AiortcJitterBuffer
from aiortc.rtp import RtpPacket

from loadtests.netem.score import Heard
from loadtests.netem.speech import OPUS_HZ, RATE
from media.codecs.opus import OpusDecoder
from media.jitter import JitterBuffer
from media.sound import Decoder
from media.timebase import FRAME_MS, FRAME_NS, FRAMES_PER_TURN, NS_PER_MS, TURN_NS

PHASE_NS: Final = 7 * NS_PER_MS
"""Of our cuts against the sender's packets: any will do, this one is no multiple of 20 ms."""
FIRST_SEQUENCE, FIRST_TIMESTAMP, SSRC = 65_000, 2**32 - 48_000, 7
"""Both counters wrap within the first seconds."""
TICKS: Final = OPUS_HZ * FRAME_MS // 1000


@dataclass(frozen=True, slots=True)
class Arrival:
    """Packet `index` of the stream comes."""

    index: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Received:
    """What one path made of a stream. Counts are of the whole stream."""

    heard: Heard
    cpu_us: list[float]
    """CPU of each 200 ms: all packets that came in them, and the cut."""
    concealed_ms: float = 0.0
    recovered_ms: float = 0.0
    stretched_ms: float = 0.0
    shortened_ms: float = 0.0
    late_packets: int = 0
    skipped_packets: int = 0
    lost_packets: int = 0
    silent_ms: float = 0.0
    """Played while nothing was there."""
    inner_delay_ms: list[float] = field(default_factory=list)
    """What the path itself says of its delay, at each cut."""


Receiver = Callable[[Sequence[bytes], Sequence[Arrival], int], Received]
"""(payloads, arrivals in their order, when to stop in ns) -> what was heard."""


def ours(
    payloads: Sequence[bytes], arrivals: Sequence[Arrival], until_ns: int, decoder: Decoder | None = None
) -> Received:
    """Our packet door with libopus at 16 kHz."""
    buffer = JitterBuffer(decoder or OpusDecoder(RATE), RATE, OPUS_HZ)
    waiting = deque(arrivals)
    parts, cpu_us, inner = [], [], []
    begin_ns = TURN_NS + PHASE_NS
    for now_ns in range(begin_ns, until_ns, TURN_NS):
        before_ns = time.thread_time_ns()
        while waiting and waiting[0].at_ns <= now_ns:
            arrival = waiting.popleft()
            sequence = (FIRST_SEQUENCE + arrival.index) & 0xFFFF
            timestamp = (FIRST_TIMESTAMP + arrival.index * TICKS) & 0xFFFFFFFF
            buffer.receive_packet(SSRC, sequence, timestamp, payloads[arrival.index], arrival.at_ns)
        parts.append(buffer.cut(now_ns).pcm)
        cpu_us.append((time.thread_time_ns() - before_ns) / 1000)
        inner.append(buffer.delay_ms)
    account, packets = buffer.account, buffer.packets
    return Received(
        Heard(np.concatenate(parts), begin_ns - TURN_NS),
        cpu_us,
        concealed_ms=_ms(account.concealed),
        recovered_ms=_ms(account.recovered),
        stretched_ms=_ms(account.stretched),
        shortened_ms=_ms(account.shortened),
        late_packets=packets.late,
        skipped_packets=packets.skipped,
        lost_packets=buffer.lost_packets,
        inner_delay_ms=inner,
    )


def aiortc_as_it_comes(payloads: Sequence[bytes], arrivals: Sequence[Arrival], until_ns: int) -> Received:
    """aiortc 1.16's jitter buffer and decoder, and a sink that plays 20 ms every 20 ms."""
    buffer, decoder = AiortcJitterBuffer(capacity=16, prefetch=4), AiortcOpusDecoder()
    frames: deque[Any] = deque()  # of aiortc's track, which has no bound either
    waiting = deque(arrivals)
    parts: list[np.ndarray[Any, Any]] = []
    cpu_us: list[float] = []
    spent_us, silent, now_ns, begun_ns = 0.0, 0, 0, 0
    while now_ns < until_ns:
        before_ns = time.thread_time_ns()
        while waiting and waiting[0].at_ns <= now_ns:
            frames.extend(_through_aiortc(buffer, decoder, payloads, waiting.popleft()))
        if frames and not begun_ns:
            begun_ns = now_ns
        if begun_ns:
            parts.append(_left(frames.popleft()) if frames else np.zeros(TICKS, np.int16))
            silent += not parts[-1].any()
        spent_us += (time.thread_time_ns() - before_ns) / 1000
        if now_ns // FRAME_NS % FRAMES_PER_TURN == FRAMES_PER_TURN - 1:
            cpu_us.append(spent_us)
            spent_us = 0.0
        now_ns += FRAME_NS
    pcm = soxr.resample(np.concatenate(parts), OPUS_HZ, RATE) if parts else np.zeros(0, np.int16)
    return Received(Heard(pcm, begun_ns - FRAME_NS), cpu_us, silent_ms=silent * FRAME_MS)


def _through_aiortc(
    buffer: AiortcJitterBuffer, decoder: AiortcOpusDecoder, payloads: Sequence[bytes], arrival: Arrival
) -> list[Any]:
    """What `RTCRtpReceiver._handle_rtp_packet` and its decoder's thread do with an audio packet."""
    packet = RtpPacket(
        payload_type=111,
        sequence_number=(FIRST_SEQUENCE + arrival.index) & 0xFFFF,
        timestamp=(FIRST_TIMESTAMP + arrival.index * TICKS) & 0xFFFFFFFF,
        ssrc=SSRC,
        payload=payloads[arrival.index],
    )
    packet._data = payloads[arrival.index]  # type: ignore[attr-defined]
    _, encoded = buffer.add(packet)
    return decoder.decode(encoded) if encoded is not None and encoded.data else []


def _left(frame: Any) -> np.ndarray[Any, Any]:
    """int16 [TICKS] of interleaved stereo."""
    pcm: np.ndarray[Any, Any] = frame.to_ndarray()
    return pcm[0, ::2]


def _ms(samples: int) -> float:
    return round(1000 * samples / RATE, 1)


RECEIVERS: Final[dict[str, Receiver]] = {"ours": ours, "aiortc": aiortc_as_it_comes}
