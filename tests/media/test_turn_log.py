"""The log of a call: bounded, whole, and read back as it was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from media.chunk import Chunk, Flags, VideoFrame
from media.timebase import TURN_SAMPLES
from media.turn_log import LOG_LINES, LOG_TURNS, MAX_LOG_BYTES, TurnLog, unpack


def chunk(turn: int, **more: Any) -> Chunk:
    return Chunk(3, turn, 1000 + turn, np.full(TURN_SAMPLES, turn - 7, np.int16), **more)


def test_what_is_read_back_is_what_was_published_but_for_pictures() -> None:
    log = TurnLog()
    frame = VideoFrame(1, np.zeros((2, 2, 3), np.uint8))
    full = chunk(
        4, concealed_quarters=(1, 2, 3, 800), lost_packets=5, dropped_samples=6, played_samples=3200,
        text="persona kräftig", events=("dtmf 5", "hold"), video=(frame,), flags=Flags.HELD,
    )  # fmt: skip
    log.add(full)
    log.add(chunk(6))
    log.answer(4)
    first, second = unpack(log.pack(), generation=9)
    assert np.array_equal(first.pcm, full.pcm) and np.array_equal(second.pcm, chunk(6).pcm)
    wanted = replace(full, generation=9, video=(), flags=Flags.HELD | Flags.ANSWERED, pcm=first.pcm)
    assert first == wanted and (second.turn, second.flags, second.generation) == (6, Flags.NONE, 9)


def test_of_a_call_that_moves_what_is_over_goes_first_and_the_rest_when_it_is() -> None:
    log = TurnLog()
    assert (log.oldest, log.newest, log.newest_answered) == (-1, -1, -1)
    for turn in range(4, 9):
        log.add(chunk(turn))
    log.answer(4)
    log.answer(6)
    assert (log.oldest, log.newest, log.newest_answered) == (4, 8, 6)
    assert [c.turn for c in unpack(log.pack(until=6), 1)] == [4, 5, 6]
    log.answer(7)
    past = log.past(5, 7)
    assert [(c.turn, Flags.ANSWERED in c.flags) for c in past] == [(6, True), (7, True)]
    assert [Flags.ANSWERED in c.flags for c in log.past(4, 8)] == [False, True, True, False]


def test_the_newest_turns_are_kept_and_of_older_ones_the_newest_lines() -> None:
    log = TurnLog()
    for turn in range(3 * LOG_TURNS):
        log.add(chunk(turn, text=f"line {turn}" if turn % 10 == 0 else ""))
        log.answer(turn)
    kept = unpack(log.pack(), 1)
    begin = 2 * LOG_TURNS
    lines = [c.turn for c in kept[:LOG_LINES]]
    assert lines == [turn for turn in range(begin) if turn % 10 == 0][-LOG_LINES:]
    assert [c.turn for c in kept[LOG_LINES:]] == list(range(begin, 3 * LOG_TURNS))
    assert all(Flags.ANSWERED in c.flags for c in kept)
    assert len(log) == len(kept) and len(log.pack()) <= MAX_LOG_BYTES


def test_a_reply_to_a_turn_that_is_not_there_is_nobodys() -> None:
    log = TurnLog()
    log.answer(0)
    log.add(chunk(5))
    for turn in (4, 6):
        log.answer(turn)
    assert unpack(log.pack(), 1)[0].flags == Flags.NONE
    assert unpack(TurnLog().pack(), 1) == ()


def test_what_is_no_log_is_refused() -> None:
    log = TurnLog()
    log.add(chunk(1, text="hello"))
    whole = log.pack()
    for cut in (1, 50, len(whole) - 1):
        with pytest.raises(ValueError, match="within a turn|not whole"):
            unpack(whole[:cut], 1)
    with pytest.raises(ValueError, match="not in order"):
        unpack(whole + whole, 1)
