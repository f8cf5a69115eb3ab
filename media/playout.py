"""chunk -> frame: each reply is heard at its own time or not at all, and what was heard is written down.

Time here is counted in frames that somebody pulls, one every 20 ms. The reply to turn t begins at frame
`first + 10 t`. A reply whose first frame has been pulled already is late: it is dropped and counted, never
queued behind the next one, so the delay cannot grow.

Its one rule: `pull` never waits and never computes; it may be called from another thread than the rest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from media.chunk import PCM
from media.timebase import FRAME_MS, FRAMES_PER_TURN, samples_of

MAX_AHEAD_TURNS = 3
"""A reply further ahead than this belongs to no playout point that we know: refused and counted."""
COMFORT_AFTER_FRAMES = 15
"""300 ms without a reply: the model is away, and a line that is quite dead sounds broken."""
_COMFORT_AMPLITUDE = 16.0  # about -66 dBov: a quiet room


@dataclass(slots=True)
class HeardLedger:
    """Samples at the leg's rate, since the leg began: of all that was offered, where it went."""

    offered: int = 0
    played: int = 0
    late: int = 0
    flushed: int = 0
    early: int = 0
    withheld: int = 0
    """Kept back by whoever watches what the model says."""
    late_turns: int = 0
    missed_turns: int = 0


class Playout:
    """One leg's replies on their way to its ear."""

    def __init__(self, rate_hz: int, seed: int = 0) -> None:
        self.rate_hz = rate_hz
        self.ledger = HeardLedger()
        self.muted = False
        """Replies pass unheard, and the ledger says so."""
        self.only_listens = False
        """The same, as long as somebody else speaks in the model's place; whoever unmutes it ends that, too."""
        self.lookahead = 0
        """Turns that every reply is heard later, from the next `start` on: so long it can be taken back."""
        self._frame = samples_of(FRAME_MS, rate_hz)
        self._frames: dict[int, bytes] = {}  # bounded: MAX_AHEAD_TURNS
        self._next = 0
        self._first: int | None = None
        self._silent_frames = 0
        self._offered_turns: set[int] = set()
        self._announcement: deque[bytes] = deque()  # bounded: a file of ours
        self._announced_to = 0
        self._instead: dict[int, bytes] = {}  # bounded: a file of ours
        noise = np.random.default_rng(seed).normal(0.0, _COMFORT_AMPLITUDE, (16, self._frame))
        self._comfort = [row.astype(np.int16).tobytes() for row in noise]
        self._silence = bytes(2 * self._frame)

    @property
    def next_frame(self) -> int:
        """Index of the frame that is pulled next."""
        return self._next

    @property
    def waiting(self) -> int:
        """Samples offered and not yet heard, dropped or flushed."""
        return len(self._frames) * self._frame

    def mute(self, muted: bool) -> None:
        """By somebody who may: until he unmutes it, whoever comes and goes meanwhile."""
        self.muted = muted
        self.only_listens = self.only_listens and muted

    def announce(self, pcm: PCM) -> None:
        """Before anything else this is heard, int16 at the leg's rate: rounded up to whole frames, with silence."""
        size = 2 * self._frame
        sound = pcm.tobytes()
        sound += bytes(-len(sound) % size)
        self._announcement.extend(sound[at : at + size] for at in range(0, len(sound), size))

    @property
    def is_announcing(self) -> bool:
        """Whether what is pulled next is no reply yet."""
        return bool(self._announcement)

    @property
    def announced_to(self) -> int:
        """Index of the frame behind the announcement; 0 without one."""
        return self._announced_to

    def frame_of(self, turn: int) -> int:
        """Index of the frame that the reply to `turn` begins with; after `start`."""
        assert self._first is not None, "start() comes first"
        return self._first + FRAMES_PER_TURN * turn

    def start(self, turn: int, frame: int) -> None:
        """The reply to `turn` begins at `frame`, or `lookahead` turns later; called again when a stalled clock must
        be caught up with."""
        self._first = frame - FRAMES_PER_TURN * (turn - self.lookahead)

    def offer(self, turn: int, pcm: PCM) -> bool:
        """A reply at the leg's rate, int16 [200 ms]; False when it is dropped, which is counted."""
        self.ledger.offered += len(pcm)
        begin = self.frame_of(turn)
        if begin < self._next:
            self.ledger.late += len(pcm)
            self.ledger.late_turns += 1
            return False
        if begin - self._next > (MAX_AHEAD_TURNS + self.lookahead) * FRAMES_PER_TURN:
            self.ledger.early += len(pcm)
            return False
        self._offered_turns.add(turn)
        samples = pcm.tobytes()
        size = 2 * self._frame
        for index in range(FRAMES_PER_TURN):
            self._frames[begin + index] = samples[index * size : (index + 1) * size]
        return True

    def pull(self) -> bytes:
        """The next 20 ms: the announcement's, a reply's, or a soft comfort sound once replies have stayed away."""
        if self._announcement:
            self._next += 1
            self._announced_to = self._next
            return self._announcement.popleft()
        frame = self._frames.pop(self._next, None)
        instead = self._instead.pop(self._next, None) if self._instead else None
        self._next += 1
        if self.muted or self.only_listens:
            self.ledger.flushed += self._frame if frame is not None else 0
            return self._silence
        if instead is not None:
            self.ledger.withheld += self._frame if frame is not None else 0
            self._silent_frames = 0
            return instead
        if frame is not None:
            self._silent_frames = 0
            self.ledger.played += self._frame
            return frame
        self._silent_frames += 1
        if self._first is not None and self._silent_frames > COMFORT_AFTER_FRAMES:
            comfort: bytes = self._comfort[self._next % len(self._comfort)]
            return comfort
        return self._silence

    def flush(self) -> int:
        """The model yields: what is queued is cut, its next frame fading out. Samples that go unheard."""
        cut = self._cut(0, self._next)
        self.ledger.flushed += cut
        return cut

    def withdraw(self, turn: int) -> int:
        """What is queued of `turn` and of later ones is not to be heard; what is heard before fades out. Samples
        that go unheard."""
        since, upcoming = self.frame_of(turn), self._next
        fading = since - 1 if since >= upcoming else upcoming
        cut = self._cut(fading, fading)
        self.ledger.withheld += cut
        return cut

    def withhold(self, turn: int, samples: int) -> None:
        """In place of `offer`: that reply is not to be heard. There is silence then, and no comfort sound."""
        self.ledger.offered += samples
        self.ledger.withheld += samples
        self._offered_turns.add(turn)
        self._silent_frames = 0

    def play_instead(self, turn: int, pcm: PCM) -> None:
        """From the place of `turn` on, or from now, this is heard whatever is offered, int16 at the leg's rate. It
        is none of the model's sound."""
        begin, size = max(self._next + 1, self.frame_of(turn)), 2 * self._frame
        sound = pcm.tobytes()
        sound += bytes(-len(sound) % size)
        self._instead = {begin + at // size: sound[at : at + size] for at in range(0, len(sound), size)}

    @property
    def is_replaced(self) -> bool:
        """Whether something else than replies is heard, or about to be."""
        return bool(self._instead)

    def _cut(self, since: int, fading: int) -> int:
        """Frames from index `since` on, but for the one that fades; gives the samples."""
        cut = 0
        for index in list(self._frames):
            frame = self._frames.pop(index, None) if index >= since else None
            if frame is None:
                continue
            if index == fading:
                ramp = np.linspace(1.0, 0.0, self._frame)
                faded = np.frombuffer(frame, np.int16) * ramp
                self._frames[index] = faded.astype(np.int16).tobytes()
            else:
                cut += self._frame
        return cut

    def settle(self, turn: int) -> bool:
        """Close the books of `turn`, whose playout point is over: whether its reply was heard."""
        for index in [i for i in list(self._frames) if i < self._next]:  # overtaken while being offered
            if self._frames.pop(index, None) is not None:
                self.ledger.late += self._frame
        heard = turn in self._offered_turns
        self._offered_turns = {t for t in self._offered_turns if t > turn}
        if not heard:
            self.ledger.missed_turns += 1
        return heard

    def skip(self, frames: int) -> None:
        """The puller's clock slept over `frames` frames: they go unheard, so that the delay stays."""
        for _ in range(frames):
            frame = self._frames.pop(self._next, None)
            self._instead.pop(self._next, None)
            self._next += 1
            if frame is not None:
                self.ledger.flushed += self._frame
