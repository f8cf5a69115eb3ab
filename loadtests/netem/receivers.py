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
from aiortc.rtp import RtpPacket as AiortcRtpPacket

from loadtests.netem.listener import Listener
from loadtests.netem.score import Heard
from loadtests.netem.speech import OPUS_HZ, OPUS_TYPE, RATE, RED_TYPE
from loadtests.netem.way import Arrival, Way
from media.codecs.opus import OpusDecoder
from media.rtp import RtpPacket
from media.timebase import FRAME_MS, FRAME_NS, FRAMES_PER_TURN, NS_PER_MS, TURN_NS

PHASE_NS: Final = 7 * NS_PER_MS
"""Of our cuts against the sender's packets: any will do, this one is no multiple of 20 ms."""
FIRST_SEQUENCE, FIRST_TIMESTAMP, SSRC = 65_000, 2**32 - 48_000, 7
"""Both counters wrap within the first seconds."""
TICKS: Final = OPUS_HZ * FRAME_MS // 1000


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
    repaired_packets: int = 0
    """Come again because they were asked for, or in another packet."""
    silent_ms: float = 0.0
    """Played while nothing was there."""
    inner_delay_ms: list[float] = field(default_factory=list)
    """What the path itself says of its delay, at each cut."""


Receiver = Callable[[Sequence[bytes], Way, int], Received]
"""(payloads, their way, when to stop in ns) -> what was heard."""


def ours(
    payloads: Sequence[bytes], way: Way, until_ns: int, *, repeats: bool = False, red: bool = False
) -> Received:
    """Our packet door with libopus at 16 kHz; with `repeats` it asks for what is missing, as a worker does each
    20 ms."""
    begin_ns = TURN_NS + PHASE_NS
    listener = Listener(OpusDecoder(RATE), RATE, OPUS_HZ, begin_ns, RED_TYPE if red else 0)
    cpu_us, spent_ns = [], 0
    for now_ns in range(begin_ns - TURN_NS + FRAME_NS, until_ns, FRAME_NS):
        arrivals = way.until(now_ns)
        before_ns = time.thread_time_ns()
        for arrival in arrivals:
            listener.receive(_packet(arrival.index, payloads, RED_TYPE if red else OPUS_TYPE), arrival.at_ns)
        listener.until(now_ns)
        wanted = listener.wanted(now_ns, way.round_trip_ns) if repeats else []
        spent_ns += time.thread_time_ns() - before_ns
        way.ask([_index(sequence, now_ns) for sequence in wanted], now_ns)
        if (now_ns - begin_ns) % TURN_NS == 0:
            cpu_us.append(spent_ns / 1000)
            spent_ns = 0
    buffer = listener.buffer
    account, packets, gaps = buffer.account, buffer.packets, listener.gaps.counters
    return Received(
        listener.heard(),
        cpu_us,
        concealed_ms=_ms(account.concealed),
        recovered_ms=_ms(account.recovered),
        stretched_ms=_ms(account.stretched),
        shortened_ms=_ms(account.shortened),
        late_packets=packets.late,
        skipped_packets=packets.skipped,
        lost_packets=buffer.lost_packets,
        repaired_packets=gaps.repaired + packets.revived,
        inner_delay_ms=listener.delays_ms,
    )


def _packet(index: int, payloads: Sequence[bytes], payload_type: int) -> RtpPacket:
    return RtpPacket(
        payload_type,
        (FIRST_SEQUENCE + index) & 0xFFFF,
        (FIRST_TIMESTAMP + index * TICKS) & 0xFFFFFFFF,
        SSRC,
        payloads[index],
    )


def _index(sequence: int, now_ns: int) -> int:
    """Of the newest packet so far that bears that number."""
    sent = now_ns // FRAME_NS
    return sent - ((FIRST_SEQUENCE + sent - sequence) & 0xFFFF)


def aiortc_as_it_comes(payloads: Sequence[bytes], way: Way, until_ns: int) -> Received:
    """aiortc 1.16's jitter buffer and decoder, and a sink that plays 20 ms every 20 ms."""
    buffer, decoder = AiortcJitterBuffer(capacity=16, prefetch=4), AiortcOpusDecoder()
    frames: deque[Any] = deque()  # of aiortc's track, which has no bound either
    parts: list[np.ndarray[Any, Any]] = []
    cpu_us: list[float] = []
    spent_us, silent, now_ns, begun_ns = 0.0, 0, 0, 0
    while now_ns < until_ns:
        arrivals = way.until(now_ns)
        before_ns = time.thread_time_ns()
        for arrival in arrivals:
            frames.extend(_through_aiortc(buffer, decoder, payloads, arrival))
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
    packet = AiortcRtpPacket(
        payload_type=OPUS_TYPE,
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
