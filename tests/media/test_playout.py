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
    return ledger.offered == (
        ledger.played + ledger.late + ledger.flushed + ledger.early + ledger.withheld + playout.waiting
    )


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


def test_what_is_withdrawn_fades_out_at_its_turn_and_was_never_played() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    for turn, value in enumerate((10_000, 20_000)):
        playout.offer(turn, reply(value))
    pull(playout, 2)
    assert playout.withdraw(1) == TURN
    heard = pull(playout, 18)
    assert (heard[: 7 * FRAME] == 10_000).all() and heard[8 * FRAME - 1] == 0 and not heard[8 * FRAME :].any()
    ledger = playout.ledger
    assert (ledger.played, ledger.withheld, ledger.flushed) == (TURN, TURN, 0) and balanced(playout)


def test_what_is_withdrawn_in_its_middle_ends_within_one_frame() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    playout.offer(0, reply(10_000))
    pull(playout, 4)
    assert playout.withdraw(0) == 5 * FRAME
    heard = pull(playout, 6)
    assert heard[0] == 10_000 and heard[FRAME - 1] == 0 and not heard[FRAME:].any() and balanced(playout)


def test_turns_that_are_withheld_are_silent_and_neither_missed_nor_comforted() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    for turn in range(6):
        playout.withhold(turn, TURN)
        assert not pull(playout, 10).any() and playout.settle(turn)
    assert playout.ledger.missed_turns == 0 and playout.ledger.withheld == 6 * TURN and balanced(playout)


def test_with_lookahead_replies_are_heard_turns_later_and_fit() -> None:
    playout = Playout(RATE)
    playout.lookahead = 2
    playout.start(turn=4, frame=9)  # as early as a reply may come
    for turn in (4, 5, 6):
        assert playout.offer(turn, reply(1_000 * turn))
        heard = pull(playout, 10)
    assert (heard[9 * FRAME :] == 4_000).all() and np.abs(
        heard[: 9 * FRAME]
    ).max() < 100  # a quiet room until then
    assert playout.ledger.early == 0 and balanced(playout)


def test_something_else_is_heard_in_place_of_replies() -> None:
    playout = Playout(RATE)
    playout.start(turn=0, frame=0)
    playout.offer(0, reply(1))
    playout.offer(1, reply(2))
    playout.play_instead(1, np.full(3 * FRAME - 5, 9, np.int16))
    heard = pull(playout, 20)
    assert (heard[:TURN] == 1).all() and (heard[TURN + 3 * FRAME :] == 2).all()
    assert set(heard[TURN : TURN + 3 * FRAME]) == {9, 0}
    assert not playout.is_replaced and playout.ledger.withheld == 3 * FRAME
    assert playout.ledger.played == TURN + 7 * FRAME and balanced(playout)
    playout.play_instead(0, reply(9))  # its place is over: now
    assert playout.is_replaced
    playout.skip(5)  # who is away does not hear it later
    assert set(pull(playout, 7)[: 6 * FRAME]) == {9} and not playout.is_replaced
    playout.play_instead(0, reply(9))
    playout.mute(True)
    assert not pull(playout, 12).any()
