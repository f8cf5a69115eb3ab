"""A client's sound in pieces of any size: cuts are turns, the account is whole, delay goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.burst import Burst
from media.chunk import PCM
from media.chunker import Cut
from media.timebase import MODEL_HZ, TURN_NS, TURN_SAMPLES

RATE = 24_000
TURN = RATE // 5


def tone(samples: int, start: int = 0, rate: int = RATE) -> PCM:
    return (8_000 * np.sin(2 * np.pi * 440 * np.arange(start, start + samples) / rate)).astype(np.int16)


def cuts(burst: Burst, count: int) -> list[Cut]:
    return [burst.cut(turn * TURN_NS) for turn in range(count)]


def live(burst: Burst, turns: int, more: int = 0) -> list[Cut]:
    """A microphone: a turn's sound before each cut, in pieces of 20 ms."""
    found = []
    for turn in range(turns):
        for piece in range(10):
            burst.receive(tone(TURN // 10, (turn * 10 + piece) * TURN // 10))
        if more:
            burst.receive(tone(more))
        found.append(burst.cut(turn * TURN_NS))
    return found


def test_a_file_sent_at_once_is_heard_in_real_time() -> None:
    burst = Burst(RATE, 30_000)
    said = tone(5 * RATE)
    assert burst.receive(said) == 0
    heard = np.concatenate([cut.pcm for cut in cuts(burst, 26)])
    assert burst.waiting_ms == 0 and not burst.account.dropped and not burst.account.concealed
    wanted = tone(5 * MODEL_HZ, rate=MODEL_HZ)
    delay = 3 * MODEL_HZ // 1_000  # the resampler's
    apart = heard[delay : delay + len(wanted) - 100].astype(int) - wanted[:-100]
    assert np.abs(apart[200:]).max() < 200
    assert not heard[delay + len(wanted) + 200 :].any()


def test_what_is_beyond_the_bound_is_refused_and_counted() -> None:
    burst = Burst(RATE, 2_000)
    assert burst.receive(tone(3 * RATE)) == RATE
    assert burst.waiting_ms == 2_000
    assert burst.account.refused == MODEL_HZ and burst.account.received == 3 * MODEL_HZ


def test_silence_while_nothing_comes_is_not_made_up() -> None:
    burst = Burst(RATE, 2_000)
    for cut in cuts(burst, 20):
        assert not cut.pcm.any() and not cut.made_up and len(cut.pcm) == TURN_SAMPLES
    assert burst.is_whole()


def test_the_first_sound_ends_its_turn() -> None:
    """Silence in front, so that what follows goes on without a hole."""
    burst = Burst(RATE, 2_000)
    cuts(burst, 3)
    burst.receive(tone(TURN // 4))
    pcm = burst.cut(0).pcm
    assert not pcm[: TURN_SAMPLES // 2].any() and np.abs(pcm[-TURN_SAMPLES // 8 :]).max() > 5_000


def test_a_live_sender_that_stalls_is_told_of_and_caught_up_with() -> None:
    """A second of its sound comes late; four seconds later the delay is gone, and what went is in the account."""
    burst = Burst(RATE, 30_000)
    live(burst, 12)
    assert burst.is_live and burst.waiting_ms == 0
    stalled = cuts(burst, 2)
    assert all(cut.made_up for cut in stalled) and burst.account.concealed == 2 * TURN_SAMPLES
    burst.receive(tone(2 * TURN))
    assert burst.waiting_ms == 400
    waited = []
    for _ in range(40):
        live(burst, 1)
        waited.append(burst.waiting_ms)
    assert waited[0] == 400 and waited[-1] <= 40, waited
    assert burst.account.dropped == pytest.approx(MODEL_HZ * (400 - waited[-1]) / 1_000, abs=16)


def test_a_file_is_not_hurried() -> None:
    """More than the time that passed came: no microphone does that."""
    burst = Burst(RATE, 30_000)
    burst.receive(tone(20 * RATE))
    assert not any(cut.dropped for cut in cuts(burst, 100))
    assert burst.account.dropped == 0


def test_another_rate_drops_what_waits() -> None:
    burst = Burst(RATE, 2_000)
    burst.receive(tone(RATE))
    burst.set_rate(8_000)
    assert burst.waiting_ms == 0 and burst.account.dropped == MODEL_HZ
    burst.receive(tone(1_600, rate=8_000))
    assert np.abs(burst.cut(0).pcm).max() > 7_000


def test_clear_tells_how_much_it_was() -> None:
    burst = Burst(RATE, 2_000)
    burst.receive(tone(RATE))
    assert burst.clear() == 1_000 and burst.clear() == 0


def test_a_live_sender_goes_on_with_now_at_a_new_slot() -> None:
    burst = Burst(RATE, 30_000)
    live(burst, 12)
    burst.receive(tone(10 * TURN))
    burst.choose_phase()
    assert burst.waiting_ms == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3 * TURN), max_size=60), st.sampled_from([8_000, 24_000]))
def test_the_account_is_whole_whatever_comes(pieces: list[int], rate: int) -> None:
    burst = Burst(rate, 1_000)
    taken = 0
    for turn, piece in enumerate(pieces):
        burst.receive(np.zeros(piece, np.int16))
        assert burst.waiting_ms <= 1_000
        cut = burst.cut(turn * TURN_NS)
        assert len(cut.pcm) == TURN_SAMPLES
        taken += TURN_SAMPLES
    account, waiting = burst.account, burst.waiting_ms * MODEL_HZ / 1_000
    total = account.received - account.refused - account.dropped + account.concealed + account.padded
    assert total == pytest.approx(taken + waiting, abs=16 + 4 * len(pieces))
