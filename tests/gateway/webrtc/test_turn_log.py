"""Rows of a leg that really plays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gateway.webrtc.turn_log import HELD, MISSED, QUIET_DBOV, VIDEO, TurnLog, level_dbov
from gateway.webrtc.voice import Voice
from media.chunk import Chunk, Reply
from media.codecs.opus import OpusDecoder
from media.jitter import JitterBuffer
from media.leg import Leg, Tenancy
from media.rtp import RtpPacket, parse_packet
from media.timebase import FRAME_NS, FRAMES_PER_TURN, MODEL_HZ


class Quiet:
    loss_told = 0.25


def turns(count: int, answered: bool) -> tuple[TurnLog, list[Chunk]]:
    """A leg that hears itself: its own packets come back as the caller's."""
    leg = Leg(JitterBuffer(OpusDecoder(MODEL_HZ)))
    leg.lease(Tenancy(0, 1, 0, 0))
    voice, log, chunks = Voice(leg.playout, 96, 32_000), TurnLog(leg), []
    log.begin(True)
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(3200) / MODEL_HZ)).astype(np.int16)
    for frame in range(count * FRAMES_PER_TURN):
        now_ns = frame * FRAME_NS
        packet = parse_packet(voice.next_packet(now_ns))
        assert isinstance(packet, RtpPacket)
        log.spoke(voice.last_frame)
        leg.intake.receive_packet(packet.ssrc, packet.sequence, packet.timestamp, packet.payload, now_ns)
        if frame % FRAMES_PER_TURN == FRAMES_PER_TURN - 1:
            chunk = leg.cut(now_ns, now_ns, now_ns)
            assert chunk is not None
            chunks.append(chunk)
            log.add(chunk)
            if answered:
                leg.receive_reply(Reply(1, chunk.turn, now_ns, tone))
    return log, chunks


def test_levels_and_what_was_heard() -> None:
    log, _ = turns(6, answered=True)
    assert len(log) == 6
    message = log.take(Quiet())
    assert message["first"] == 0 and len(message["turns"]) == 6 and len(log) == 0
    _, out_dbov, concealed, lost, _, heard_ms, flags = message["turns"][-1]
    assert -16 < out_dbov < -14  # a sine of 8000 is 15.2 dB below overload
    assert (concealed, lost, heard_ms, flags) == (0, 0, 200, 0)
    assert message["loss_sent"] == 0.25


def test_a_reply_that_never_came_is_marked() -> None:
    log, _ = turns(6, answered=False)
    rows = log.take(Quiet())["turns"]
    assert rows[-1][6] & MISSED and rows[0][6] == 0
    assert rows[-1][5] == 0


def test_turns_that_were_slept_over_have_no_row() -> None:
    log, chunks = turns(3, answered=True)
    assert log.goes_on_with(replace(chunks[-1], turn=3)) and not log.goes_on_with(replace(chunks[-1], turn=5))
    log.take(Quiet())
    assert log.goes_on_with(replace(chunks[-1], turn=5))
    log.add(replace(chunks[-1], turn=5))
    assert log.take(Quiet())["first"] == 5


def test_nobody_watches_nothing_is_computed() -> None:
    log, _ = turns(1, answered=True)
    log.begin(False)
    log.spoke(b"\x01" * 640)
    assert len(log) == 0 and log._energy == 0.0


def test_levels_are_dbov() -> None:
    assert level_dbov(np.zeros(3200, np.int16)) == QUIET_DBOV
    assert level_dbov(np.full(3200, -32768, np.int16)) == 0
    assert level_dbov(np.full(3200, 3277, np.int16)) == -20
    assert HELD | VIDEO == 17
