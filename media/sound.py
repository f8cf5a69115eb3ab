"""One packet leg's samples between decoding and the cut: decoded, given back, made up, and the account of which.

`JitterBuffer` says what happens next in the stream; here it becomes sound. Knows no packets, order or time. Its
one rule: samples are never lost from the account. At any time

    taken + waiting = decoded + recovered + concealed + comfort + padded + stretched - shortened - retracted
    made up, in what was taken and what waits = concealed - retracted
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from media.chunk import PCM
from media.made_up import MadeUp, Runs, fitted, total
from media.timebase import FRAME_MS, samples_of

HOLD_MS, FADE_MS = 60, 120
"""Concealment as it comes, then fading, then silence: after so long nothing true can be said about the sound."""
PAUSE_MS = 1_000
"""A sender in DTX speaks up every 400 ms; a second without is absence."""


class Decoder(Protocol):
    """A codec's receiving half, at the leg's rate. Bytes from a peer never raise."""

    def decode(self, payload: bytes) -> PCM:
        """One packet's samples; none when it cannot be decoded."""

    def recover(self, following: bytes, samples: int) -> PCM:
        """The `samples` before `following`, from its FEC."""

    def conceal(self, samples: int) -> PCM:
        """`samples` that go on from what was decoded last."""

    def duration(self, payload: bytes) -> int:
        """Samples; 0 when it is no packet of the codec."""

    def recoverable(self, payload: bytes) -> int:
        """Samples before the packet that its FEC gives back; 0 when it has none."""

    def is_pause(self, payload: bytes) -> bool:
        """Whether the sender suppresses silence from here on."""


@dataclass(slots=True)
class SampleAccount:
    """Samples at the leg's rate, since the leg began."""

    decoded: int = 0
    recovered: int = 0
    """From the FEC of the packet after."""
    concealed: int = 0
    """Made up: the decoder's concealment, then silence; and of that what was said twice."""
    comfort: int = 0
    """Noise in silence that the sender suppressed."""
    padded: int = 0
    """In front of the first packet."""
    stretched: int = 0
    """Said twice, of what was not made up."""
    shortened: int = 0
    """Taken out, of what was not made up."""
    retracted: int = 0
    """Taken out, of what was made up: no chunk has it."""


class Sound:
    """Decoded samples that wait for their cut: less than a turn, a packet and a fill."""

    def __init__(self, decoder: Decoder, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.account = SampleAccount()
        self.waiting = 0
        self.paused = False
        """The sender said that it suppresses silence."""
        self._decoder = decoder
        self._frame = samples_of(FRAME_MS, rate_hz)
        self._hold, self._fade = samples_of(HOLD_MS, rate_hz), samples_of(FADE_MS, rate_hz)
        self._parts: list[PCM] = []  # `waiting` samples in all
        self._made_up = MadeUp()  # of those
        self._run = 0  # samples made up in a row

    @property
    def is_silent(self) -> bool:
        """Nothing is being said that a gap would tear apart."""
        return self.paused or self._run >= self._fade

    def decode(self, payload: bytes, samples: int) -> bool:
        """One packet that should be `samples`; concealed, and False, when it cannot be decoded."""
        pcm = self._decoder.decode(payload)
        if not len(pcm):
            self.conceal(samples)
            return False
        self.paused = self._decoder.is_pause(payload)
        self._run = 0
        self.account.decoded += len(pcm)
        self._append(pcm)
        return True

    def recover(self, following: bytes, samples: int) -> None:
        """`samples` of a lost packet in front of `following`: as much as that one's FEC has, else concealed."""
        known = self._decoder.recoverable(following)
        if not 0 < known <= samples:
            self.conceal(samples)
            return
        self.conceal(samples - known)
        self._append(self._decoder.recover(following, known))
        self.account.recovered += known
        self._run, self.paused = 0, False

    def make_up(self, samples: int) -> None:
        """While nothing is here: comfort noise in a pause that is not too long, else concealment."""
        if self.paused and self._run < samples_of(PAUSE_MS, self.rate_hz):
            self.comfort(samples)
        else:
            self.paused = False
            self.conceal(samples)

    def comfort(self, samples: int) -> None:
        """Silence that the sender suppressed: the decoder's noise."""
        for start in range(0, samples, self._frame):
            self._append(self._decoder.conceal(min(self._frame, samples - start)))
        self.account.comfort += samples
        self._run += samples

    def conceal(self, samples: int) -> None:
        """What should be here and is not: the decoder's guess, fading with the length of the run."""
        self._made_up.add(self.waiting, samples)
        for start in range(0, samples, self._frame):
            self._append(self._guess(min(self._frame, samples - start)))
        self.account.concealed += samples

    def pad(self, samples: int) -> None:
        """In front of a leg's first sound."""
        self._append(np.zeros(samples, np.int16))
        self.account.padded += samples

    def drop(self) -> None:
        """What waits is of no use any more."""
        made_up = total(self._made_up.take(self.waiting))
        self.account.retracted += made_up
        self.account.shortened += self.waiting - made_up
        self._parts, self.waiting = [], 0

    def take(self, samples: int, surplus: int) -> tuple[PCM, Runs]:
        """int16 [samples], made of `surplus` more (or, negative, fewer) of those that wait; which are made up."""
        pcm, count, account = np.concatenate(self._parts), samples + surplus, self.account
        self._parts, self.waiting = [pcm[count:]], len(pcm) - count
        waited = self._made_up.take(count)
        if not surplus:
            return pcm[:count], waited
        taken, made_up = fitted(pcm[:count], waited, samples, self.rate_hz)
        change = total(made_up) - total(waited)
        if surplus > 0:
            account.retracted -= change
            account.shortened += surplus + change
        else:
            account.concealed += change
            account.stretched -= surplus + change
        return taken, made_up

    def _guess(self, samples: int) -> PCM:
        run, self._run = self._run, self._run + samples
        if run >= self._fade or not self.account.decoded:
            return np.zeros(samples, np.int16)
        pcm = self._decoder.conceal(samples)
        if run + samples <= self._hold:
            return pcm
        gain = np.clip((self._fade - run - np.arange(samples)) / (self._fade - self._hold), 0.0, 1.0)
        return (pcm * gain).astype(np.int16)

    def _append(self, pcm: PCM) -> None:
        self._parts.append(pcm)
        self.waiting += len(pcm)
