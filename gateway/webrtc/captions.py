"""What the model says, told to the browser when it is heard and not before; and what was cut.

Replies wait for their playout point. Time is counted in frames of the playout.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from media.playout import MAX_AHEAD_TURNS
from media.timebase import FRAME_MS, FRAMES_PER_TURN


@dataclass(frozen=True, slots=True)
class Spoken:
    """The text of one reply, and the frame that it begins with."""

    turn: int
    frame: int
    text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A turn's speech that was flushed, and how much of it had been heard."""

    turn: int
    heard_ms: int


class Captions:
    """One call's."""

    def __init__(self) -> None:
        self._waiting: deque[Spoken] = deque(maxlen=MAX_AHEAD_TURNS + 3)  # a playout refuses what is further
        self._playing: deque[Spoken] = deque(maxlen=2)

    def say(self, turn: int, frame: int, text: str) -> None:
        """The reply to `turn`, which begins at `frame`; in turn order."""
        self._waiting.append(Spoken(turn, frame, text))

    def heard(self, next_frame: int) -> list[Spoken]:
        """What has begun, now that `next_frame` is the next to be played."""
        if not self._waiting:
            return []
        begun = []
        while self._waiting and self._waiting[0].frame < next_frame:
            spoken = self._waiting.popleft()
            self._playing.append(spoken)
            begun.append(spoken)
        return begun

    def cut(self, next_frame: int, since: int = 0) -> list[Cut]:
        """What was said in turn `since` and later, and not heard before `next_frame`, is not heard any more."""
        cuts = [
            Cut(s.turn, FRAME_MS * (next_frame - s.frame))
            for s in self._playing
            if next_frame - s.frame < FRAMES_PER_TURN and s.turn >= since
        ]
        cuts += [Cut(s.turn, 0) for s in self._waiting if s.turn >= since]
        for spoken in (self._waiting, self._playing):
            kept = [s for s in spoken if s.turn < since]
            spoken.clear()
            spoken.extend(kept)
        return cuts
