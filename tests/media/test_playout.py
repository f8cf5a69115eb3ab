"""Replies are heard at their time or not at all, and the ledger knows."""

from __future__ import annotations

import numpy as np

from media.playout import COMFORT_AFTER_FRAMES, Playout

RATE = 8_000
FRAME = 160
TURN = 1_600


def reply(value: int) -> np.ndarray:
    return np.full(TURN, value, np.int16)


def pull(playout: Playout, frames: int) -> np.ndarray:
    return np.concatenate([np.frombuffer(playout.pull(), np.int16) for _ in range(frames)])


def balanced(playout: Playout) -> bool:
    ledger = playout.ledger
    return ledger.offered == ledger.played + ledger.late + ledger.flushed + ledger.early + playout.waiting


def test_replies_are_heard_back_to_back_from_the_playout_point() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=3)
    assert playout.offer(0, reply(1)) and playout.offer(1, reply(2))
    heard = pull(playout, 23)
    assert not heard[: 3 * FRAME].any()
    assert (heard[3 * FRAME : 13 * FRAME] == 1).all() and (heard[13 * FRAME :] == 2).all()
    assert playout.settle(0) and playout.settle(1)
    assert playout.ledger.played == 2 * TURN and balanced(playout)


def test_a_late_reply_is_dropped_and_counted_and_the_next_is_on_time() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    pull(playout, 1)
    assert not playout.offer(0, reply(1))
    assert playout.offer(1, reply(2))
    heard = pull(playout, 19)
    assert not heard[: 9 * FRAME].any() and (heard[9 * FRAME :] == 2).all()
    assert not playout.settle(0) and playout.settle(1)
    ledger = playout.ledger
    assert (ledger.late, ledger.late_turns, ledger.missed_turns) == (TURN, 1, 1) and balanced(playout)


def test_a_flush_is_heard_within_one_frame() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    playout.offer(0, reply(10_000))
    pull(playout, 2)
    assert playout.flush() == 7 * FRAME
    heard = pull(playout, 8)
    assert heard[0] == 10_000 and heard[FRAME - 1] == 0  # faded, no click
    assert not heard[FRAME:].any()
    assert playout.ledger.played == 3 * FRAME and balanced(playout)


def test_a_reply_from_the_far_future_is_refused() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    assert not playout.offer(1000, reply(1))
    assert playout.ledger.early == TURN and balanced(playout)


def test_a_line_without_replies_is_quiet_and_not_dead() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    heard = pull(playout, COMFORT_AFTER_FRAMES + 10)
    assert not heard[: COMFORT_AFTER_FRAMES * FRAME].any()
    comfort = heard[COMFORT_AFTER_FRAMES * FRAME :].astype(float)
    assert 5 < comfort.std() < 50


def test_frames_that_the_puller_slept_over_are_not_heard_later() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    playout.offer(0, reply(1))
    playout.offer(1, reply(2))
    pull(playout, 5)
    playout.skip(10)
    assert (pull(playout, 5) == 2).all()
    assert playout.ledger.flushed == 10 * FRAME and balanced(playout)
