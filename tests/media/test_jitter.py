"""Packets become chunks: nothing is lost from the accounts, and the delay keeps to its floor.

Where sound is the subject the packets are people reading digits in Opus (ours, by libopus); where only time and
order are, the decoder is `CountingDecoder`, whose samples say which packet they are of. `Listener` checks
both accounts after every cut.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from media.codecs.opus import OpusDecoder
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
    counting,
    delayed,
    jittery,
    lag_samples,
    lossy,
    needs_speech,
    numbered,
    packed,
    speech,
    spoken,
    stream,
)

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
    monkeypatch.setattr("media.repairs.REPAIR_LOSS", 1.0)
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
    monkeypatch.setattr("media.repairs.REPAIR_LOSS", 1.0)  # both are heard at the same lag

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
