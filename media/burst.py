"""One client's sound that comes in pieces of any size, as fast as it likes, on its way into chunks: cut on our
clock.

There are no packets and no time stamps here, and nothing is ever lost: sound comes in order over a stream of
bytes, or later than it should. Two kinds of senders come through the same door:

    live     a microphone: it cannot send more than the time that passed. What waits is delay
    stored   a file: it sends all at once. What waits is what it wants to say, and is played out in real time

A sender is taken to be live as long as what came in the last two seconds is about two seconds of sound. Then
what has waited for all of that time is caught up with, compressed in time, by `RUSH_MS` a turn. The one rule: a
cut is exactly a turn, at any moment; where nothing waits it is silence: in front of what begins, and of a live
sender's said to be made up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from media.chunk import PCM
from media.chunker import Cut
from media.made_up import Runs, fitted
from media.resample import Resampler
from media.timebase import MODEL_HZ, TURN_MS, samples_of

SETTLE_TURNS: Final = 10
"""What has waited for so long is delay."""
RUSH_MS: Final = 20
"""Caught up with in one turn: a tenth faster."""
RESERVE_MS: Final = 20
"""Not worth catching up with."""
LIVE_LEAST, LIVE_MOST = 0.7, 1.2
"""Sound that came, by the time in which it came."""


@dataclass(slots=True)
class Account:
    """Samples at 16 kHz, since the leg began: received + padded + concealed = taken + waiting + the other two."""

    received: int = 0
    refused: int = 0
    """Beyond the bound: the newest."""
    dropped: int = 0
    """Left out to catch up, cleared by the sender, or of another rate than what came after."""
    concealed: int = 0
    """Silence in the middle of a live sender's sound."""
    padded: int = 0
    """Silence where nobody said anything."""


class Burst:
    """`media.leg.Intake` at 16 kHz, of a sender whose rate may change."""

    rate_hz: Final = MODEL_HZ

    def __init__(self, from_hz: int, most_ms: int) -> None:
        """Of what comes at `from_hz`, at most `most_ms` wait: what is beyond is refused."""
        self.account = Account()
        self._most_ms = most_ms
        self._waiting: deque[PCM] = deque()  # bounded: `receive` refuses
        self._came: deque[int] = deque(maxlen=SETTLE_TURNS)  # between two cuts
        self._left: deque[int] = deque(maxlen=SETTLE_TURNS)  # behind each cut
        self._samples = self._since_cut = 0
        self.set_rate(from_hz)

    def set_rate(self, from_hz: int) -> None:
        """What comes from now on; what waits at another rate is dropped."""
        self.clear()
        self.from_hz = from_hz
        self._turn = samples_of(TURN_MS, from_hz)
        self._up = Resampler(from_hz, MODEL_HZ)

    @property
    def waiting_ms(self) -> int:
        """Of what was received and is in no chunk yet."""
        return self._samples * 1_000 // self.from_hz

    @property
    def is_live(self) -> bool:
        """Whether the sender keeps the pace of a microphone."""
        came = sum(self._came) / (SETTLE_TURNS * self._turn)
        return len(self._came) == SETTLE_TURNS and LIVE_LEAST <= came <= LIVE_MOST

    def receive(self, pcm: PCM) -> int:
        """int16 [n] at the sender's rate; gives how many of them there was no room for."""
        room = samples_of(self._most_ms, self.from_hz) - self._samples
        taken = pcm[: max(0, room)]
        refused = len(pcm) - len(taken)
        self.account.received += self._ours(len(pcm))
        self.account.refused += self._ours(refused)
        if len(taken):
            self._waiting.append(taken)
            self._samples += len(taken)
            self._since_cut += len(taken)
        return refused

    def clear(self) -> int:
        """Nothing waits any more; gives how many ms did."""
        if not self._samples:
            return 0
        cleared_ms = self.waiting_ms
        self.account.dropped += self._ours(self._samples)
        self._waiting.clear()
        self._left.clear()
        self._samples = 0
        return cleared_ms

    def choose_phase(self) -> None:
        """A slot was leased: a live sender goes on with what it says now."""
        if self.is_live:
            self.clear()
        self._came.clear()
        self._left.clear()

    def is_whole(self) -> bool:
        """Whether waiting a little would not help."""
        return self._samples >= self._turn or not (self._samples or self.is_live)

    def cut(self, now_ns: int) -> Cut:
        """Exactly one turn, int16 [3200]."""
        self._came.append(self._since_cut)
        self._since_cut = 0
        is_live = self.is_live
        surplus = self._surplus() if is_live else 0
        pcm = self._take(min(self._samples, self._turn + surplus))
        self._left.append(self._samples)
        if surplus:
            pcm, _ = fitted(pcm, (), self._turn, self.from_hz)
            self.account.dropped += self._ours(surplus)
        made_up: Runs = ()
        if missing := self._turn - len(pcm):
            if is_live:
                made_up = ((self._ours(len(pcm)), samples_of(TURN_MS, MODEL_HZ)),)
                self.account.concealed += self._ours(missing)
            else:
                self.account.padded += self._ours(missing)
            silence = np.zeros(missing, np.int16)
            front = not is_live and len(pcm) > 0 and self._begins()
            pcm = np.concatenate((silence, pcm) if front else (pcm, silence))
        return Cut(self._up.push(pcm), made_up, self._ours(surplus))

    # -- inside

    def _begins(self) -> bool:
        """Nothing had come before this turn."""
        return sum(self._came) == self._came[-1]

    def _surplus(self) -> int:
        """Samples to take beyond a turn, of a live sender."""
        if len(self._left) < SETTLE_TURNS:
            return 0
        over = min(min(self._left), self._samples - self._turn) - samples_of(RESERVE_MS, self.from_hz)
        return samples_of(RUSH_MS, self.from_hz) if over >= samples_of(RUSH_MS, self.from_hz) else 0

    def _take(self, samples: int) -> PCM:
        parts: list[PCM] = [np.zeros(0, np.int16)]
        self._samples -= samples
        while samples:
            first = self._waiting[0]
            parts.append(first[:samples])
            if len(first) > samples:
                self._waiting[0] = first[samples:]
            else:
                self._waiting.popleft()
            samples -= len(parts[-1])
        return np.concatenate(parts)

    def _ours(self, samples: int) -> int:
        return samples * MODEL_HZ // self.from_hz
