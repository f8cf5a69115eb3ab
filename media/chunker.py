"""frame -> chunk: pulls one leg's frames into turns on our clock, and says what it made up or left out.

Frames wait, in order, in a store that is not ours (pjmedia's); once a turn `cut` pulls what makes exactly one turn.
What more is there when it is cut is delay, less the *reserve* that the line asks for:

    a frame is missing, or none is here            made up (`conceal.Concealer`), and said; what comes late waits
    packets come after their place                 the reserve grows; up to `STRETCH_MS` a turn is said twice
    a frame or more too much, `SETTLE_TURNS` long  it is taken out
    `RUSH_AT_MS` too much, for two turns           at once, up to `RUSH_MS` a turn
    more than `LATE_BOUND_MS` too much             the oldest is dropped

Its one rule: samples are never lost from the account. At any time

    pulled + concealed + stretched + padded = turn * cut + dropped + retracted
    made up, in what was cut and what the concealer holds back = concealed - retracted
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from media.chunk import PCM
from media.conceal import Concealer
from media.made_up import MadeUp, Runs, behind, fitted, total
from media.timebase import FRAME_MS, FRAMES_PER_TURN, TURN_MS, samples_of

SETTLE_TURNS = 5
"""One second: shorter waits would take frames out that the next late one asks back."""
RUSH_AT_MS = 60
RUSH_MS, STRETCH_MS = 40, 20
"""Of 200."""
LATE_BOUND_MS = 120
"""What may be kept of a burst: gone after 3 turns of `RUSH_MS`, within the 2 s that DESIGN allows."""
MOST_RESERVE_MS = 240
LATE_STEP_MS, CALM_MS = 20, 6.0
"""A packet that was overtaken and came after its place asks for a frame more of reserve than there was. That is
halved each turn once RFC 3550's jitter is below `CALM_MS`: the line reorders no more. Where packets keep their
order nothing is asked for: the first late one makes the delay that the next ones need."""
JITTERS = 4
"""So many interarrival jitters are not taken out, either: 98 % of a gamma delay (shape 2). In `loadtests netem`'s
networks 2, 3 and 4 cost the same on a jittery line, and 4 heard the busy Wi-Fi best (PESQ 2.7, 2.8, 3.0)."""


SILENT_FRAMES = 3
"""Made up in a row: then `Concealer` is silent."""


class Line(NamedTuple):
    """What the store's owner has seen of the packets."""

    jitter_ms: float
    """RFC 3550 6.4.1, of now."""
    lost_packets: int
    """By sequence number, since the stream began."""
    late_packets: int
    """Came after their place was pulled, since the stream began."""


class Store(Protocol):
    """Frames in order, kept by somebody else."""

    def look(self) -> int | None:
        """ms from the oldest frame to the newest, gaps included; None while there is no stream: not negotiated
        yet, or held."""

    def line(self) -> Line:
        """After `look` has found something: once a cut, since it may be dear."""

    def pull(self) -> PCM | None:
        """The oldest 20 ms; None where there should be some."""


@dataclass(slots=True)
class Account:
    """Samples at the leg's rate, since the leg began."""

    pulled: int = 0
    concealed: int = 0
    """Made up, where a pull gave nothing; and of that what was said twice."""
    stretched: int = 0
    """Said twice, of what was pulled."""
    padded: int = 0
    """Silence: nobody has said anything yet, or there is no stream."""
    dropped: int = 0
    """Left out, of what was pulled."""
    retracted: int = 0
    """Left out, of what was made up: no chunk has it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One turn at the leg's rate: int16 [200 ms], and what of it is not what was received."""

    pcm: PCM
    made_up: Runs = ()
    dropped: int = 0
    lost: int = 0
    """Packets found lost since the cut before, where packets are seen."""

    @property
    def concealed(self) -> int:
        """Samples that were made up."""
        return total(self.made_up)


class Chunker:
    """One leg's frames on their way into chunks."""

    def __init__(self, rate_hz: int, store: Store) -> None:
        self.rate_hz = rate_hz
        self.account = Account()
        self.reserve_ms = 0
        self._store = store
        self._frame, self._turn = samples_of(FRAME_MS, rate_hz), samples_of(TURN_MS, rate_hz)
        self._ms: int | None = None
        self._earlier_ms: int | None = None  # at the look before that, in the same turn
        self._beyond: deque[int] = deque(maxlen=SETTLE_TURNS)  # ms more than a turn, at each cut
        self._started = False
        self._conceal = Concealer(rate_hz)
        self._made_up = MadeUp()  # of what it hands out next
        self._late_ms = 0.0
        self._late = self._filled = self._lost = self._seen_lost = self._behind = 0
        self._is_empty = True

    def look(self) -> None:
        """See what waits; once before each `is_whole` or `cut`."""
        self._earlier_ms, self._ms = self._ms, self._store.look()

    def choose_phase(self) -> None:
        """The next cut is as the first: at another phase, and without what waited while nobody cut."""
        self._started = False
        self._beyond.clear()

    def is_whole(self) -> bool:
        """Whether a cut now would need nothing that is not here."""
        return self._ms is None or self._ms >= TURN_MS

    def cut(self, now_ns: int) -> Cut:
        """Exactly one turn, of what was seen last."""
        ms, earlier_ms = self._ms, self._earlier_ms
        self._ms = None
        if ms is None or (not self._started and not ms):
            self.account.padded += self._turn
            return Cut(np.zeros(self._turn, np.int16))
        before = self.account.dropped
        line = self._store.line()
        pcm, made_up = self._go_on(ms, line) if self._started else self._begin(ms, earlier_ms, line)
        return Cut(pcm, made_up, self.account.dropped - before, self._tell_lost())

    def _begin(self, ms: int, earlier_ms: int | None, line: Line) -> tuple[PCM, Runs]:
        """The leg's phase is chosen here: what came last ends the chunk, unless it came while we looked: just in
        time, and at each later tremor it would not. Then it waits for the next turn."""
        self._started = True
        self._count_lost(line)
        self._late = line.late_packets
        ms -= self._drop(ms - TURN_MS)
        here = -(-ms // FRAME_MS)
        just_in_time = earlier_ms is not None and earlier_ms < ms < TURN_MS
        pcm, made_up = self._pull(min(FRAMES_PER_TURN, here - just_in_time), here, 0)
        padding = self._turn - len(pcm)
        self.account.padded += padding
        return np.concatenate((np.zeros(padding, np.int16), pcm)), behind(padding, made_up)

    def _go_on(self, seen_ms: int, line: Line) -> tuple[PCM, Runs]:
        lost = self._count_lost(line)
        self._reserve(line)
        forgotten = min(lost, max(0, TURN_MS - seen_ms) // FRAME_MS) if self._is_empty else 0
        ms = seen_ms + forgotten * FRAME_MS
        ms -= self._drop(ms - TURN_MS - self.reserve_ms - LATE_BOUND_MS)
        self._beyond.append(ms - TURN_MS)
        surplus = self._surplus(seen_ms)
        here = (ms - forgotten * FRAME_MS) // FRAME_MS
        pcm, made_up = self._pull(FRAMES_PER_TURN + surplus // FRAME_MS, here, lost)
        self._beyond = deque((ms - surplus for ms in self._beyond), maxlen=SETTLE_TURNS)
        return self._fit(pcm, made_up)

    def _fit(self, pcm: PCM, waited: Runs) -> tuple[PCM, Runs]:
        """As long as a turn."""
        surplus = len(pcm) - self._turn
        if not surplus:
            return pcm, waited
        pcm, made_up = fitted(pcm, waited, self._turn, self.rate_hz)
        change = total(made_up) - total(waited)
        if surplus > 0:
            self.account.retracted -= change
            self.account.dropped += surplus + change
        else:
            self.account.concealed += change
            self.account.stretched -= surplus + change
        return pcm, made_up

    def _count_lost(self, line: Line) -> int:
        """More than at the last cut; a packet that comes late, or another stream, makes it fewer."""
        more, self._seen_lost = line.lost_packets - self._seen_lost, line.lost_packets
        self._lost = max(0, self._lost + more)
        return max(0, more)

    def _reserve(self, line: Line) -> None:
        """What the line asks for, from its jitter and from what came late."""
        late, self._late = line.late_packets - self._late, line.late_packets
        if line.jitter_ms < CALM_MS:
            self._late_ms /= 2
        if late > 0:
            had_ms = max(0, self._beyond[-1]) if self._beyond else 0
            self._late_ms = max(self._late_ms, min(MOST_RESERVE_MS, had_ms + LATE_STEP_MS))
        wanted_ms = min(MOST_RESERVE_MS, max(JITTERS * line.jitter_ms, self._late_ms))
        self.reserve_ms = round(wanted_ms / FRAME_MS) * FRAME_MS

    def _surplus(self, seen_ms: int) -> int:
        """ms to take out of this turn, or, negative, to put in: whole frames."""
        last_two = list(self._beyond)[-2:]
        now = min(last_two) - self.reserve_ms if len(last_two) == 2 else 0
        settled = min(self._beyond) - self.reserve_ms if len(self._beyond) == SETTLE_TURNS else 0
        excess = max(now if now >= RUSH_AT_MS else 0, settled)
        if excess >= FRAME_MS:
            return min(excess // FRAME_MS * FRAME_MS, RUSH_MS)
        is_short = self._late_ms - max(last_two) >= FRAME_MS
        return -STRETCH_MS if is_short and seen_ms else 0

    def _drop(self, ms: int) -> int:
        """Pulls and forgets whole frames of at most `ms`; returns how much."""
        frames = max(0, ms) // FRAME_MS
        for _ in range(frames):
            self._store.pull()
        self.account.pulled += frames * self._frame
        self.account.dropped += frames * self._frame
        return frames * FRAME_MS

    def _pull(self, count: int, here: int, lost: int) -> tuple[PCM, Runs]:
        """int16 [count * 20 ms]: of those that are `here`, and of what was found `lost` since the last cut.

        An empty store begins anew with whatever comes: what was lost before that is missing in front of it, less
        what was made up behind the last turn. Out of silence all that is missing goes in front of the speech.
        """
        frames = [self._store.pull() for _ in range(min(count, here))]
        short = count - len(frames)
        front = 0
        if self._is_empty and frames:
            was_silent = self._behind >= SILENT_FRAMES
            front = short if was_silent else lost - sum(pcm is None for pcm in frames) - self._behind
        front = max(0, min(front, short))
        self._is_empty, self._behind = count >= here, short - front
        return self._say([None] * front + frames + [None] * self._behind)

    def _say(self, frames: list[PCM | None]) -> tuple[PCM, Runs]:
        """int16 [frames * 20 ms], what is missing made up."""
        parts = [np.zeros(0, np.int16)]
        place = self._conceal.delay
        for is_missing, some in itertools.groupby(frames, lambda pcm: pcm is None):
            if is_missing:
                missing = len(list(some))
                parts.append(self._conceal.conceal(missing * self._frame))
                self._filled += missing
                self._made_up.add(place, len(parts[-1]))
                self.account.concealed += len(parts[-1])
            else:
                parts.append(self._conceal.receive(np.concatenate([pcm for pcm in some if pcm is not None])))
                self.account.pulled += len(parts[-1])
            place += len(parts[-1])
        said = np.concatenate(parts)
        return said, self._made_up.take(len(said))

    def _tell_lost(self) -> int:
        """Packets missing by sequence number, whose places have been made up; some of them come late."""
        told = min(self._lost, self._filled)
        self._lost -= told
        self._filled -= told
        return told
