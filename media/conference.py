"""Three on one line: a caller, the model, and a person who has joined them, mixed frame by frame.

    caller hears    person + model
    person hears    caller + model
    model hears     caller + person

Once every 20 ms, at the worker's clock, `Conference.tick` takes the next frame of caller and person; then each ear
asks for what is heard there. Sums saturate (int16), and nobody hears himself. Whoever is on hold, or away, says
nothing, and the others go on.

The two lines have clocks and jitter of their own, so each has a `Lane`: it waits until `START_MS` are there, makes
up what is missing, and takes a frame out when more than that has waited for `SETTLE_FRAMES`. What the model is to
hear waits for its turn to be cut (`pull`), which another thread does; all else belongs to the clock's.

Its one rule: whatever it is given, it raises nothing. What is no sound is silence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from media.chunk import PCM
from media.conceal import Concealer, shorten
from media.timebase import FRAME_MS, samples_of

START_MS: Final = 40
"""So much waits before a line is heard: what a packet of 20 ms may be late by, twice."""
SETTLE_FRAMES: Final = 100
"""2 s in which a frame too much has always waited: it is taken out."""
MOST_MS: Final = 200
"""More than that is not kept, whatever it was that held it up."""
PATIENT_FRAMES: Final = 3
"""Made up in a row; then the concealer is silent, and the line begins anew."""
MOST_FRAMES: Final = 50
"""A second that the model may have missed; beyond it the oldest go."""

Pull = Callable[[], PCM | None]
"""The oldest 20 ms of a line, int16; None where there should be some."""


def mix(samples: int, *sounds: PCM | bytes | None) -> PCM:
    """int16 [samples]: the saturating sum of what is there. What is shorter ends in silence, what is longer is
    cut."""
    total = np.zeros(samples, np.int32)
    for sound in sounds:
        if sound is None:
            continue
        pcm = _as_pcm(sound)[:samples]
        total[: len(pcm)] += pcm
    return np.clip(total, -32_768, 32_767).astype(np.int16)


def _as_pcm(sound: PCM | bytes) -> PCM:
    """int16, of whatever came."""
    if isinstance(sound, bytes):
        return np.frombuffer(sound[: len(sound) // 2 * 2], np.int16)
    if isinstance(sound, np.ndarray) and sound.ndim == 1 and sound.dtype == np.int16:
        return sound
    return np.zeros(0, np.int16)


@dataclass(slots=True)
class LaneCounters:
    """Frames of 20 ms."""

    heard: int = 0
    made_up: int = 0
    left_out: int = 0


class Lane:
    """One line, a frame at each tick."""

    def __init__(self, rate_hz: int) -> None:
        self.counters = LaneCounters()
        self._rate_hz, self._frame = rate_hz, samples_of(FRAME_MS, rate_hz)
        self._conceal = Concealer(rate_hz)
        self._is_filling = True
        self._missing = 0
        self._least_ms, self._ticks = MOST_MS, 0

    def next(self, waiting_ms: int | None, pull: Pull) -> PCM | None:
        """int16 [20 ms], or None: nothing to be heard. `waiting_ms` of sound can be pulled; None is no line, or one
        on hold."""
        if waiting_ms is None:
            self._is_filling, self._missing = True, 0
            return None
        if self._is_filling:
            if waiting_ms < START_MS:
                return None
            self._is_filling, self._missing = False, 0
            self._least_ms, self._ticks = MOST_MS, 0
        if waiting_ms < FRAME_MS:
            return self._make_up()
        if waiting_ms > MOST_MS:
            for _ in range((waiting_ms - START_MS) // FRAME_MS):
                pull()
                self.counters.left_out += 1
        return self._take(self._surplus(waiting_ms), pull)

    def _surplus(self, waiting_ms: int) -> bool:
        """Whether a frame is to be taken out now."""
        self._least_ms, self._ticks = min(self._least_ms, waiting_ms), self._ticks + 1
        if self._ticks < SETTLE_FRAMES:
            return False
        found, self._least_ms, self._ticks = self._least_ms, MOST_MS, 0
        return found >= START_MS + FRAME_MS

    def _take(self, surplus: bool, pull: Pull) -> PCM | None:
        frame = pull()
        if surplus:
            self.counters.left_out += 1
            more = pull()
            if frame is not None and more is not None and len(frame) == len(more) == self._frame:
                frame, _ = shorten(np.concatenate((frame, more)), self._frame, self._rate_hz)
            else:
                frame = more
        if frame is None:
            return self._make_up()
        self._missing = 0
        self.counters.heard += 1
        return self._conceal.receive(mix(self._frame, frame))

    def _make_up(self) -> PCM:
        self._missing += 1
        self.counters.made_up += 1
        self._is_filling = self._missing >= PATIENT_FRAMES
        return self._conceal.conceal(self._frame)


class Conference:
    """Of one caller, from the moment the person is there until `close`."""

    def __init__(self, rate_hz: int, waiting: Iterable[PCM | None] = ()) -> None:
        """`waiting` is what the caller has said since the last turn was cut: the model hears it first."""
        self.caller, self.person = Lane(rate_hz), Lane(rate_hz)
        self.is_closed = False
        self.unheard = 0
        """Frames that the model did not hear: nobody has cut a turn."""
        self._frame = samples_of(FRAME_MS, rate_hz)
        self._to_model: deque[PCM | None] = deque(waiting, maxlen=MOST_FRAMES)
        self._said_by_caller: PCM | None = None
        self._said_by_person: PCM | None = None
        self._said_by_model: bytes | None = None

    # -- in the clock's thread

    def tick(
        self, caller_ms: int | None, pull_caller: Pull, person_ms: int | None, pull_person: Pull
    ) -> None:
        """The next 20 ms of both lines; before any ear asks."""
        made_up = self.caller.counters.made_up + self.person.counters.made_up
        heard = self.caller.counters.heard + self.person.counters.heard
        caller = self._said_by_caller = self.caller.next(caller_ms, pull_caller)
        person = self._said_by_person = self.person.next(person_ms, pull_person)
        made_up = self.caller.counters.made_up + self.person.counters.made_up - made_up
        is_lost = made_up and self.caller.counters.heard + self.person.counters.heard == heard
        self.unheard += len(self._to_model) == MOST_FRAMES
        # of what nobody has really said the model's own concealer says that it was made up
        self._to_model.append(None if is_lost else mix(self._frame, caller, person))

    def for_caller(self, model: bytes) -> bytes:
        """20 ms for the caller's ear, with what the model says in them."""
        if self.is_closed:
            return model
        self._said_by_model = model
        return mix(self._frame, model, self._said_by_person).tobytes()

    def for_person(self) -> bytes:
        """20 ms for the person's ear; silence once it is closed. The model's are those that the caller got last,
        once: while the caller holds, the model says nothing to anybody."""
        if self.is_closed:
            return bytes(2 * self._frame)
        model, self._said_by_model = self._said_by_model, None
        return mix(self._frame, self._said_by_caller, model).tobytes()

    # -- in the thread that cuts the caller's turns

    @property
    def waiting_ms(self) -> int:
        """Of sound for the model."""
        return len(self._to_model) * FRAME_MS

    def pull(self) -> PCM | None:
        """The oldest 20 ms for the model, int16; None where there should be some, or where nothing waits."""
        return self._to_model.popleft() if self._to_model else None

    def close(self) -> None:
        """There are two again. What waits for the model can still be pulled."""
        self.is_closed = True
