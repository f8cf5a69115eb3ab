"""Frames become chunks: no sample leaves the account, gaps keep their place, and delay comes back to its floor."""

from __future__ import annotations

import numpy as np
import pytest

from media.chunk import PCM
from media.chunker import LATE_BOUND_MS, MOST_RESERVE_MS, Chunker, Cut
from media.chunker import Line as Seen
from media.timebase import FRAME_MS, FRAME_NS, FRAMES_PER_TURN, NS_PER_MS, TURN_MS, TURN_NS, samples_of
from tests.support.frame_store import FrameStore, tone

RATE = 8_000
FRAME = samples_of(20, RATE)
TURN = samples_of(TURN_MS, RATE)
DELAY = 30
DELAY_MS = 3.75
"""Samples that concealment needs to look back, and so long all is heard later."""
AGE_NS = 6 * NS_PER_MS
"""How old the newest frame is at a cut, in the tests that do not vary it."""


class Line:
    """A sender with its own clock, a network, and cuts on ours."""

    def __init__(self, ppm: float = 0.0, jitter_ms: float = 0.0, *, is_silent: bool = False) -> None:
        self.silence = np.zeros(FRAME, np.int16) if is_silent else None
        self.store = FrameStore()
        self.chunker = Chunker(RATE, self.store)
        self.period_ns = round(FRAME_NS / (1 + ppm * 1e-6))
        self.jitter_ms = jitter_ms
        self.now_ns = TURN_NS - FRAME_NS + AGE_NS
        self.lost: set[int] = set()
        self.blocked_ns = (0, 0)
        self.cuts = self.said = 0
        self._rng = np.random.default_rng(3)
        self._sent = 0
        self._under_way: list[tuple[int, int]] = []

    def turn(self) -> tuple[float, float]:
        """One turn; ms concealed and dropped."""
        cut = self.cut()
        return cut.concealed * 1000 / RATE, cut.dropped * 1000 / RATE

    def cut(self) -> Cut:
        while (sent_ns := self._sent * self.period_ns) <= self.now_ns:
            arrival_ns = sent_ns + int(self._rng.random() * self.jitter_ms * NS_PER_MS)
            if self.blocked_ns[0] <= arrival_ns < self.blocked_ns[1]:
                arrival_ns = self.blocked_ns[1]
            if self._sent not in self.lost:
                self._under_way.append((arrival_ns, self._sent))
            self._sent += 1
        self._under_way.sort()
        while self._under_way and self._under_way[0][0] <= self.now_ns:
            arrival_ns, index = self._under_way.pop(0)
            pcm = tone(FRAME, index * FRAME) if self.silence is None else self.silence
            self.store.put(index, pcm, arrival_ns)
        self.chunker.look()
        cut = self.chunker.cut(self.now_ns)
        assert cut.pcm.shape == (TURN,) and cut.pcm.dtype == np.int16
        self.now_ns += TURN_NS
        self.cuts += 1
        account = self.chunker.account
        made = account.pulled + account.concealed + account.stretched + account.padded
        assert made == self.cuts * TURN + account.dropped + account.retracted
        self.said += cut.concealed
        assert 0 <= account.concealed - account.retracted - self.said <= DELAY
        return cut

    @property
    def delay_ms(self) -> float:
        """From when the last frame of the last chunk was sent, were nothing missing, to the cut."""
        return (self.now_ns - TURN_NS - (self.store.next_index - 1) * self.period_ns) / NS_PER_MS


FLOOR_MS = FRAME_MS + 1
"""A frame ends the first turn that finds it here: at most a frame's length later."""


def test_a_steady_sender_is_cut_without_a_sample_lost_or_made_up() -> None:
    line = Line()
    cuts = [line.cut() for _ in range(500)]
    assert {(cut.concealed, cut.dropped, cut.lost) for cut in cuts} == {(0, 0, 0)}
    heard = np.concatenate([cut.pcm for cut in cuts])
    assert np.array_equal(heard[DELAY:], tone(500 * TURN - DELAY))
    assert line.chunker.account.padded == 0


def test_the_first_chunk_is_padded_in_front_when_the_leg_begins_in_mid_turn() -> None:
    store = FrameStore()
    chunker = Chunker(RATE, store)
    store.put(0, tone(FRAME), 0)
    chunker.look()
    cut = chunker.cut(0)
    assert not cut.pcm[: TURN - FRAME + DELAY].any()
    assert np.array_equal(cut.pcm[TURN - FRAME + DELAY :], tone(FRAME - DELAY))
    assert (chunker.account.padded, cut.concealed, cut.dropped) == (TURN - FRAME, 0, 0)


@pytest.mark.parametrize("place", range(FRAMES_PER_TURN))
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_lost_is_made_up_at_its_place(place: int, count: int) -> None:
    line = Line()
    gap = {40 + place + index for index in range(count)}
    line.lost = gap
    cuts = [line.cut() for _ in range(20)]
    first = place * FRAME + DELAY
    runs = [(at * TURN + first, at * TURN + end) for at, cut in enumerate(cuts) for first, end in cut.made_up]
    assert runs[0][0] == 40 * FRAME + first and runs[-1][1] == runs[0][0] + count * FRAME
    assert sum(cut.concealed for cut in cuts) == count * FRAME == line.chunker.account.concealed
    assert sum(cut.lost for cut in cuts) == count
    assert line.chunker.account.dropped == 0
    heard = np.concatenate([cut.pcm for cut in cuts])[DELAY:]
    wanted = tone(heard.size)
    begin, end = min(gap) * FRAME - DELAY, (max(gap) + 1) * FRAME + samples_of(10, RATE)
    assert np.array_equal(heard[:begin], wanted[:begin])
    assert np.array_equal(heard[end:], wanted[end:])


def test_a_late_frame_is_concealed_and_its_delay_is_taken_back_within_two_seconds() -> None:
    line = Line()
    for _ in range(10):
        line.turn()
    floor_ms = line.delay_ms
    line.blocked_ns = (line.now_ns - 10 * NS_PER_MS, line.now_ns + 2 * NS_PER_MS)
    assert line.turn() == (FRAME_MS - DELAY_MS, 0)  # the last frame misses its cut by 2 ms
    results = [line.turn() for _ in range(10)]
    assert sum(dropped for _, dropped in results) == FRAME_MS
    assert [concealed for concealed, _ in results] == [DELAY_MS] + [0] * 9
    assert line.delay_ms == floor_ms


def test_a_stall_is_concealed_and_said_and_what_comes_of_it_is_bounded() -> None:
    line = Line()
    for _ in range(10):
        line.turn()
    line.blocked_ns = (line.now_ns - TURN_NS, line.now_ns + 3 * TURN_NS - 5 * NS_PER_MS)
    stalled = [line.turn() for _ in range(3)]
    assert [concealed for concealed, _ in stalled] == [TURN_MS - DELAY_MS, TURN_MS, TURN_MS]
    results = [line.turn() for _ in range(10)]  # 2 s
    assert [concealed for concealed, _ in results] == [DELAY_MS] + [0] * 9
    assert sum(dropped for _, dropped in results) == 3 * TURN_MS
    assert results[0][1] >= 3 * TURN_MS - LATE_BOUND_MS - MOST_RESERVE_MS
    assert line.delay_ms <= FLOOR_MS


@pytest.mark.parametrize("jitter_ms", [60, 150, 300])
def test_what_jitter_asks_for_is_kept_while_it_lasts_and_given_back_within_two_seconds(
    jitter_ms: int,
) -> None:
    line = Line(jitter_ms=jitter_ms)
    for _ in range(20):  # 4 s to find out
        line.turn()
    kept = [line.turn()[0] for _ in range(50)]
    assert sum(kept) <= 0.02 * 50 * TURN_MS
    line.jitter_ms = 0
    for _ in range(10):
        line.turn()
    assert line.delay_ms <= FLOOR_MS
    assert line.chunker.reserve_ms < FRAME_MS


def test_an_hour_with_drift_and_stalls_ends_at_the_delay_it_began_with() -> None:
    for ppm in (-200.0, 200.0):
        line = Line(ppm, is_silent=True)
        rng = np.random.default_rng(7)
        worst_after, since_stall = 0.0, 0
        for turn in range(3600 * 5):
            if turn > 10 and rng.random() < 1 / 300:
                length_ns = int(rng.integers(1, 1200)) * NS_PER_MS
                line.blocked_ns = (line.now_ns - FRAME_NS, line.now_ns + length_ns)
                since_stall = 0
            line.turn()
            since_stall = since_stall + 1 if line.now_ns > line.blocked_ns[1] + TURN_NS else 0
            if since_stall > 10:  # 2 s after the stall
                worst_after = max(worst_after, line.delay_ms)
        assert 0 < worst_after <= FLOOR_MS, (ppm, worst_after)


def test_drift_alone_costs_one_frame_in_a_hundred_seconds() -> None:
    for ppm, made_up in ((-200.0, True), (200.0, False)):
        line = Line(ppm, is_silent=True)
        for _ in range(3600 * 5):
            line.turn()
        account = line.chunker.account
        expected = 3600 * RATE * 200e-6
        assert abs((account.concealed if made_up else account.dropped) - expected) <= 2 * FRAME
        assert (account.dropped if made_up else account.concealed) == 0


class Told:
    """A store that says what it is told to, and has nothing."""

    def __init__(self, ms: int | None) -> None:
        self.ms = ms

    def look(self) -> int | None:
        return self.ms

    def line(self) -> Seen:
        return Seen(0.0, 0, 0)

    def pull(self) -> PCM | None:
        return None


@pytest.mark.parametrize("ms", [None, 0])
def test_without_a_stream_or_before_its_first_packet_there_is_silence_and_no_concealment(
    ms: int | None,
) -> None:
    chunker = Chunker(RATE, Told(ms))
    chunker.look()
    cut = chunker.cut(0)
    assert not cut.pcm.any() and (cut.concealed, cut.lost) == (0, 0)
    assert chunker.account.padded == TURN


def test_a_caller_who_is_gone_is_concealed_for_60_ms_and_then_silent() -> None:
    line = Line()
    for _ in range(5):
        line.turn()
    line.lost = set(range(50, 10_000))
    cuts = [line.cut() for _ in range(4)]
    assert [cut.made_up for cut in cuts] == [((DELAY, TURN),)] + [((0, TURN),)] * 3
    assert cuts[0].pcm[: samples_of(40, RATE)].any()
    assert not cuts[0].pcm[samples_of(60, RATE) + DELAY :].any()
    assert not cuts[3].pcm.any()


class Call:
    """The store of whichever stream a call has now."""

    def __init__(self) -> None:
        self.stream = FrameStore()

    def look(self) -> int | None:
        return self.stream.look()

    def line(self) -> Seen:
        return self.stream.line()

    def pull(self) -> PCM | None:
        return self.stream.pull()


def test_another_stream_of_the_same_call_begins_its_counters_anew() -> None:
    call = Call()
    chunker = Chunker(RATE, call)
    told = []
    for turn in range(20):
        if turn == 10:
            call.stream = FrameStore()
        for index in range(10 * turn, 10 * turn + 10):
            if index not in (12, 14, 23, 134):
                call.stream.put(index, tone(FRAME, index * FRAME), index * FRAME_NS)
        chunker.look()
        cut = chunker.cut(turn * TURN_NS)
        told.append((cut.lost, cut.concealed // FRAME))
    assert {turn: what for turn, what in enumerate(told) if any(what)} == {1: (2, 2), 2: (1, 1), 13: (1, 1)}


@pytest.mark.parametrize("said", [1, 5, 9])
def test_speech_after_suppressed_silence_ends_its_first_chunk_and_nothing_was_lost(said: int) -> None:
    store = FrameStore()
    chunker = Chunker(RATE, store)
    cuts, sequence = [], 0
    for turn in range(20):
        for index in range(10 * turn, 10 * turn + 10):
            if index < 50 or index >= 110 - said:
                store.put(index, tone(FRAME, index * FRAME), index * FRAME_NS, sequence)
                sequence += 1
        chunker.look()
        cuts.append(chunker.cut(turn * TURN_NS))
    assert sum(cut.lost for cut in cuts) == 0
    assert sum(cut.dropped for cut in cuts) == 0  # nothing came later for it
    heard = np.concatenate([cut.pcm for cut in cuts])
    begin = (110 - said) * FRAME + samples_of(10, RATE)
    assert np.array_equal(heard[begin + DELAY :], tone(heard.size - begin - DELAY, begin))


def test_a_frame_that_comes_while_we_look_for_the_first_time_waits_for_the_next_turn() -> None:
    store = FrameStore()
    chunker = Chunker(RATE, store)
    for index in range(3):
        store.put(index, tone(FRAME, index * FRAME), 0)
    chunker.look()
    store.put(3, tone(FRAME, 3 * FRAME), 0)
    chunker.look()
    first = chunker.cut(0)
    assert (chunker.account.padded, store.next_index) == (TURN - 3 * FRAME, 3)
    for index in range(4, 13):
        store.put(index, tone(FRAME, index * FRAME), 0)
    chunker.look()
    heard = np.concatenate([first.pcm, chunker.cut(0).pcm])[TURN - 3 * FRAME + DELAY :]
    assert np.array_equal(heard, tone(13 * FRAME - DELAY))
