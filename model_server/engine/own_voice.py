"""Our own speech as the caller heard it, put together from what was sent and how much of it was played.

A reply plays while the next turn is captured, a little late: when a chunk is cut, the end of the newest reply is
still queued (its *lag*, the same for the whole call). So a chunk reports the end of one reply and the beginning of
the next. The network takes whole replies: the one before this chunk was heard, or it was not.

One rule: sent samples that are never reported (a late reply, a cut one) are forgiven at once, or every later reply
would be taken for an earlier one.
"""

from __future__ import annotations

import numpy as np

from media.chunk import PCM
from media.timebase import TURN_SAMPLES

SILENCE = np.zeros(TURN_SAMPLES, np.int16)
_JITTER_SAMPLES = 640
"""Two frames: a chunk may be cut so much earlier or later against the playout."""


class OwnVoice:
    """Of one call."""

    def __init__(self) -> None:
        self._sent: PCM | None = None
        self._owed = 0
        """Samples sent and not reported yet."""
        self._lag: int | None = None

    def send(self, pcm: PCM, flushed: bool = False) -> None:
        """The reply to this turn, int16 [3200]; `flushed`: what was queued before it was cut."""
        if flushed:
            self._owed = max(0, self._owed - (self._lag or 0))
        self._sent = pcm
        self._owed += TURN_SAMPLES

    def heard(self, played_samples: int) -> PCM:
        """int16 [3200] of the turn before: what we said in it, or silence where the caller did not hear it."""
        self._owed = max(0, self._owed - played_samples)
        sent, self._sent = self._sent, None
        if sent is None:
            return SILENCE
        if self._lag is None:
            return self._first(sent)
        missing = self._owed - self._lag
        if missing > max(_JITTER_SAMPLES, (TURN_SAMPLES - self._lag) // 2):
            self._owed = max(0, self._owed - TURN_SAMPLES)
            return SILENCE
        if abs(missing) <= _JITTER_SAMPLES:
            self._lag = self._owed
        return sent

    def _first(self, sent: PCM) -> PCM:
        """How much of the first reply was heard says what the lag is; none at all says nothing."""
        if self._owed >= TURN_SAMPLES:
            self._owed = 0
            return SILENCE
        self._lag = self._owed
        return sent
