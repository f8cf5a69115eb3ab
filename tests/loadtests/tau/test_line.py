"""Ticks on the time lines of a call."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.tau.line import (
    AHEAD_PACKETS,
    LATE_PACKETS,
    MOST_TICKS,
    PACKET_BYTES,
    PACKETS_PER_TICK,
    SILENCE,
    TICK_BYTES,
    Heard,
    Said,
    sounds,
)
from media.codecs import g711
from media.rtp import RtpPacket

LOUD = g711.encode_mulaw((8_000 * np.sin(np.arange(PACKET_BYTES) / 3)).astype(np.int16))


def datagram(number: int, payload: bytes) -> bytes:
    return RtpPacket(0, number, 7_000 + number * PACKET_BYTES, 1, payload).serialise()


def numbered(number: int) -> bytes:
    return bytes([number % 100]) * PACKET_BYTES


def test_ticks_lie_one_behind_the_other():
    said = Said(bytearray(SILENCE * 20 * TICK_BYTES))
    firsts = [said.say(bytes([n]) * TICK_BYTES, sent) for n, sent in enumerate((3, 13, 24, 33))]
    assert firsts == [3 + AHEAD_PACKETS + PACKETS_PER_TICK * n for n in range(4)]
    assert (said.late_ticks, said.silent_packets) == (0, 0)
    start = firsts[2] * PACKET_BYTES
    assert bytes(said.payload[start : start + TICK_BYTES]) == b"\x02" * TICK_BYTES


def test_a_late_tick_is_later_speech_and_counted():
    said = Said(bytearray(SILENCE * 20 * TICK_BYTES))
    first = said.say(b"\x01" * TICK_BYTES, 0)
    late = said.say(b"\x02" * TICK_BYTES, first + PACKETS_PER_TICK + 7)
    assert late == first + PACKETS_PER_TICK + 7 + AHEAD_PACKETS
    assert (said.late_ticks, said.silent_packets) == (1, 7 + AHEAD_PACKETS)
    between = said.payload[(first + PACKETS_PER_TICK) * PACKET_BYTES : late * PACKET_BYTES]
    assert bytes(between) == SILENCE * len(between)


def test_what_is_no_tick_and_what_has_no_room_is_refused():
    said = Said(bytearray(SILENCE * 2 * TICK_BYTES))
    with pytest.raises(ValueError, match="a tick has 1600 bytes of mu-law, 200 ms; this one has 1599"):
        said.say(b"\x01" * 1_599, 0)
    said.say(b"\x01" * TICK_BYTES, 0)
    with pytest.raises(EOFError, match="the call was to last 0.4 s"):
        said.say(b"\x01" * TICK_BYTES, 10)


def heard(
    until: int, lost: frozenset[int] = frozenset(), held: dict[int, int] | None = None
) -> tuple[Heard, list[bytes]]:
    """A tick every ten packets, packets coming at their times but for those that are held up."""
    line, ticks = Heard(), []
    for clock in range(until):
        for number in range(clock + 1):
            if number + (held or {}).get(number, 0) == clock and number not in lost:
                line.take(datagram(number, numbered(number)))
        if clock % PACKETS_PER_TICK == PACKETS_PER_TICK - 1:
            ticks.append(line.cut(clock + 1))
    return line, ticks


def test_what_is_heard_is_cut_into_ticks_without_a_seam():
    line, ticks = heard(40)
    whole = b"".join(ticks)
    first = LATE_PACKETS * PACKET_BYTES
    assert whole[:first] == SILENCE * first
    assert whole[first:] == b"".join(map(numbered, range(40 - LATE_PACKETS)))
    assert line.missing_bytes == line.late_packets == 0


def test_a_packet_may_be_held_up_by_40_ms():
    line, ticks = heard(40, held={27: LATE_PACKETS})
    assert line.missing_bytes == line.late_packets == 0
    assert numbered(27) in b"".join(ticks)


def test_what_is_lost_or_comes_too_late_is_silence_and_counted():
    line, ticks = heard(40, lost=frozenset({13}), held={27: 7})
    assert line.missing_bytes == 2 * PACKET_BYTES and line.late_packets == 1
    whole = b"".join(ticks)
    assert numbered(13) not in whole and numbered(27) not in whole and len(whole) == 4 * TICK_BYTES


def test_silence_that_came_while_nobody_ticked_is_left_out_and_speech_is_kept():
    line = Heard()
    for number in range(10):
        line.take(datagram(number, SILENCE * PACKET_BYTES))
    line.cut(10)
    for number in range(10, 60):
        line.take(datagram(number, LOUD if number >= 40 else SILENCE * PACKET_BYTES))
    ticks = [line.cut(60 + PACKETS_PER_TICK * n) for n in range(2)]
    assert line.skipped_bytes == 3 * TICK_BYTES and line.dropped_bytes == 0
    assert sounds(ticks[0]) and ticks[0].endswith(LOUD) and ticks[1] == LOUD * PACKETS_PER_TICK


def test_speech_that_nobody_fetches_is_bounded():
    line = Heard()
    for number in range(10):
        line.take(datagram(number, LOUD))
    line.cut(10)
    more = (MOST_TICKS + 5) * PACKETS_PER_TICK
    for number in range(10, 10 + more):
        line.take(datagram(number, LOUD))
    line.cut(10 + more)
    assert line.dropped_bytes == 5 * TICK_BYTES


def test_bad_datagrams_and_none_at_all():
    line = Heard()
    line.take(b"nonsense")
    assert line.cut(10) == SILENCE * TICK_BYTES
    assert line.bad_datagrams == 1 and line.missing_bytes == 0


def test_silence_of_a_line_does_not_sound():
    hiss = np.random.default_rng(1).normal(0, 20, TICK_BYTES).astype(np.int16)
    assert not sounds(g711.encode_mulaw(hiss))
    assert sounds(SILENCE * (TICK_BYTES - PACKET_BYTES) + LOUD)
