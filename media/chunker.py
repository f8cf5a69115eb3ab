"""frame -> chunk: cuts one leg's samples into turns on our clock, and says what it made up or left out.

Samples come in as the leg got them, in the leg's rate; once a turn `cut` takes exactly one turn of them.
What decides is *slack*: how long before the cut the last sample that the chunk needs had arrived. A sender
whose clock is fast, a stall that ends in a burst or a late start let the slack grow, and slack is delay:

    slack missing (the sample is not here)         the rest is concealed and said, whatever comes late waits
    a frame or more too much, `SETTLE_TURNS` long  what is too much is taken out (`conceal.shorten`),
    `RUSH_NS` too much                             or at once, up to `RUSH_MS` a turn
    more than `LATE_BOUND_MS` waiting              the oldest is dropped

Its one rule: samples are never lost from the account. At any time

    received = used + dropped + waiting        cut * turn = used + concealed + padded
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from media.chunk import PCM
from media.conceal import extend, shorten
from media.timebase import FRAME_NS, NS_PER_MS, TURN_MS, samples_of

GUARD_NS = 4 * NS_PER_MS
"""Slack that a leg keeps against the jitter of its own clock thread."""
SETTLE_TURNS = 5
"""One second: shorter waits would take frames out that the next late one asks back."""
RUSH_NS = 3 * FRAME_NS
RUSH_MS = 30
"""Of 200: 15 % faster speech is still speech."""
LATE_BOUND_MS = 150
"""What may be kept of a burst: gone after 5 turns of `RUSH_MS`, within the 2 s that DESIGN allows."""


@dataclass(slots=True)
class Account:
    """Samples at the leg's rate, since the leg began."""

    received: int = 0
    used: int = 0
    concealed: int = 0
    padded: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """One turn at the leg's rate: int16 [200 ms], and how much of it is not what was received."""

    pcm: PCM
    concealed: int
    dropped: int
    lost: int = 0
    """Packets found lost since the cut before, where packets are seen."""


class Chunker:
    """One leg's samples on their way into chunks."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.account = Account()
        self._turn = samples_of(TURN_MS, rate_hz)
        self._waiting: deque[tuple[PCM, int]] = deque()  # bounded by `receive_frame`
        self._samples = 0
        self._history = np.zeros(0, np.int16)
        self._concealed_run = 0
        self._slacks: deque[int] = deque(maxlen=SETTLE_TURNS)
        self._started = False
        self._dropped_told = 0

    @property
    def waiting(self) -> int:
        """Samples that are here and in no chunk yet."""
        return self._samples

    def receive_frame(self, pcm: PCM, arrival_ns: int) -> None:
        """Samples in order, int16 [n]. Beyond two turns the oldest are dropped: nobody is cutting."""
        self._waiting.append((pcm, arrival_ns))
        self._samples += len(pcm)
        self.account.received += len(pcm)
        while self._samples > 2 * self._turn:
            self._drop_oldest(self._samples - 2 * self._turn)

    def choose_phase(self) -> None:
        """The next cut is as the first: at another phase, and without what waited while nobody cut."""
        self._started = False
        self._slacks.clear()

    def is_whole(self) -> bool:
        """Whether a cut now would need no concealment."""
        return self._samples >= self._turn

    def cut(self, now_ns: int) -> Cut:
        """Exactly one turn, as of now."""
        if not self._started:
            return self._first_cut(now_ns)
        self._drop_oldest(self._samples - self._turn - samples_of(LATE_BOUND_MS, self.rate_hz))
        if self._samples < self._turn:
            self._slacks.append(0)
            taken = self._take(self._samples)
            missing = self._turn - len(taken)
            past = np.concatenate((self._history, taken))
            made_up = extend(past, missing, self.rate_hz, self._concealed_run if not len(taken) else 0)
            self._concealed_run = missing + (self._concealed_run if not len(taken) else 0)
            self.account.concealed += missing
            return self._done(np.concatenate((taken, made_up)), missing)
        self._concealed_run = 0
        surplus = min(self._surplus(now_ns), self._samples - self._turn)
        pcm = self._take(self._turn + surplus)
        if surplus:
            pcm = shorten(pcm, surplus, self.rate_hz)
            self.account.used -= surplus
            self.account.dropped += surplus
        return self._done(pcm, 0)

    def _first_cut(self, now_ns: int) -> Cut:
        """The leg's phase is chosen here: the newest frame that has `GUARD_NS` of slack ends the chunk."""
        self._started = True
        young = sum(len(pcm) for pcm, arrival_ns in self._waiting if now_ns - arrival_ns < GUARD_NS)
        self._drop_oldest(self._samples - young - self._turn)
        taken = self._take(min(self._samples - young, self._turn))
        padding = self._turn - len(taken)
        self.account.padded += padding
        return self._done(np.concatenate((np.zeros(padding, np.int16), taken)), 0)

    def _surplus(self, now_ns: int) -> int:
        """Samples to take out of this turn, from the slack now and of late."""
        needed = self._turn
        slack = 0
        for pcm, arrival_ns in self._waiting:
            needed -= len(pcm)
            if needed <= 0:
                slack = now_ns - arrival_ns
                break
        self._slacks.append(slack)
        settled = min(self._slacks) - GUARD_NS if len(self._slacks) == SETTLE_TURNS else 0
        if settled < FRAME_NS and slack < RUSH_NS + GUARD_NS:
            return 0
        excess_ms = (settled if settled >= FRAME_NS else slack - GUARD_NS) // NS_PER_MS
        taken_ms = min(excess_ms, RUSH_MS)
        self._slacks = deque((s - taken_ms * NS_PER_MS for s in self._slacks), maxlen=SETTLE_TURNS)
        return samples_of(taken_ms, self.rate_hz)

    def _done(self, pcm: PCM, concealed: int) -> Cut:
        self._history = pcm[-samples_of(40, self.rate_hz) :]
        dropped, self._dropped_told = self.account.dropped - self._dropped_told, self.account.dropped
        return Cut(pcm, concealed, dropped)

    def _take(self, count: int) -> PCM:
        """The oldest `count` samples, which must be here."""
        parts, left = [], count
        while left:
            pcm, arrival_ns = self._waiting.popleft()
            if len(pcm) > left:
                self._waiting.appendleft((pcm[left:], arrival_ns))
                pcm = pcm[:left]
            parts.append(pcm)
            left -= len(pcm)
        self._samples -= count
        self.account.used += count
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def _drop_oldest(self, count: int) -> None:
        if count > 0:
            self._take(count)
            self.account.used -= count
            self.account.dropped += count
