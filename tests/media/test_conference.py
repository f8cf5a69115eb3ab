"""Three on one line, frame by frame: sums, lines that are late, silent, held, lost, or drift."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from numpy.typing import NDArray

from media.chunk import PCM
from media.conference import (
    MOST_FRAMES,
    PATIENT_FRAMES,
    SETTLE_FRAMES,
    START_MS,
    Conference,
    Lane,
    mix,
)

RATE_HZ, FRAME = 8_000, 160
DELAY = 30
"""What a concealer holds back: 3.75 ms."""


def steady(value: int) -> PCM:
    return np.full(FRAME, value, np.int16)


class Line:
    """Frames that wait for a lane."""

    def __init__(self, *frames: PCM | None) -> None:
        self.frames: deque[PCM | None] = deque(frames)

    @property
    def waiting_ms(self) -> int:
        return 20 * len(self.frames)

    def pull(self) -> PCM | None:
        return self.frames.popleft()


def heard(lane: Lane, line: Line) -> PCM | None:
    return lane.next(line.waiting_ms, line.pull)


def tick(conference: Conference, caller: Line | None, person: Line | None) -> None:
    conference.tick(
        caller.waiting_ms if caller else None, caller.pull if caller else no_line,
        person.waiting_ms if person else None, person.pull if person else no_line,
    )  # fmt: skip


def no_line() -> PCM | None:
    raise AssertionError("pulled from a line that is not there")


def ints(sound: bytes) -> NDArray[np.int16]:
    return np.frombuffer(sound, np.int16)


# -- sums


def test_a_sum_is_exact_and_saturates() -> None:
    rng = np.random.default_rng(4)
    a, b, c = (rng.integers(-32_768, 32_768, FRAME).astype(np.int16) for _ in range(3))
    expected = np.clip(a.astype(int) + b + c, -32_768, 32_767)
    assert np.array_equal(mix(FRAME, a, b, c.tobytes()), expected)
    assert mix(FRAME, steady(30_000), steady(30_000))[0] == 32_767
    assert mix(FRAME, steady(-30_000), steady(-30_000))[0] == -32_768
    assert not mix(FRAME).any() and not mix(FRAME, None, None).any()


def test_what_is_given_is_not_changed() -> None:
    a, b = steady(5), steady(7)
    mix(FRAME, a, b)[:] = 0
    mix(FRAME, a)[:] = 0
    assert a[0] == 5 and b[0] == 7


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"\x01", bytes(3), np.zeros(0, np.int16), np.zeros((2, 80), np.int16),
        np.full(FRAME, np.nan), np.zeros(FRAME, np.int32), "no sound",
    ],
)  # fmt: skip
def test_what_is_no_sound_is_silence(bad: object) -> None:
    assert np.array_equal(mix(FRAME, bad, steady(3)), steady(3))  # type: ignore[arg-type]


def test_what_is_short_ends_in_silence_and_what_is_long_is_cut() -> None:
    assert mix(4, np.array([1, 2], np.int16), np.array([1, 1, 1, 1, 9], np.int16)).tolist() == [2, 3, 1, 1]


# -- one line


def test_a_line_waits_for_its_start_and_is_then_heard_sample_by_sample() -> None:
    rng = np.random.default_rng(1)
    said = rng.integers(-9_000, 9_000, (40, FRAME)).astype(np.int16)
    lane, line, out = Lane(RATE_HZ), Line(), []
    for frame in said:
        line.frames.append(frame)
        if (pcm := heard(lane, line)) is not None:
            out.append(pcm)
    assert len(out) == len(said) - START_MS // 20 + 1
    together, whole = np.concatenate(out), np.concatenate(list(said))
    assert np.array_equal(together[DELAY:], whole[: len(together) - DELAY])
    assert (lane.counters.made_up, lane.counters.left_out) == (0, 0)


def test_a_frame_that_is_late_is_made_up_for_and_heard_then() -> None:
    lane, line = Lane(RATE_HZ), Line(*[steady(1_000)] * 2)
    heard(lane, line)
    heard(lane, line)
    assert heard(lane, line) is not None and lane.counters.made_up == 1  # nothing was there
    line.frames.extend([steady(1_000)] * 2)
    pcm = heard(lane, line)
    assert pcm is not None and pcm[-1] == 1_000 and lane.counters.made_up == 1


def test_a_lost_frame_is_made_up_in_its_place() -> None:
    lane, line = Lane(RATE_HZ), Line(steady(900), steady(900), None, steady(900))
    for _ in range(4):
        assert heard(lane, line) is not None
    assert (lane.counters.made_up, lane.counters.heard) == (1, 3)


def test_a_line_that_goes_silent_is_silent_and_begins_anew() -> None:
    lane, line = Lane(RATE_HZ), Line(*[steady(1_000)] * 2)
    found = [heard(lane, line) for _ in range(12)]
    assert [pcm is None for pcm in found] == [False] * (2 + PATIENT_FRAMES) + [True] * (10 - PATIENT_FRAMES)
    line.frames.append(steady(500))
    assert heard(lane, line) is None, "one frame is no start"
    line.frames.append(steady(500))
    assert heard(lane, line) is not None


def test_on_hold_nothing_is_pulled_and_it_begins_anew() -> None:
    lane = Lane(RATE_HZ)
    heard(lane, Line(*[steady(1)] * 3))
    assert lane.next(None, no_line) is None
    assert heard(lane, Line(steady(1))) is None


@pytest.mark.parametrize("parts_per_million", [-500, 500])
def test_clocks_that_drift_cost_single_frames_and_no_delay(parts_per_million: int) -> None:
    """Three minutes, a sender whose clock runs 500 ppm fast or slow: 4 or 5 frames more or less."""
    lane, line, sent = Lane(RATE_HZ), Line(), 0
    most_ms = 0
    for at in range(9_000):
        while sent <= at * (1 + parts_per_million / 1e6):
            line.frames.append(steady(1_000))
            sent += 1
        heard(lane, line)
        most_ms = max(most_ms, line.waiting_ms)
    assert most_ms <= START_MS + 40
    assert lane.counters.left_out <= 6 and lane.counters.made_up <= 6
    assert lane.counters.heard >= sent - 6 - START_MS // 20


def test_a_burst_is_not_kept() -> None:
    lane, line = Lane(RATE_HZ), Line(*[steady(1)] * 40)
    assert heard(lane, line) is not None
    assert line.waiting_ms < START_MS and lane.counters.left_out == (800 - START_MS) // 20


def test_what_always_waits_is_taken_out_after_two_seconds() -> None:
    lane, line = Lane(RATE_HZ), Line(*[steady(1_000)] * 5)  # 60 ms more than needed
    for _ in range(SETTLE_FRAMES * 4):
        heard(lane, line)
        line.frames.append(steady(1_000))
    assert line.waiting_ms == START_MS and lane.counters.left_out == 3


# -- three


def test_everybody_hears_the_two_others() -> None:
    conference = Conference(RATE_HZ)
    caller, person = (Line(*[steady(value)] * 4) for value in (100, 2_000))
    for _ in range(2):
        tick(conference, caller, person)
        to_caller, to_person = conference.for_caller(steady(30).tobytes()), conference.for_person()
    assert ints(to_caller).tolist() == [2_030] * FRAME
    assert ints(to_person).tolist() == [130] * FRAME
    conference.pull()
    to_model = conference.pull()
    assert to_model is not None and to_model.tolist() == [2_100] * FRAME


def test_of_a_model_that_is_muted_only_silence_comes_along() -> None:
    conference = Conference(RATE_HZ)
    tick(conference, Line(*[steady(100)] * 4), Line(*[steady(2_000)] * 4))
    assert ints(conference.for_caller(bytes(2 * FRAME)))[-1] == 2_000
    assert ints(conference.for_person())[-1] == 100


def test_while_the_caller_holds_the_others_go_on() -> None:
    conference = Conference(RATE_HZ)
    conference.for_caller(steady(30).tobytes())
    conference.for_person()
    tick(conference, None, Line(*[steady(2_000)] * 4))
    assert not ints(conference.for_person()).any(), "nobody is heard: the caller's ear was not served"
    heard_by_model = conference.pull()
    assert heard_by_model is not None and heard_by_model[-1] == 2_000


def test_while_the_person_holds_the_caller_hears_the_model() -> None:
    conference = Conference(RATE_HZ)
    tick(conference, Line(*[steady(100)] * 4), None)
    assert ints(conference.for_caller(steady(30).tobytes())).tolist() == [30] * FRAME
    heard_by_model = conference.pull()
    assert heard_by_model is not None and heard_by_model[-1] == 100


def test_the_person_hears_each_frame_of_the_model_once() -> None:
    conference = Conference(RATE_HZ)
    conference.for_caller(steady(30).tobytes())
    assert ints(conference.for_person())[0] == 30
    assert ints(conference.for_person())[0] == 0


def test_sound_that_all_of_it_is_made_up_is_none_for_the_model() -> None:
    conference = Conference(RATE_HZ)
    caller = Line(*[steady(1_000)] * 2)
    for _ in range(3):
        tick(conference, caller, None)
    assert conference.pull() is not None and conference.pull() is not None
    assert conference.waiting_ms == 20 and conference.pull() is None and conference.waiting_ms == 0
    assert conference.pull() is None


def test_what_waited_before_is_heard_by_the_model_first_and_the_queue_is_bounded() -> None:
    conference = Conference(RATE_HZ, [steady(7), None])
    tick(conference, None, None)
    first = conference.pull()
    assert first is not None and first[0] == 7 and conference.pull() is None and conference.waiting_ms == 20
    for _ in range(MOST_FRAMES + 5):
        tick(conference, None, None)
    assert conference.waiting_ms == 20 * MOST_FRAMES and conference.unheard == 6


def test_once_closed_the_caller_hears_the_model_alone_and_the_rest_is_still_pulled() -> None:
    conference = Conference(RATE_HZ)
    tick(conference, Line(*[steady(100)] * 4), Line(*[steady(2_000)] * 4))
    conference.close()
    assert conference.for_caller(steady(30).tobytes()) == steady(30).tobytes()
    assert not ints(conference.for_person()).any()
    rest = conference.pull()
    assert rest is not None and rest[-1] == 2_100
