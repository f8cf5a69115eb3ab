"""What we said, as far as the caller heard it."""

from __future__ import annotations

import numpy as np

from media.timebase import TURN_SAMPLES
from model_server.engine.own_voice import OwnVoice

LAG = 960


def reply(turn: int) -> np.ndarray:
    return np.full(TURN_SAMPLES, turn + 1, np.int16)


def heard(own: OwnVoice, played: int) -> int:
    """The reply that was heard, by its samples; 0 is silence."""
    return int(own.heard(played)[0])


def test_each_reply_is_heard_in_the_turn_after_it_although_its_end_is_still_queued():
    own = OwnVoice()
    assert heard(own, 0) == 0
    own.send(reply(0))
    assert heard(own, TURN_SAMPLES - LAG) == 1
    for turn in range(1, 6):
        own.send(reply(turn))
        assert heard(own, TURN_SAMPLES + (320, -320, 0)[turn % 3]) == turn + 1


def test_a_reply_that_came_too_late_was_not_heard_and_the_next_ones_were():
    own = OwnVoice()
    own.heard(0)
    own.send(reply(0))
    assert heard(own, TURN_SAMPLES - LAG) == 1
    own.send(reply(1))
    assert heard(own, LAG) == 0  # the end of reply 0, nothing of reply 1
    own.send(reply(2))
    assert heard(own, TURN_SAMPLES - LAG) == 3
    own.send(reply(3))
    assert heard(own, TURN_SAMPLES) == 4


def test_the_first_reply_was_late():
    own = OwnVoice()
    own.heard(0)
    own.send(reply(0))
    assert heard(own, 0) == 0
    own.send(reply(1))
    assert heard(own, TURN_SAMPLES - LAG) == 2


def test_what_was_cut_is_not_waited_for():
    own = OwnVoice()
    own.heard(0)
    own.send(reply(0))
    heard(own, TURN_SAMPLES - LAG)
    own.send(reply(1), flushed=True)  # the end of reply 0 is cut
    assert heard(own, TURN_SAMPLES - LAG) == 2
    own.send(reply(2))
    assert heard(own, TURN_SAMPLES) == 3


def test_a_turn_without_a_reply_is_silence():
    own = OwnVoice()
    own.heard(0)
    own.send(reply(0))
    heard(own, TURN_SAMPLES - LAG)
    assert heard(own, LAG) == 0
    own.send(reply(2))
    assert heard(own, TURN_SAMPLES - LAG) == 3
