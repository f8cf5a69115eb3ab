"""The same call, some packets lost, by the packet door (a browser's) and the frame door (a telephone's)."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from media.chunk import Chunk
from media.chunker import Chunker
from media.jitter import JitterBuffer
from media.leg import Leg, Tenancy
from media.timebase import FRAME_NS, FRAMES_PER_TURN, MODEL_HZ, NS_PER_MS, TURN_NS
from tests.support.frame_store import FrameStore
from tests.support.virtual_line import CLOCK, NUMBERS, OFFSET_NS, PATH_NS, CountingDecoder, Sent, stream

TURNS = 12


def leg_of(intake: JitterBuffer | Chunker) -> Leg[JitterBuffer | Chunker]:
    leg = Leg(intake)
    leg.lease(Tenancy(slot=0, generation=1, group=0, budget_ns=5 * NS_PER_MS))
    return leg


def cut(leg: Leg[JitterBuffer | Chunker], now_ns: int) -> Chunk:
    chunk = leg.cut(now_ns, now_ns, now_ns)
    assert chunk is not None
    return chunk


def over_packets(lost: Container[int]) -> list[Chunk]:
    """A browser's call: packet n is the n-th 20 ms of the chunks."""
    sent: list[Sent] = [p for n, p in enumerate(stream(NUMBERS, FRAMES_PER_TURN * TURNS)) if n not in lost]
    intake = JitterBuffer(CountingDecoder(), MODEL_HZ, CLOCK)
    leg, chunks = leg_of(intake), []
    for turn in range(TURNS):
        now_ns = (turn + 1) * TURN_NS - FRAME_NS + PATH_NS + OFFSET_NS
        while sent and sent[0].arrival_ns is not None and sent[0].arrival_ns <= now_ns:
            p = sent.pop(0)
            assert p.arrival_ns is not None
            intake.receive_packet(p.ssrc, p.sequence, p.timestamp, p.payload, p.arrival_ns)
        chunks.append(cut(leg, now_ns))
    return chunks


def over_frames(lost: Container[int], rate_hz: int = 8_000) -> list[Chunk]:
    """A telephone's call: frame n is the n-th 20 ms of the chunks, later by concealment and resampling."""
    rng, store = np.random.default_rng(4), FrameStore()
    intake = Chunker(rate_hz, store)
    leg, chunks = leg_of(intake), []
    for turn in range(TURNS):
        for n in range(turn * FRAMES_PER_TURN, (turn + 1) * FRAMES_PER_TURN):
            if n not in lost:
                store.put(n, rng.normal(0, 3_000, rate_hz // 50).astype(np.int16), n * FRAME_NS)
        intake.look()
        chunks.append(cut(leg, (turn + 1) * TURN_NS))
    return chunks
