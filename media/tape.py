"""Both sides of a call on one clock: left what the caller said, right what the caller heard, sample by sample.

The clock is the ear's: sample 0 is the first of the first frame that was pulled for the caller, and a frame lies
where the playout counts it. What the caller said is cut in turns; the first turn of a lease is laid on that clock
by when it was cut, each later one where the turns put it. What never came is silence: frames that nobody pulled
(hold, a clock that slept), turns that nobody cut (no model server).

Its one rule: a sample is written down where it was heard, or not at all (counted), never somewhere else.

`hear` may be called from another thread than the rest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from media.chunk import PCM
from media.timebase import FRAME_MS, samples_of

WAIT_MS: Final = 500
"""One side waits for the other for so long: a turn of the caller's comes whole, 200 ms, at its tick; what is not
there then is silence."""
MOST_FRAMES: Final = 150
"""3 s of what was heard, if nobody takes it; beyond it the newest go."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the recording."""

    at: int
    """Place of its first sample, from the beginning of the recording."""
    pcm: PCM
    """int16 [n, 2]: caller, model."""


@dataclass(slots=True)
class TapeCounters:
    """Samples at the tape's rate that are silence in the recording and were none."""

    said_late: int = 0
    """By the caller: their place had been written."""
    heard_late: int = 0


class Tape:
    """One recording of one leg."""

    def __init__(self, rate_hz: int, not_before: int = 0) -> None:
        """It begins with the first turn that is cut, but not before sample `not_before` of the ear's clock."""
        self.rate_hz = rate_hz
        self.counters = TapeCounters()
        self._frame = samples_of(FRAME_MS, rate_hz)
        self._wait = samples_of(WAIT_MS, rate_hz)
        self._not_before = not_before
        self._begin: int | None = None
        self._at = 0  # what is before that has been taken
        self._heard: deque[tuple[int, bytes]] = deque()  # frame and its sound; bounded by `hear`
        self._said: deque[tuple[int, PCM]] = deque()  # place and turn; `take` follows each
        self._said_end = self._heard_end = 0
        self._pauses: list[tuple[int, int | None]] = []

    @property
    def length(self) -> int:
        """Samples taken until now."""
        return self._at - self._begin if self._begin is not None else 0

    @property
    def is_paused(self) -> bool:
        """Whether what is said now will be silence."""
        return bool(self._pauses) and self._pauses[-1][1] is None

    def hear(self, frame: int, pcm: bytes) -> None:
        """The caller heard these 20 ms, int16, in this place."""
        if len(self._heard) >= MOST_FRAMES:
            self.counters.heard_late += self._frame
            return
        self._heard.append((frame, pcm))
        self._heard_end = max(self._heard_end, (frame + 1) * self._frame)

    def say(self, end: int, pcm: PCM) -> None:
        """The caller said this, int16 [n], and `end` of the ear's clock is the place behind it."""
        begin = end - len(pcm)
        if self._begin is None:
            first = max(0, begin, self._not_before)
            self._begin = self._at = self._said_end = -(-first // self._frame) * self._frame
            begin, pcm = self._begin, pcm[self._begin - begin :]
        behind = max(self._said_end, self._at)
        if begin < behind:  # another lease has another phase; or they waited for each other too long
            late = min(behind - begin, len(pcm))
            self.counters.said_late += late
            begin, pcm = begin + late, pcm[late:]
        if len(pcm):
            self._said.append((begin, pcm))
            self._said_end = end

    def pause(self, now: int) -> None:
        """Silence of both sides from place `now` of the ear's clock on."""
        self._pauses.append((max(now, self._at), None))

    def resume(self, now: int) -> int:
        """From here on as before; gives how many samples are silence for it."""
        begin, _ = self._pauses[-1]
        until = max(begin, now)
        self._pauses[-1] = (begin, until)
        return until - begin

    def place_of(self, now: int) -> int:
        """In the recording, of place `now` of the ear's clock."""
        return max(0, now - self._begin) if self._begin is not None else 0

    def take(self, *, to_the_end: bool = False) -> Block | None:
        """What both sides have until now, or one of them longer than the other may wait; None for nothing."""
        if self._begin is None:
            return None
        newest = max(self._said_end, self._heard_end)
        end = newest if to_the_end else max(min(self._said_end, self._heard_end), newest - self._wait)
        end -= end % self._frame
        first = self._at
        if end <= first:
            return None
        pcm = np.zeros((end - first, 2), np.int16)
        self._take_said(pcm, first, end)
        self._take_heard(pcm, first, end)
        self._at = end
        for begin, until in self._pauses:
            pcm[max(0, begin - first) : max(0, (end if until is None else until) - first)] = 0
        self._pauses = [pause for pause in self._pauses if pause[1] is None or pause[1] > end]
        return Block(first - self._begin, pcm)

    def _take_said(self, pcm: PCM, first: int, end: int) -> None:
        while self._said and self._said[0][0] < end:
            begin, turn = self._said.popleft()
            fits = min(len(turn), end - begin)
            pcm[begin - first : begin - first + fits, 0] = turn[:fits]
            if fits < len(turn):
                self._said.appendleft((begin + fits, turn[fits:]))

    def _take_heard(self, pcm: PCM, first: int, end: int) -> None:
        """Whole frames; those that follow each other in one piece."""
        piece: list[bytes] = []
        place = next_place = 0
        while self._heard and self._heard[0][0] * self._frame < end:
            frame, sound = self._heard.popleft()
            at = frame * self._frame
            if at < max(first, next_place):  # after a hold a clock that was late pulls several frames at once
                if any(sound) and self._begin is not None and at >= self._begin:
                    self.counters.heard_late += self._frame
                continue
            if piece and at != next_place:
                _lay(pcm, place - first, piece)
                piece = []
            if not piece:
                place = at
            piece.append(sound)
            next_place = at + self._frame
        if piece:
            _lay(pcm, place - first, piece)


def _lay(pcm: PCM, at: int, frames: list[bytes]) -> None:
    sound = np.frombuffer(b"".join(frames), np.int16)
    pcm[at : at + len(sound), 1] = sound
