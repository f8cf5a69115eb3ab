"""Stalls, and silence of every kind: nothing of it is loss, and the delay comes back to its floor."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from media.codecs import opus
from media.jitter import LATE_BOUND_MS
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS
from tests.support.virtual_line import (
    FLOOR_MS,
    FRAME,
    NUMBERS,
    PATH_NS,
    RATE,
    TICKS,
    TURN,
    Listener,
    Sent,
    counting,
    jittery,
    lag_samples,
    needs_speech,
    numbered,
    speech,
    spoken,
    stalled,
    stream,
)


@pytest.mark.parametrize("length_ms", [30, 100, 300, 1_000, 5_000])
def test_after_a_stall_the_delay_is_at_its_floor_within_two_seconds(length_ms: int) -> None:
    from_ns = 4 * NS_PER_S + 130 * NS_PER_MS
    listener = counting().hear(stalled(stream(NUMBERS, 1_000), from_ns, length_ms * NS_PER_MS))
    after = (from_ns + length_ms * NS_PER_MS) // TURN_NS
    p, account = listener.buffer.packets, listener.buffer.account
    assert max(listener.delays_ms[after + 10 :]) <= FLOOR_MS
    assert max(listener.delays_ms) <= FLOOR_MS + LATE_BOUND_MS
    assert p.late == 0 and listener.buffer.lost_packets == 0
    assert p.skipped * 20 <= max(0, length_ms - LATE_BOUND_MS)
    assert account.concealed == sum(cut.concealed for cut in listener.cuts)
    dropped = sum(cut.dropped for cut in listener.cuts)
    assert dropped == account.shortened + p.skipped * FRAME
    assert abs(dropped - account.concealed) <= FRAME  # what was made up for it, and no more


def test_a_single_stall_does_not_teach_a_delay() -> None:
    listener = counting().hear(stalled(stream(NUMBERS, 600), 4 * NS_PER_S, NS_PER_S))
    assert listener.buffer.target_ms < 5


def paused_stream(*, clock_stands: bool) -> list[Sent]:
    """10 s of packets, 10.1 s of none, 10 s of packets."""
    sent = stream(NUMBERS, 1_000)
    skip, muted_ns = 0 if clock_stands else 505 * TICKS, 10_100 * NS_PER_MS
    after = [
        replace(p, timestamp=(p.timestamp + skip) % 2**32, arrival_ns=(p.arrival_ns or 0) + muted_ns)
        for p in sent[500:]
    ]
    return [*sent[:500], *after]


@pytest.mark.parametrize("clock_stands", [False, True])
def test_a_muted_sender_is_silence_that_is_said_and_comes_back_without_delay(clock_stands: bool) -> None:
    listener = counting().hear(paused_stream(clock_stands=clock_stands))
    p, pcm = listener.buffer.packets, listener.pcm
    assert not pcm[int(10.2 * RATE) : int(19.8 * RATE)].any()
    assert [cut.concealed for cut in listener.cuts[52:98]] == [TURN] * 46
    assert listener.buffer.lost_packets == p.late == p.skipped == p.stray == 0
    heard = pcm[pcm > 0]
    assert set(np.diff(heard)) == {0, 1} or set(np.diff(heard)) == {0, 1, 2}
    back = next(cut.pcm for cut in listener.cuts[60:] if cut.pcm.any())
    assert not back[0] and back[-1]  # no hole behind the first words
    assert max(listener.delays_ms[110:]) <= FLOOR_MS
    assert listener.buffer.account.shortened <= LATE_BOUND_MS * RATE // 1000


def dtx(pcm: np.ndarray, *, marks: bool) -> list[Sent]:
    """What a browser sends with DTX: of the frames without voice the first mark and one in 400 ms."""
    lib, error = opus.library(), ctypes.c_int()
    encoder = lib.opus_encoder_create(RATE, 1, 2048, ctypes.byref(error))
    set_dtx, set_rate = 4016, 4002
    for request, value in ((set_dtx, 1), (set_rate, 24_000)):
        assert lib.opus_encoder_ctl(ctypes.c_void_p(encoder), request, ctypes.c_int32(value)) == 0
    out, sent, quiet = ctypes.create_string_buffer(1275), [], False
    for index in range(len(pcm) // FRAME):
        frame = pcm[index * FRAME : (index + 1) * FRAME].tobytes()
        size = lib.opus_encode(encoder, frame, FRAME, ctypes.addressof(out), 1275)
        assert size > 0
        silent, quiet = size <= 2 and (quiet or not marks), size <= 2
        if not silent:
            arrival_ns = index * 20 * NS_PER_MS + PATH_NS
            sent.append(Sent(len(sent) % 2**16, index * TICKS, bytes(out.raw[:size]), arrival_ns))
    lib.opus_encoder_destroy(encoder)
    return sent


@needs_speech
@pytest.mark.parametrize("marks", [True, False])
def test_suppressed_silence_is_neither_loss_nor_delay(marks: bool) -> None:
    rng = np.random.default_rng(1)
    hush = rng.normal(0, 6, 10 * RATE).astype(np.int16)
    said = np.concatenate((speech(12.0)[: 6 * RATE], hush, speech(12.0)[6 * RATE :]))
    sent = dtx(said, marks=marks)
    assert len(sent) < 0.75 * len(said) / FRAME  # the encoder did fall silent
    listener = Listener().hear(sent)
    account, buffer = listener.buffer.account, listener.buffer
    assert buffer.lost_packets == 0 and buffer.packets.decoded + buffer.waiting_packets == len(sent)
    assert account.comfort > (8 * RATE if marks else 2 * RATE)
    assert marks is (account.concealed == 0)  # nothing said that there would be no packet
    lags = [lag_samples(listener.pcm, said, at * RATE)[0] for at in (2, 4, 18, 20)]
    assert max(lags) - min(lags) <= 8 and max(listener.delays_ms) <= FLOOR_MS


@needs_speech
def test_a_pause_of_more_than_a_second_is_absence_and_said() -> None:
    sent = stream((*spoken(4.0)[:199], b"\x48"), 200)  # ends with a DTX mark, and nothing follows
    listener = Listener().hear(sent, until_ns=9 * NS_PER_S)
    account = listener.buffer.account
    assert RATE <= account.comfort <= RATE + FRAME * 10
    assert 3.5 * RATE < account.concealed < 4 * RATE and not listener.cuts[-1].pcm.any()


def test_concealment_made_in_advance_is_said_in_the_turn_that_has_it() -> None:
    payloads = [numbered(index, 6 * FRAME) for index in range(200)]
    sent = jittery(stream(payloads, 200, ticks=6 * TICKS), 240.0, seed=9)
    listener = counting().hear([*sent[:100], *sent[106:]])
    concealed = [cut.concealed for cut in listener.cuts]
    assert sum(concealed) == listener.buffer.account.concealed >= 5 * 6 * FRAME
    assert TURN in concealed


def test_a_gap_in_the_time_stamps_without_one_in_the_sequence_is_comfort_noise() -> None:
    sent = stream(NUMBERS, 60)
    later = [
        replace(p, timestamp=p.timestamp + 5 * TICKS, arrival_ns=(p.arrival_ns or 0) + 100 * NS_PER_MS)
        for p in stream(NUMBERS, 200, timestamp=0)[60:]
    ]
    sent = [*stream(NUMBERS, 200, timestamp=0)[:60], *later]
    listener = counting().hear(sent)
    assert listener.buffer.account.comfort == 5 * FRAME
    assert listener.buffer.account.concealed == listener.buffer.lost_packets == 0
