"""Packets become chunks: nothing is lost from the accounts, and the delay keeps to its floor.

Where sound is the subject the packets are people reading digits in Opus (ours, by libopus); where only time and
order are, the decoder is `CountingDecoder`, whose samples say which packet they are of. `Listener` checks
both accounts after every cut.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.codecs import opus
from media.codecs.opus import OpusDecoder
from media.jitter import LATE_BOUND_MS, PLAY_MS
from media.packets import MAX_PAYLOAD_BYTES, MAX_WAITING
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS
from tests.support.virtual_line import (
    CLOCK,
    FRAME,
    PATH_NS,
    RATE,
    SPEECH,
    TICKS,
    TURN,
    CountingDecoder,
    Listener,
    Sent,
    delayed,
    jittery,
    lossy,
    numbered,
    packed,
    speech,
    spoken,
    stalled,
    stream,
)

needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason=f"no recorded speech at {SPEECH}")
NUMBERS = [numbered(index) for index in range(30_000)]
FLOOR_MS = 4 + 20 + PLAY_MS
"""Guard, a packet's length of phase, and what is left alone: a steady line is never cut older than this."""


def counting() -> Listener:
    return Listener(CountingDecoder())


def lag_samples(heard: np.ndarray, said: np.ndarray, at: int, length: int = RATE // 2) -> tuple[int, float]:
    """By how much `heard` is behind `said` at sample `at` of `heard` (-100 ms..600 ms), and how alike they are."""
    piece = heard[at : at + length].astype(float)
    around = said[at - 9_600 : at + length + 1_600].astype(float)
    products = np.correlate(around, piece, "valid")
    power = np.convolve(around**2, np.ones(length), "valid")
    likeness = products / np.sqrt(power * (piece @ piece) + 1.0)
    best = int(np.argmax(likeness))
    return 9_600 - best, float(likeness[best])


# A clean line.


@needs_speech
@pytest.mark.parametrize("offset_ms", [0, 3, 9, 14, 19])
def test_a_clean_line_is_heard_without_a_gap_at_one_constant_lag(offset_ms: int) -> None:
    said = speech(20.0)
    listener = Listener(now_ns=TURN_NS + PATH_NS + offset_ms * NS_PER_MS)
    listener.hear(stream(spoken(20.0), 950))
    account = listener.buffer.account
    assert (account.concealed, account.comfort, account.shortened, account.stretched) == (0, 0, 0, 0)
    assert {round(ms, 3) for ms in listener.delays_ms} == {round(listener.delays_ms[0], 3)}
    assert 4 <= listener.delays_ms[0] < 24
    found = [lag_samples(listener.pcm, said, at) for at in range(2 * RATE, 17 * RATE, RATE)]
    assert len({lag for lag, _ in found}) == 1
    assert min(likeness for _, likeness in found) > 0.9


def test_a_clean_line_is_whole_before_each_cut_and_not_after_it() -> None:
    listener = counting()
    sent = stream(NUMBERS, 500)
    for turn in range(40):
        for p in sent[turn * 10 : turn * 10 + 10]:
            assert turn == 0 or not listener.buffer.is_whole()
            listener.buffer.receive_packet(p.ssrc, p.sequence, p.timestamp, p.payload, p.arrival_ns or 0)
            listener.arrived += 1
        assert turn == 0 or listener.buffer.is_whole()
        listener.cut()


def test_the_first_chunk_is_padded_in_front_and_its_newest_packet_has_its_guard() -> None:
    listener = counting()
    listener.now_ns = PATH_NS + 60 * NS_PER_MS + 3 * NS_PER_MS  # the fourth packet is 3 ms old: too young
    listener.hear(stream(NUMBERS, 100), until_ns=listener.now_ns)
    assert not listener.cuts[0].pcm[: TURN - 3 * FRAME].any()
    assert list(listener.cuts[0].pcm[TURN - 3 * FRAME :: FRAME]) == [1, 2, 3]
    assert (listener.buffer.account.padded, listener.cuts[0].concealed) == (TURN - 3 * FRAME, 0)
    assert listener.buffer.waiting_packets == 1


def test_before_the_first_packet_there_is_silence_that_is_said() -> None:
    listener = counting()
    cuts = [listener.cut() for _ in range(3)]
    assert [cut.concealed for cut in cuts] == [TURN] * 3 and not any(cut.pcm.any() for cut in cuts)


@pytest.mark.parametrize("ptime_ms", [10, 20, 40, 60, 120])
@pytest.mark.parametrize("jitter_ms", [0, 60])
def test_packets_of_any_length_are_heard_whole_and_in_order(ptime_ms: int, jitter_ms: int) -> None:
    samples = ptime_ms * RATE // 1000
    payloads = [numbered(index, samples) for index in range(3_000)]
    sent = jittery(stream(payloads, 24_000 // ptime_ms, ticks=ptime_ms * 48), jitter_ms, seed=5)
    listener = counting().hear(sent)
    heard = listener.pcm[RATE:]  # the first second may still learn
    order = heard[heard > 0]
    assert listener.buffer.packets.late <= (1 if jitter_ms else 0)  # sent before the first that came
    assert listener.buffer.account.concealed == 0
    assert (np.diff(order) >= 0).all() and set(np.diff(order)) <= {0, 1}
    assert max(listener.delays_ms) - min(listener.delays_ms[10:]) <= ptime_ms
    assert listener.delays_ms[-1] <= FLOOR_MS + jitter_ms + ptime_ms


@needs_speech
@pytest.mark.parametrize("frames", [2, 3, 6])
def test_packets_of_several_frames_are_repaired_from_the_fec_of_the_next(frames: int) -> None:
    payloads = packed(spoken(12.0, fec=True), frames)
    clean = stream(payloads, len(payloads), ticks=frames * TICKS)
    sent = [*clean[:10], *lossy(clean[10:], 0.1, seed=2)]
    lost = sum(p.arrival_ns is None for p in sent)
    listener = Listener().hear(sent)
    account = listener.buffer.account
    assert 0 < listener.buffer.lost_packets <= lost
    assert account.recovered > 0 and account.recovered % FRAME == 0
    assert account.recovered + account.concealed == listener.buffer.lost_packets * frames * FRAME


# Loss, jitter, drift.


@needs_speech
def test_ten_minutes_of_random_loss_add_a_packet_of_delay_at_most_and_every_packet_is_accounted_for() -> None:
    sent = lossy(stream(spoken(40.0, fec=True), 30_000), 0.02, seed=11)
    listener = Listener().hear(sent)
    buffer, lost = listener.buffer, sum(p.arrival_ns is None for p in sent)
    assert buffer.packets.decoded + buffer.waiting_packets == buffer.packets.received == 30_000 - lost
    assert lost - 1 <= buffer.lost_packets <= lost
    assert sum(cut.lost for cut in listener.cuts) == buffer.lost_packets
    closed = buffer.lost_packets * FRAME - buffer.account.recovered - buffer.account.concealed
    assert 0 <= closed <= 10 * FRAME  # gaps that took delay back
    assert sum(cut.concealed for cut in listener.cuts) == buffer.account.concealed
    assert buffer.account.recovered > 0.5 * lost * FRAME
    assert buffer.loss == pytest.approx(0.02, abs=0.02)
    assert max(listener.delays_ms) - min(listener.delays_ms) < 20.001
    assert np.median(listener.delays_ms) == pytest.approx(min(listener.delays_ms), abs=0.001)


@needs_speech
def test_where_fec_mends_the_line_a_chunk_waits_for_the_packet_that_mends_its_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = lossy(stream(spoken(40.0, fec=True), 3_000), 0.08, seed=11)
    sent += stream(spoken(40.0, fec=True), 4_000)[3_000:]
    listener = Listener().hear(sent)
    floor_ms = listener.delays_ms[0]
    while_lossy = listener.delays_ms[50:300]
    assert np.median(while_lossy) == pytest.approx(floor_ms + 20, abs=0.001)
    assert max(while_lossy) < floor_ms + 20.001
    assert listener.delays_ms[310:] == pytest.approx([floor_ms] * len(listener.delays_ms[310:]))  # 2 s later
    monkeypatch.setattr("media.jitter.REPAIR_LOSS", 1.0)
    hasty = Listener().hear(sent)
    assert hasty.buffer.lost_packets == listener.buffer.lost_packets
    assert hasty.delays_ms == pytest.approx([floor_ms] * len(hasty.delays_ms))
    assert listener.buffer.account.concealed < 0.9 * hasty.buffer.account.concealed


@needs_speech
def test_no_chunk_waits_for_packets_that_mend_nothing() -> None:
    for payloads in (spoken(40.0), spoken(40.0, fec=True)):
        listener = Listener().hear(lossy(stream(payloads, 3_000), 0.2, seed=3, burst=8.0))
        assert max(listener.delays_ms) == pytest.approx(min(listener.delays_ms))


@needs_speech
def test_a_lost_frame_given_back_by_fec_is_nearer_to_the_speech_than_a_concealed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("media.jitter.REPAIR_LOSS", 1.0)  # both are heard at the same lag

    class WithoutFec(OpusDecoder):
        def recoverable(self, payload: bytes) -> int:
            return 0

    sent = stream(spoken(40.0, fec=True), 1_900)
    clean = Listener().hear(sent).pcm.astype(float)
    errors = []
    for decoder in (OpusDecoder(RATE), WithoutFec(RATE)):
        heard = Listener(decoder).hear(lossy(sent, 0.1, seed=3))
        errors.append(float(((heard.pcm - clean) ** 2).sum()))
        assert (heard.buffer.account.recovered > 0) is (len(errors) == 1)
    assert errors[0] < 0.7 * errors[1]


@needs_speech
def test_losses_in_bursts_are_concealed_silently_in_the_end_and_add_no_delay() -> None:
    listener = Listener().hear(lossy(stream(spoken(40.0, fec=True), 6_000), 0.2, seed=1, burst=10.0))
    assert max(listener.delays_ms) == pytest.approx(min(listener.delays_ms))
    assert listener.buffer.packets.skipped == listener.buffer.packets.late == 0
    gap = [p for p in stream(spoken(40.0), 400) if not 100 <= (p.sequence - 65_500) % 2**16 < 150]
    silent = Listener().hear(gap)
    assert not silent.pcm[int(2.4 * RATE) : int(2.8 * RATE)].any()  # 120 ms after the first loss


def test_jitter_costs_its_own_delay_and_no_packet() -> None:
    listener = counting().hear(jittery(stream(NUMBERS, 6_000), 60.0, seed=1))
    buffer = listener.buffer
    assert (buffer.packets.late, buffer.packets.skipped, buffer.lost_packets) == (0, 0, 0)
    assert 55 <= buffer.target_ms <= 65 and 15 <= buffer.jitter_ms <= 30
    assert max(listener.delays_ms[5:]) <= 60 + FLOOR_MS
    assert buffer.account.concealed < 0.001 * 6_000 * FRAME


def test_when_jitter_is_over_the_delay_is_at_its_floor_within_two_seconds() -> None:
    rng = np.random.default_rng(4)
    calm_ns = 20 * NS_PER_S
    for jitter_ms in (60, 120, 240):
        sent = delayed(
            stream(NUMBERS, 2_000),
            lambda p, j=jitter_ms: 0 if (p.arrival_ns or 0) > calm_ns else rng.random() * j * NS_PER_MS,
        )
        listener = counting().hear(sent)
        calm_turn = calm_ns // TURN_NS
        assert listener.delays_ms[calm_turn - 2] > jitter_ms / 2
        assert max(listener.delays_ms[calm_turn + 10 :]) <= FLOOR_MS, jitter_ms
        assert listener.buffer.packets.skipped <= (0 if jitter_ms < LATE_BOUND_MS else 6)


def test_a_packet_that_comes_after_its_place_is_late_and_was_said_lost() -> None:
    sent = stream(NUMBERS, 300)
    sent[99] = replace(sent[99], arrival_ns=(sent[99].arrival_ns or 0) + 300 * NS_PER_MS)
    listener = counting().hear(sent)
    assert (listener.buffer.packets.late, listener.buffer.lost_packets) == (1, 1)
    assert listener.buffer.account.concealed == FRAME


def test_packets_that_overtake_each_other_within_a_turn_are_put_in_order() -> None:
    sent = stream(NUMBERS, 500)
    for index in range(1, 490, 10):  # far from the cut
        sent[index], sent[index + 1] = (
            replace(sent[index], arrival_ns=sent[index + 1].arrival_ns),
            replace(sent[index + 1], arrival_ns=sent[index].arrival_ns),
        )
    listener = counting().hear(sent)
    heard = listener.pcm[listener.pcm > 0]
    assert set(np.diff(heard)) == {0, 1} and listener.buffer.account.concealed == 0


def test_duplicates_are_counted_and_heard_once() -> None:
    sent = stream(NUMBERS, 500)
    twice = sorted((*sent, *delayed(sent[::3], lambda p: 45 * NS_PER_MS)), key=lambda p: p.arrival_ns or 0)
    listener = counting().hear(twice)
    assert listener.buffer.packets.duplicate in range(164, 168)  # the newest may come after the last cut
    assert set(np.diff(listener.pcm[listener.pcm > 0])) == {0, 1}


@pytest.mark.parametrize("ppm", [200.0, -200.0])
def test_an_hour_of_drift_is_taken_in_a_packet_at_a_time(ppm: float) -> None:
    listener = counting()
    payloads = [numbered(index, 2 * FRAME) for index in range(20_000)]
    listener.hear(stream(payloads, 90_000, ppm=ppm, ticks=2 * TICKS))
    account, drifted = listener.buffer.account, 3600 * RATE * 200e-6
    moved = account.shortened if ppm > 0 else account.stretched
    assert abs(moved - drifted) <= 3 * FRAME
    assert (account.stretched if ppm > 0 else account.shortened) == account.concealed == 0
    assert max(listener.delays_ms) <= FLOOR_MS + 20 + 3 and min(listener.delays_ms) >= 1


# Stalls and silence.


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


# Senders that change their mind.


@pytest.mark.parametrize(
    "changed",
    [
        {"ssrc": 2, "sequence": 17, "timestamp": 3_000_000_000},
        {"ssrc": 2, "sequence": 65_535, "timestamp": 2**32 - 1},
        {"ssrc": 1, "sequence": 64_964, "timestamp": 77},  # the time line only
        {"ssrc": 1, "sequence": 9_000, "timestamp": 2**31},
    ],
)
def test_a_new_stream_goes_on_where_the_old_one_ends(changed: dict[str, int]) -> None:
    before = stream(NUMBERS, 500)
    after = [
        replace(p, arrival_ns=(p.arrival_ns or 0) + 10 * NS_PER_S)
        for p in stream(NUMBERS[500:], 500, **changed)
    ]
    listener = counting().hear([*before, *after])
    p = listener.buffer.packets
    assert p.restarts == 1 and p.decoded + listener.buffer.waiting_packets == p.received
    assert listener.buffer.lost_packets == listener.buffer.account.concealed == 0
    heard = listener.pcm[listener.pcm > 0]
    assert set(np.diff(heard)) == {0, 1}
    assert max(listener.delays_ms) <= FLOOR_MS


def test_stragglers_of_the_stream_before_are_strays() -> None:
    before = stream(NUMBERS, 500)
    held = delayed(before[495:], lambda p: 200 * NS_PER_MS)
    after = [replace(p, arrival_ns=(p.arrival_ns or 0) + 10 * NS_PER_S) for p in stream(NUMBERS, 500, ssrc=9)]
    listener = counting().hear([*before[:495], *held, *after])
    assert listener.buffer.packets.restarts == 1 and listener.buffer.packets.stray == 5


@pytest.mark.parametrize("seconds", [0.5, 3.0, 3_600.0, 40_000.0])
def test_a_jump_of_the_time_stamps_forward_is_not_concealed_away(seconds: float) -> None:
    sent = stream(NUMBERS, 500, timestamp=1_000)
    jumped = [
        replace(p, timestamp=(p.timestamp + int(seconds * CLOCK)) % 2**32)
        for p in stream(NUMBERS, 1_000, timestamp=1_000)[500:]
    ]
    listener = counting().hear([*sent, *jumped])
    account, p = listener.buffer.account, listener.buffer.packets
    assert account.concealed + account.comfort <= TURN
    assert p.decoded + p.skipped + listener.buffer.waiting_packets == p.received and p.skipped <= 1
    assert max(listener.delays_ms[65:]) <= FLOOR_MS


def test_one_stray_packet_changes_nothing() -> None:
    rng, sent = np.random.default_rng(8), stream(NUMBERS, 1_000)
    for at in range(50, 1_000, 50):
        stray = Sent(
            int(rng.integers(2**16)),
            int(rng.integers(2**32)),
            numbered(7),
            sent[at].arrival_ns,
            ssrc=int(rng.integers(1, 4)),
        )
        sent.insert(at, stray)
    listener = counting().hear(sent)
    p = listener.buffer.packets
    assert p.restarts == 0 and p.stray + p.late + p.duplicate >= 17
    assert p.decoded >= 980
    assert listener.buffer.account.concealed == listener.buffer.lost_packets == 0


def test_a_leg_whose_phase_is_chosen_anew_leaves_out_what_waited() -> None:
    listener = counting()
    sent = stream(NUMBERS, 200)
    listener.hear(sent[:100])
    listener.buffer.choose_phase()
    listener.now_ns += 400 * NS_PER_MS + 11 * NS_PER_MS
    listener.hear(sent[100:])
    assert listener.buffer.packets.skipped > 0 and listener.buffer.lost_packets == 0
    assert listener.delays_ms[-1] <= FLOOR_MS and listener.buffer.account.concealed == 0


# Hostile bytes.


def test_bytes_that_are_no_packet_are_malformed_and_those_that_do_not_decode_are_concealed() -> None:
    listener = Listener()
    good = bytes.fromhex("b80102030405")  # CELT, 20 ms
    bad = bytes([0xB3, 0x82, 0xFF, 0xFF, 0xFF])  # two frames of 10 ms, with lengths beyond the end
    payloads = [good, b"", b"\xff\x00", bytes(MAX_PAYLOAD_BYTES + 1), bad]
    listener.hear(stream(payloads, 100))
    p = listener.buffer.packets
    assert p.malformed == 60 and p.undecodable > 15
    assert listener.buffer.account.concealed > 0


def test_a_flood_is_bounded_by_count() -> None:
    listener = counting()
    for index in range(5_000):
        listener.buffer.receive_packet(1, index + 30_000, index * 48, numbered(index, 16), index)
        listener.arrived += 1
        assert listener.buffer.waiting_packets <= MAX_WAITING + 1
    listener.cut()
    assert listener.buffer.packets.skipped >= 5_000 - MAX_WAITING - 1
    assert listener.buffer.lost_packets == 0


near = st.integers(-3, 12)
wild = st.integers(0, 2**32 - 1)
packet = st.tuples(
    st.sampled_from([1, 1, 1, 1, 2]),
    st.one_of(near, near, near, wild),
    st.one_of(near, near, near, wild),
    st.one_of(st.binary(max_size=40), st.sampled_from([bytes.fromhex("b80102030405"), b"\x48\x00", b"\x08"])),
    st.sampled_from([0, 1, 20, 20, 20, 150, 2_000]),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.one_of(packet, st.none()), max_size=120))
def test_arbitrary_packets_never_raise_and_the_accounts_hold(events: list[tuple | None]) -> None:
    listener = Listener(now_ns=0)
    sequence, timestamp = 65_530, 2**32 - 3 * TICKS
    for event in events:
        if event is None:
            listener.cut()
            assert listener.buffer.waiting <= TURN
            continue
        ssrc, steps, ticks, payload, after_ms = event
        sequence = (sequence + steps) % 2**16
        timestamp = (timestamp + (ticks * TICKS if ticks <= 12 else ticks)) % 2**32
        at_ns = listener.now_ns - TURN_NS + after_ms * NS_PER_MS
        listener.buffer.receive_packet(ssrc, sequence, timestamp, payload, at_ns)
        listener.arrived += 1
        assert listener.buffer.waiting_packets <= MAX_WAITING + 1
        listener.check()
    listener.cut()
